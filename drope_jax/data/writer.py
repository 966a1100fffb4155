"""Writing token stores, in parallel over sources, and resumable.

Each source becomes a part under `parts/`; when all are there they are joined
into the arrays, and `metadata.json` is written last. Killed anywhere, the same
call goes on with the parts that are missing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import signal
from typing import TypeVar

from etils import epath
import numpy as np

from drope_jax.data import sources as sources_lib
from drope_jax.data import store as store_lib
from drope_jax.data import tokenizer as tokenizer_lib

T = TypeVar("T")

_BATCH_DOCUMENTS = 64


def write(
  out: str,
  sources: Sequence[sources_lib.Source],
  tokenizer_path: str,
  *,
  workers: int = 1,
  on_part: Callable[[int], None] = lambda num_tokens: None,
) -> store_lib.Store:
  """Returns the store at `out` with every document of `sources`, in order.

  EOS ends each document (once, where ids bring their own); empty documents are
  left out. The content does not depend on `workers` or on interruptions. A
  finished store of the same sources and tokenizer is returned as it is.

  Args:
    out: a folder that is absent, empty, or begun by the same call.
    sources: the shards; one worker reads one at a time, in memory.
    tokenizer_path: as for `tokenizer.load`.
    workers: processes; 1 works in this one.
    on_part: called with its tokens when a source is done (or was before).

  Raises:
    ValueError: `out` holds something else, or there is no text.
  """
  tokenizer = tokenizer_lib.load(tokenizer_path)
  folder = epath.Path(out)
  plan = _plan(sources, tokenizer)
  if (folder / store_lib.METADATA).exists():
    store = store_lib.Store.open(out)
    if store.metadata.plan != plan:
      raise _occupied(out, "a finished store of other inputs")
    return store
  _begin(folder, plan)
  paths = [folder / "parts" / f"{i:06d}.npz" for i in range(len(sources))]
  missing = []
  for source, path in zip(sources, paths, strict=True):
    if path.exists():
      on_part(int(_load(path, "lengths").sum()))
    else:
      missing.append((source, tokenizer_path, str(path)))
  for num_tokens in _mapped(missing, workers):
    on_part(num_tokens)
  metadata = _join(out, paths, tokenizer, plan)
  _write_atomically(
    folder / store_lib.METADATA, json.dumps(dataclasses.asdict(metadata))
  )
  (folder / "parts").rmtree()
  return store_lib.Store.open(out)


def _plan(
  sources: Sequence[sources_lib.Source], tokenizer: tokenizer_lib.Tokenizer
) -> str:
  identities = [tokenizer.fingerprint, *(s.identity() for s in sources)]
  return hashlib.sha256(json.dumps(identities).encode()).hexdigest()


def _begin(folder: epath.Path, plan: str) -> None:
  file = folder / "parts" / "plan"
  if file.exists():
    if file.read_text() != plan:
      raise _occupied(str(folder), "an unfinished store of other inputs")
  elif folder.exists() and any(p.name != "parts" for p in folder.iterdir()):
    raise _occupied(str(folder), "other files")
  else:
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    _write_atomically(file, plan)


def _occupied(out: str, what: str) -> ValueError:
  return ValueError(
    f"A token store needs a folder of its own, got {out} with {what} in it. "
    "Choose another, or delete it."
  )


def _mapped(jobs: Sequence[tuple], workers: int) -> Iterator[int]:
  if workers == 1 or len(jobs) < 2:
    yield from map(_tokenize, jobs)
    return
  others = set(multiprocessing.active_children())
  # Spawned, since a fork after JAX has started its threads can deadlock; and
  # Ctrl-C ends a worker without a word, for this process to explain.
  with concurrent.futures.ProcessPoolExecutor(
    min(workers, len(jobs)),
    multiprocessing.get_context("spawn"),
    initializer=signal.signal,
    initargs=(signal.SIGINT, signal.SIG_DFL),
  ) as pool:
    futures = [pool.submit(_tokenize, job) for job in jobs]
    try:
      for future in concurrent.futures.as_completed(futures):
        yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise ValueError(
        f"{workers} workers need memory for one input each, got one killed. "
        "Use fewer workers, or cut the largest input; then run this again."
      ) from error
    finally:
      if not all(future.done() for future in futures):
        for child in set(multiprocessing.active_children()) - others:
          child.terminate()


def _tokenize(job: tuple[sources_lib.Source, str, str]) -> int:
  source, tokenizer_path, part = job
  tokenizer = tokenizer_lib.load(tokenizer_path)
  dtype = token_dtype(tokenizer.vocab_size)
  documents = []
  for batch in _batched(source.documents(), _BATCH_DOCUMENTS):
    if isinstance(batch[0], str):
      batch = tokenizer.encode_batch(batch)
    for ids in filter(len, batch):
      ended = ids if ids[-1] == tokenizer.eos_id else [*ids, tokenizer.eos_id]
      documents.append(np.array(ended, dtype))
  tokens = np.concatenate(documents or [np.zeros(0, dtype)])
  if len(tokens) and tokens.max() >= tokenizer.vocab_size:
    raise ValueError(
      f"Ids below the tokenizer's {tokenizer.vocab_size} are needed, got "
      f"{tokens.max()} from {source.name}. Encode with that tokenizer."
    )
  temporary = epath.Path(part + ".tmp")
  with temporary.open("wb") as file:
    np.savez(
      file, tokens=tokens, lengths=np.array([*map(len, documents)], np.int64)
    )
  temporary.replace(part)
  return len(tokens)


def _join(
  out: str,
  paths: Sequence[epath.Path],
  tokenizer: tokenizer_lib.Tokenizer,
  plan: str,
) -> store_lib.Metadata:
  """Writes the arrays of the store from its parts."""
  lengths = np.concatenate([_load(path, "lengths") for path in paths])
  boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
  num_tokens = int(boundaries[-1])
  if not num_tokens:
    raise ValueError(
      "A token store needs text, got inputs without a character. Check them."
    )
  dtype = token_dtype(tokenizer.vocab_size)
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
  folder = epath.Path(out)
  files = []
  for name in ("tokens", "boundaries"):
    files += [folder / name / "zarr.json", *(folder / name / "c").iterdir()]
  return store_lib.Metadata(
    num_tokens=num_tokens,
    num_documents=len(lengths),
    vocab_size=tokenizer.vocab_size,
    eos_id=tokenizer.eos_id,
    tokenizer_fingerprint=tokenizer.fingerprint,
    fingerprint=digest.hexdigest(),
    plan=plan,
    file_bytes={
      str(f.relative_to(folder)): f.stat().length for f in sorted(files)
    },
  )


def _slabs(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """Yields the same tokens cut as the store's files are."""
  size, held, pending = store_lib.FILE_TOKENS, 0, []
  for array in arrays:
    while held + len(array) >= size:
      cut = size - held
      yield np.concatenate([*pending, array[:cut]])
      array, held, pending = array[cut:], 0, []
    pending.append(array)
    held += len(array)
  if held:
    yield np.concatenate(pending)


def token_dtype(vocab_size: int) -> np.dtype:
  """Returns how tokens below `vocab_size` are stored."""
  return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def _load(path: epath.Path, name: str) -> np.ndarray:
  with path.open("rb") as file, np.load(file) as part:
    return part[name]


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
  batch = []
  for item in items:
    batch.append(item)
    if len(batch) == size:
      yield batch
      batch = []
  if batch:
    yield batch


def _write_atomically(path: epath.Path, text: str) -> None:
  temporary = path.parent / f"{path.name}.tmp"
  temporary.write_text(text)
  temporary.replace(path)
