"""Token stores: flat tokens and document boundaries in TensorStore (zarr3).

A store is a folder: `tokens` (uint16, or uint32 where the vocabulary needs
it), `boundaries` (int64), and `metadata.json`, which is written last, so that
a store that was not finished has none. Local folders and gs:// alike.
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import dataclasses
import functools
import hashlib
import json

from etils import epath
import numpy as np
import tensorstore

METADATA = "metadata.json"
SCHEMA_VERSION = 1

# Tokens that one file holds, and that one read decodes.
FILE_TOKENS = 1 << 26
READ_TOKENS = 1 << 14


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What `metadata.json` holds.

  Attributes:
    num_tokens: with the EOS that ends each document.
    fingerprint: sha256 of the tokens (little-endian, as stored), then of the
      boundaries, in hex.
    plan: sha256 of what it was made from: tokenizer and identities of sources.
    file_bytes: the size of each file of the arrays, by its path in the store.
  """

  num_tokens: int
  num_documents: int
  vocab_size: int
  eos_id: int
  tokenizer_fingerprint: str
  fingerprint: str
  plan: str
  file_bytes: dict[str, int]
  schema_version: int = SCHEMA_VERSION


class Store:
  """A finished token store, open for reading.

  Document i is the tokens from `boundaries[i]` to `boundaries[i + 1]`; its
  last token is EOS.
  """

  def __init__(self, path: str, metadata: Metadata):
    self.path = path
    self.metadata = metadata
    self._tokens = _open_array(path, "tokens")

  @classmethod
  def open(cls, path: str) -> "Store":
    """Returns the store at `path`.

    Sizes are checked here, and bytes (by CRC) when they are read;
    `verify` checks everything.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: it was never finished, or a file is missing, cut short or
        of another version.
    """
    folder = epath.Path(path)
    if not folder.exists():
      raise FileNotFoundError(
        f"A token store is needed, got {path}, which does not exist. Make it "
        "with `drope tokenize`, or check the path."
      )
    if not (folder / METADATA).exists():
      raise ValueError(
        f"A finished token store is needed, got {path}, which has no "
        f"{METADATA}. Run its `drope tokenize` again: it resumes."
      )
    metadata = _parse(path, (folder / METADATA).read_text())
    found = file_bytes(path, metadata.file_bytes)
    for name, size in metadata.file_bytes.items():
      if found[name] != size:
        raise _damaged(path, f"{found[name]} bytes of {size} in {name}")
    return cls(path, metadata)

  @property
  def num_tokens(self) -> int:
    """Tokens, with the EOS that ends each document."""
    return self.metadata.num_tokens

  @property
  def num_documents(self) -> int:
    """Documents, none empty."""
    return self.metadata.num_documents

  @property
  def vocab_size(self) -> int:
    """Every token is below it."""
    return self.metadata.vocab_size

  @property
  def eos_id(self) -> int:
    """The token that ends each document."""
    return self.metadata.eos_id

  @property
  def tokenizer_fingerprint(self) -> str:
    """sha256 of the tokenizer file."""
    return self.metadata.tokenizer_fingerprint

  @property
  def fingerprint(self) -> str:
    """sha256 of the content."""
    return self.metadata.fingerprint

  @functools.cached_property
  def boundaries(self) -> np.ndarray:
    """int64 [num_documents + 1], from 0 to num_tokens."""
    return _read(self.path, _open_array(self.path, "boundaries"))

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns tokens `start` to `stop` as int32 [stop - start].

    Raises:
      ValueError: the range leaves the store, or the bytes are damaged.
    """
    return self.begin_read(start, stop)()

  def begin_read(self, start: int, stop: int) -> Callable[[], np.ndarray]:
    """Begins a `read`, and returns what waits for it and returns its tokens.

    Raises:
      ValueError: the range leaves the store; damaged bytes raise in the wait.
    """
    if not 0 <= start <= stop <= self.num_tokens:
      raise ValueError(
        f"A range within the {self.num_tokens} tokens of {self.path} is "
        f"needed, got {start} to {stop}. Read less."
      )
    future = self._tokens[start:stop].read()
    return lambda: _result(self.path, future).astype(np.int32)

  def verify(self) -> None:
    """Reads everything.

    Raises:
      ValueError: the content does not match the fingerprint.
    """
    digest = hashlib.sha256()
    for start in range(0, self.num_tokens, FILE_TOKENS):
      stop = min(start + FILE_TOKENS, self.num_tokens)
      digest.update(_read(self.path, self._tokens[start:stop]).tobytes())
    digest.update(self.boundaries.tobytes())
    if digest.hexdigest() != self.fingerprint:
      raise _damaged(self.path, f"content of sha256 {digest.hexdigest()}")


def file_bytes(path: str, names: Iterable[str]) -> dict[str, int]:
  """Returns the size of each file of the store at `path`, 0 where it lacks."""
  # In parallel, since a bucket takes its time and a large store has thousands.
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    names = list(names)
    return dict(
      zip(names, pool.map(functools.partial(_size, path), names), strict=True)
    )


def _size(path: str, name: str) -> int:
  file = epath.Path(path) / name
  return file.stat().length if file.exists() else 0


def create_array(
  path: str, name: str, length: int, dtype: np.dtype
) -> tensorstore.TensorStore:
  """Returns a new one-axis array of the store at `path`, empty as yet."""
  # Zarr's sharding: few files, each of many small chunks with a CRC each.
  codecs = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 3}},
    {"name": "crc32c"},
  ]
  sharding = {"chunk_shape": [READ_TOKENS], "codecs": codecs}
  grid = {"chunk_shape": [FILE_TOKENS]}
  spec = _spec(path, name) | {
    "metadata": {
      "chunk_grid": {"name": "regular", "configuration": grid},
      "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    },
    "store_data_equal_to_fill_value": True,
  }
  return tensorstore.open(
    spec, create=True, delete_existing=True, dtype=dtype, shape=[length]
  ).result()


def _open_array(path: str, name: str) -> tensorstore.TensorStore:
  context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 27}})
  try:
    return tensorstore.open(
      _spec(path, name),
      context=context,
      open=True,
      read=True,
      # A finished store does not change: what was read is not asked for again.
      recheck_cached_data="open",
      recheck_cached_metadata="open",
    ).result()
  except ValueError as error:
    raise _damaged(path, f"{name}: {error}") from error


def _spec(path: str, name: str) -> dict:
  return {
    "driver": "zarr3",
    "kvstore": _kvstore(epath.Path(path) / name),
    # Zarr reads a missing chunk as zeros; for us it is damage.
    "fill_missing_data_reads": False,
  }


def _kvstore(path: epath.Path) -> dict[str, str]:
  text = str(path)
  if text.startswith("gs://"):
    bucket, _, inner = text.removeprefix("gs://").partition("/")
    return {"driver": "gcs", "bucket": bucket, "path": inner + "/"}
  return {"driver": "file", "path": str(path.resolve()) + "/"}


def _read(path: str, array: tensorstore.TensorStore) -> np.ndarray:
  return _result(path, array.read())


def _result(path: str, future: tensorstore.Future) -> np.ndarray:
  try:
    return future.result()
  except ValueError as error:
    raise _damaged(path, str(error)) from error


def _parse(path: str, text: str) -> Metadata:
  try:
    fields = json.loads(text)
    if fields["schema_version"] != SCHEMA_VERSION:
      raise ValueError(f"schema version {fields['schema_version']}")
    return Metadata(**fields)
  except (ValueError, TypeError, KeyError) as error:
    raise _damaged(
      path, f"a {METADATA} that does not parse: {error!r}"
    ) from error


def _damaged(path: str, got: str) -> ValueError:
  return ValueError(
    f"A whole token store of version {SCHEMA_VERSION} is needed, got {path}, "
    f"with {got}. Delete it and run its `drope tokenize` again."
  )
