"""Objects in the bucket, by which the launcher and the hosts communicate.

The launcher reads and writes them by gcloud, with the rights of its user.
"""

from collections.abc import Mapping
import json
import pathlib
import tempfile
from typing import Any

from launch import commands
from launch.commands import Command, Run

_TRIES = 5


def copy(source: str, url: str) -> Command:
  """Returns the command that uploads a local file.

  Source: gcloud reference, storage cp.
  """
  return Command(("gcloud", "storage", "cp", source, url))


def write(
  url: str, content: Mapping[str, Any], generation: str | None = None
) -> Command:
  """Returns the command that writes JSON, which it reads from its input.

  Args:
    url: of the object.
    content: of the object.
    generation: that the object must have; "0": it must not exist; None: any.

  Source: gcloud reference, storage cp.
  """
  guard = () if generation is None else (f"--if-generation-match={generation}",)
  text = json.dumps(content, indent=1) + "\n"
  return Command(("gcloud", "storage", "cp", *guard, "-", url), stdin=text)


def cat(url: str) -> Command:
  """Returns the command that prints an object.

  Source: gcloud reference, storage cat.
  """
  return Command(("gcloud", "storage", "cat", url))


def fetch(pattern: str, folder: str) -> Command:
  """Returns the command that brings what a folder lacks of matching objects.

  Source: gcloud reference, storage cp.
  """
  flags = ("--no-clobber", "--continue-on-error")
  return Command(("gcloud", "storage", "cp", *flags, pattern, f"{folder}/"))


def end_of(url: str, count: int) -> Command:
  """Returns the command that prints an object's last bytes."""
  return Command(("gcloud", "storage", "cat", f"--range=-{count}", url))


def remove(url: str) -> Command:
  """Returns the command that removes an object.

  Source: gcloud reference, storage rm.
  """
  return Command(("gcloud", "storage", "rm", url), settled_by=("missing",))


def remove_folder(url: str) -> Command:
  """Returns the command that removes a folder with all objects in it."""
  return Command(
    ("gcloud", "storage", "rm", "--recursive", url), settled_by=("missing",)
  )


def describe(url: str) -> Command:
  """Returns the command that prints an object's generation.

  Source: gcloud reference, storage objects describe.
  """
  return Command(
    ("gcloud", "storage", "objects", "describe", url, "--format=json")
  )


def read(url: str, do: Run) -> str | None:
  """Returns an object's content; None: there is none.

  Raises:
    Failed: it could not be read.
  """
  return _unless_none(cat(url), do) or None


def read_all(pattern: str, do: Run) -> list[str]:
  """Returns the contents of all objects that match a pattern.

  Raises:
    Failed: one of them could not be read.
  """
  with tempfile.TemporaryDirectory() as folder:
    _unless_none(fetch(pattern, folder), do)
    names = pathlib.PurePath(pattern).name
    found = sorted(pathlib.Path(folder).glob(names))
    return [file.read_text("utf-8") for file in found]


def read_end(url: str, count: int, do: Run) -> str | None:
  """Returns an object's last bytes; None: there is none.

  Raises:
    Failed: it could not be read.
  """
  return _unless_none(end_of(url, count), do) or None


def generation(url: str, do: Run) -> str:
  """Returns an object's generation; "0": it does not exist.

  Raises:
    Failed: it could not be read.
  """
  try:
    found = do(describe(url))
  except commands.Failed as failed:
    if failed.kind == "missing":
      return "0"
    raise
  return str(json.loads(found)["generation"]) if found else "0"


def _unless_none(command: Command, do: Run) -> str | None:
  """Runs a command that reads; returns None if no object matched.

  gcloud lists objects first, and then asks for the generations that it found.
  One that is written meanwhile is "not found", but there.
  """
  for left in reversed(range(_TRIES)):
    try:
      return do(command)
    except commands.Failed as failed:
      if "matched no objects" in failed.said:
        return None
      if failed.kind != "missing" or not left:
        raise
  raise AssertionError("the last try returns or raises")
