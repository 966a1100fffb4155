"""Writing token stores, in parallel and resumable.

One process reads the documents in order, and others encode them (`encode`).
The encoded documents are saved in files under `parts/`, each with the place
where it ends. At the end they are joined into the arrays, and `metadata.json`
is written last. After a crash, the same call resumes after the last part.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import hashlib
import io
import json
import math
import os
import time
import types
from typing import Any

from etils import epath
import numpy as np

from drope_jax.data import encode, lock, reading, whole_file
from drope_jax.data import metadata as metadata_lib
from drope_jax.data import paths as paths_lib
from drope_jax.data import sources as sources_lib
from drope_jax.data import store as store_lib
from drope_jax.data import tokenizer as tokenizer_lib

# A worker's batch, in characters or ids, and how long to wait for a full one.
_BATCH_SIZE = 1 << 18
_BATCH_S = 1.0

# The most work that a kill can lose, beside the batches in progress.
_PART_TOKENS = 1 << 22
_PART_S = 60.0

# Kinds of documents that are left out, in the order of a part's counts.
_SKIPPED = ("null", "bad", "empty")


def write(
  out: str | os.PathLike,
  sources: Sequence[sources_lib.Source],
  tokenizer_path: str,
  *,
  workers: int = 1,
  max_tokens: int | None = None,
  provenance: Mapping[str, Any] = types.MappingProxyType({}),
  on_progress: Callable[[int, int], None] = lambda sources, tokens: None,
  on_skip: Callable[[reading.Skipped], None] = lambda skipped: None,
) -> store_lib.Store:
  """Returns the store at `out` with every document of `sources`, in order.

  EOS ends each document; it is not added to ids that end in EOS already. Empty
  documents, and those that a source marks as skipped, are left out and counted.
  The content does not depend on `workers` or on interruptions. A finished store
  of the same sources and tokenizer is returned unchanged.

  Args:
    out: a folder that is absent, empty, or begun by the same call.
    sources: where documents come from.
    tokenizer_path: as for `tokenizer.load`.
    workers: processes that encode; 1 encodes in this process.
    max_tokens: stop after the document that reaches this many tokens. Documents
      must then be ids that end in EOS.
    provenance: see `Metadata`.
    on_progress: called repeatedly with the number of finished sources and of
      tokens, including those of earlier calls.
    on_skip: called with each document that a source marks as skipped, except
      those of earlier calls.

  Raises:
    ValueError: `out` holds something else, another process writes it, there is
      no text, or a document cannot be read.
  """
  tokenizer = tokenizer_lib.load(tokenizer_path)
  folder = paths_lib.output(out)
  out = os.fspath(folder)
  parts = folder / "parts"
  plan = _plan(sources, tokenizer, max_tokens)
  if not (folder / metadata_lib.FILE).exists():
    with lock.held(folder) as require_held:
      _begin(folder, plan, sources)
      paths = _write_parts(
        parts,
        sources,
        tokenizer,
        workers,
        max_tokens,
        on_progress,
        on_skip,
        require_held,
      )
      metadata = _join(out, paths, tokenizer, plan, provenance)
      require_held()
      whole_file.write(
        folder / metadata_lib.FILE, metadata_lib.encode(metadata)
      )
  store = store_lib.Store.open(out)
  if store.metadata.plan != plan:
    raise _occupied(out, "a finished store of other inputs")
  if parts.exists():
    parts.rmtree()
  return store


def _plan(
  sources: Sequence[sources_lib.Source],
  tokenizer: tokenizer_lib.Tokenizer,
  max_tokens: int | None,
) -> str:
  identities: list[Any] = [
    tokenizer.fingerprint,
    *(s.identity() for s in sources),
  ]
  if max_tokens is not None:
    identities.append(max_tokens)
  return hashlib.sha256(json.dumps(identities).encode()).hexdigest()


def _begin(
  folder: epath.Path, plan: str, sources: Sequence[sources_lib.Source]
) -> None:
  file = folder / "parts" / "plan"
  if file.exists():
    if any(isinstance(s, sources_lib.StandardInput) for s in sources):
      what = "an unfinished store (standard input cannot be resumed)"
      raise _occupied(str(folder), what)
    if file.read_text() != plan:
      raise _occupied(str(folder), "an unfinished store of other inputs")
  elif folder.exists() and any(
    p.name not in ("parts", lock.FILENAME) for p in folder.iterdir()
  ):
    raise _occupied(str(folder), "other files")
  else:
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    whole_file.write(file, plan.encode())


def _occupied(out: str, what: str) -> ValueError:
  return ValueError(
    f"A token store needs its own folder, got {out} with {what} in it. "
    "Choose another, or delete it."
  )


def _write_parts(
  folder: epath.Path,
  sources: Sequence[sources_lib.Source],
  tokenizer: tokenizer_lib.Tokenizer,
  workers: int,
  max_tokens: int | None,
  on_progress: Callable[[int, int], None],
  on_skip: Callable[[reading.Skipped], None],
  require_held: Callable[[], None],
) -> list[epath.Path]:
  """Writes the missing parts; returns the paths of all, in order.

  At Ctrl-C, SIGTERM and a document that cannot be read it first writes the
  documents encoded so far.
  """
  paths = sorted(folder.glob("*.npz"))
  first, done = _load(paths[-1], "next").tolist() if paths else (0, 0)
  num_tokens = sum(int(_load(path, "lengths").sum()) for path in paths)
  on_progress(first, num_tokens)
  held: list[encode.Encoded] = []

  def save() -> None:
    if not held:
      return
    path = folder / f"{len(paths):06d}.npz"
    require_held()
    _write_part(path, held)
    held.clear()  # Before `append`: an interrupt must not save it twice.
    paths.append(path)

  tokens_left = math.inf if max_tokens is None else max_tokens - num_tokens
  batches = _batches(sources, first, done, tokens_left, on_skip)
  part_ends = time.monotonic() + _PART_S
  try:
    for encoded in encode.encode_in_order(batches, tokenizer, workers):
      held.append(encoded)
      num_tokens += len(encoded.tokens)
      if (
        sum(len(encoded.tokens) for encoded in held) >= _PART_TOKENS
        or time.monotonic() >= part_ends
        or encoded.next_source == len(sources)
      ):
        save()
        part_ends = time.monotonic() + _PART_S
      on_progress(encoded.next_source, num_tokens)
  except (KeyboardInterrupt, ValueError):
    save()
    raise
  return paths


def _batches(
  sources: Sequence[sources_lib.Source],
  first: int,
  done: int,
  tokens_left: float,
  on_skip: Callable[[reading.Skipped], None],
) -> Iterator[encode.Batch]:
  """Yields the documents of source `first` after its first `done`, and so on.

  Small sources share a batch. The last batch, which may be empty, points to the
  end, and so does the batch that reaches `tokens_left`.
  """
  documents: list[encode.Document] = []
  names: list[str] = []
  size, skipped = 0, Counter[str]()
  batch_ends = time.monotonic() + _BATCH_S

  def batch(next_source: int, next_document: int) -> encode.Batch:
    name = " to ".join(dict.fromkeys([*names[:1], *names[-1:]]))
    return encode.Batch(documents, name, next_source, next_document, skipped)

  for index, source in enumerate(sources[first:], first):
    names.append(source.name)
    for number, document in enumerate(source.documents(done), done + 1):
      if isinstance(document, reading.Skipped):
        skipped[document.kind] += 1
        on_skip(document)
        continue
      documents.append(document)
      size += len(document)
      if size >= tokens_left:
        yield batch(len(sources), 0)
        return
      if size >= _BATCH_SIZE or time.monotonic() >= batch_ends:
        yield batch(index, number)
        tokens_left -= size
        documents, names = [], [source.name]
        size, skipped = 0, Counter[str]()
        batch_ends = time.monotonic() + _BATCH_S
    done = 0
  if first < len(sources):
    yield batch(len(sources), 0)


def _write_part(path: epath.Path, held: Sequence[encode.Encoded]) -> None:
  last, data = held[-1], io.BytesIO()
  np.savez(
    data,
    tokens=np.concatenate([encoded.tokens for encoded in held]),
    lengths=np.concatenate([encoded.lengths for encoded in held]),
    next=np.array([last.next_source, last.next_document], np.int64),
    skipped=np.array([[e.skipped[kind] for kind in _SKIPPED] for e in held]),
  )
  whole_file.write(path, data.getvalue())


def _join(
  out: str,
  paths: Sequence[epath.Path],
  tokenizer: tokenizer_lib.Tokenizer,
  plan: str,
  provenance: Mapping[str, Any],
) -> metadata_lib.Metadata:
  """Joins the parts into the store's arrays; returns its metadata."""
  lengths = np.concatenate([_load(path, "lengths") for path in paths])
  boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
  num_tokens = int(boundaries[-1])
  if not num_tokens:
    raise ValueError(
      "A token store needs text, got only empty inputs. Check them."
    )
  dtype = metadata_lib.token_dtype(tokenizer.vocab_size)
  array = store_lib.create_array(out, "tokens", num_tokens, dtype)
  digest, start = hashlib.sha256(), 0
  for slab in _slabs(_load(path, "tokens") for path in paths):
    array[start : start + len(slab)].write(slab).result()
    digest.update(slab.tobytes())
    start += len(slab)
  array = store_lib.create_array(
    out, "boundaries", len(boundaries), boundaries.dtype
  )
  array.write(boundaries).result()
  digest.update(boundaries.tobytes())
  skipped = np.concatenate([_load(path, "skipped") for path in paths]).sum(0)
  folder = epath.Path(out)
  files = []
  for name in ("tokens", "boundaries"):
    files += [folder / name / "zarr.json", *(folder / name / "c").iterdir()]
  names = [str(file.relative_to(folder)) for file in sorted(files)]
  return metadata_lib.Metadata(
    num_tokens=num_tokens,
    num_documents=len(lengths),
    vocab_size=tokenizer.vocab_size,
    eos_id=tokenizer.eos_id,
    tokenizer_fingerprint=tokenizer.fingerprint,
    fingerprint=digest.hexdigest(),
    plan=plan,
    file_bytes=store_lib.file_bytes(out, names),
    skipped=dict(zip(_SKIPPED, skipped.tolist(), strict=True)),
    provenance=dict(provenance),
  )


def _slabs(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the same tokens in arrays of the size of the store's files."""
  size, held = store_lib.FILE_TOKENS, 0
  pending: list[np.ndarray] = []
  for array in arrays:
    while held + len(array) >= size:
      cut = size - held
      yield np.concatenate([*pending, array[:cut]])
      array, held, pending = array[cut:], 0, []
    pending.append(array)
    held += len(array)
  if held:
    yield np.concatenate(pending)


def _load(path: epath.Path, name: str) -> np.ndarray:
  with path.open("rb") as file, np.load(file) as part:
    if name not in part:
      folder = str(path.parent.parent)
      raise _occupied(folder, "an unfinished store of another version")
    return part[name]
