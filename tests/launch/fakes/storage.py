"""`gcloud storage`, on an emulator of Cloud Storage."""

import fnmatch
import json
import os
import pathlib
import sys
from urllib import error, parse, request


def run(name: str, words: list[str], flags: dict[str, str]) -> None:
  """Does what one of its commands does.

  Raises:
    LookupError: an object is missing.
    ValueError: an object has another generation.
  """
  verb = name.removeprefix("gcloud storage ")
  if verb == "cp":
    source, url = words
    if source.startswith("gs://"):
      _download(source, pathlib.Path(url))
      return
    content = (
      sys.stdin.buffer.read()
      if source == "-"
      else pathlib.Path(source).read_bytes()
    )
    put(url, content, flags.get("if-generation-match"))
  elif verb == "cat":
    found = b"".join(_get(*item) for item in _matching(words[0]))
    if "range" in flags:
      found = found[int(flags["range"]) :]
    sys.stdout.buffer.write(found)
  elif verb == "rm":
    bucket, prefix = split(words[0])
    whole = f"{prefix}/" if "recursive" in flags else prefix
    for item in listed(bucket, whole) or _missing(words[0]):
      quoted = parse.quote(item["name"], safe="")
      _ask(f"/storage/v1/b/{bucket}/o/{quoted}", method="DELETE")
  elif verb == "objects describe":
    bucket, path = split(words[0])
    found = [i for i in listed(bucket, path) if i["name"] == path]
    (item,) = found or _missing(words[0])
    print(json.dumps({"generation": item["generation"]}))
  else:
    raise ValueError(f"the fake has no {name}")


def split(url: str) -> tuple[str, str]:
  """Returns a URL's bucket and path."""
  bucket, _, path = url.removeprefix("gs://").partition("/")
  return bucket, path


def listed(bucket: str, prefix: str) -> list[dict]:
  """Returns the objects whose names begin so."""
  query = parse.urlencode({"prefix": prefix, "maxResults": 10_000})
  found = json.loads(_ask(f"/storage/v1/b/{bucket}/o?{query}"))
  return sorted(found.get("items", []), key=lambda item: item["name"])


def _download(pattern: str, folder: pathlib.Path) -> None:
  """Does as cp with --no-clobber and --continue-on-error."""
  failures = []
  for url, generation in _matching(pattern):
    file = folder / url.rpartition("/")[2]
    if not file.exists():
      try:
        file.write_bytes(_get(url, generation))
      except LookupError as failed:
        failures.append(str(failed))
  if failures:
    raise LookupError("\n".join(failures))


def _matching(url: str) -> list[tuple[str, str]]:
  """Returns the URLs and generations of the objects that match a pattern."""
  bucket, pattern = split(url)
  found = [
    (f"gs://{bucket}/{item['name']}", item["generation"])
    for item in listed(bucket, pattern.partition("*")[0])
    if fnmatch.fnmatchcase(item["name"], pattern)
  ]
  return found or _missing(url)


def _missing(url: str):
  raise LookupError(f"The following URLs matched no objects or files: {url}")


def _get(url: str, generation: str) -> bytes:
  """Returns a generation of an object, as gcloud asks for what it listed."""
  bucket, path = split(url)
  quoted = parse.quote(path, safe="")
  query = f"alt=media&generation={generation}"
  try:
    return _ask(f"/storage/v1/b/{bucket}/o/{quoted}?{query}")
  except error.HTTPError as failed:
    if failed.code == 404:
      raise LookupError(f"{url}#{generation} not found: 404.") from failed
    raise


def put(url: str, content: bytes, generation: str | None = None) -> None:
  """Writes an object, if there is the generation that it goes on from."""
  bucket, path = split(url)
  query = {"uploadType": "media", "name": path}
  if generation is not None:
    query["ifGenerationMatch"] = generation
  try:
    _ask(f"/upload/storage/v1/b/{bucket}/o?{parse.urlencode(query)}", content)
  except error.HTTPError as failed:
    if failed.code == 412:
      raise ValueError("HTTPError 412: conditionNotMet") from failed
    raise


def _ask(path: str, content: bytes | None = None, method: str | None = None):
  address = os.environ["STORAGE_EMULATOR_HOST"] + path
  asked = request.Request(address, data=content, method=method)
  if content is not None:
    asked.add_header("Content-Type", "application/octet-stream")
  with request.urlopen(asked) as answer:
    return answer.read()
