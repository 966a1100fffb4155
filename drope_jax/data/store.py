"""Token stores: flat tokens and document boundaries in TensorStore (zarr3).

A store is a folder, local or gs://. It holds `tokens` (uint16, or uint32 if the
vocabulary needs it), `boundaries` (int64) and `metadata.json` (module
`metadata`). The metadata are written last, so an unfinished store has none.
"""

from collections.abc import Callable, Iterable
import concurrent.futures
import functools
import hashlib
import os

from etils import epath
import numpy as np
import tensorstore

from drope_jax import artifacts
from drope_jax.data import metadata as metadata_lib
from drope_jax.data import paths

# Tokens in one file, and tokens decoded by one read.
FILE_TOKENS = 1 << 26
READ_TOKENS = 1 << 14


class Store:
  """A finished token store, open for reading.

  Document i is the tokens from `boundaries[i]` to `boundaries[i + 1]`; its
  last token is EOS.
  """

  def __init__(self, path: str, metadata: metadata_lib.Metadata):
    self.path = path
    self.metadata = metadata
    dtype = metadata_lib.token_dtype(metadata.vocab_size)
    self._tokens = _open_array(path, "tokens", metadata.num_tokens, dtype)

  @classmethod
  def open(cls, path: str | os.PathLike) -> "Store":
    """Returns the store at `path`, ~ expanded.

    The checksum of the metadata and the sizes of the files are checked here.
    Bytes (by CRC), ids and boundaries are checked when they are read. `verify`
    checks everything.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it is unfinished, its metadata were changed, or a file is
        missing, truncated or of another version.
    """
    path = os.fspath(paths.resolve(os.fspath(path)))
    metadata = read_metadata(path)
    sizes = file_bytes(path, metadata.file_bytes)
    for name, size in metadata.file_bytes.items():
      if sizes[name] != size:
        raise _damaged(path, f"{sizes[name]} bytes of {size} in {name}")
    return cls(path, metadata)

  @property
  def num_tokens(self) -> int:
    """Number of tokens, including the EOS that ends each document."""
    return self.metadata.num_tokens

  @property
  def num_documents(self) -> int:
    """Number of documents; none is empty."""
    return self.metadata.num_documents

  @property
  def vocab_size(self) -> int:
    """Size of the vocabulary; every token is below it."""
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
    """sha256 of the tokens and boundaries."""
    return self.metadata.fingerprint

  @functools.cached_property
  def boundaries(self) -> np.ndarray:
    """int64 [num_documents + 1], increasing from 0 to num_tokens.

    Raises:
      ValueError: they do not increase so, or the bytes are damaged.
    """
    length = self.num_documents + 1
    array = _open_array(self.path, "boundaries", length, np.dtype("<i8"))
    boundaries = _read(self.path, array)
    if (
      boundaries[0] != 0
      or boundaries[-1] != self.num_tokens
      or not (boundaries[1:] > boundaries[:-1]).all()
    ):
      raise _damaged(
        self.path,
        f"boundaries that do not increase from 0 to {self.num_tokens}",
      )
    return boundaries

  def read(self, start: int, stop: int) -> np.ndarray:
    """Returns tokens `start` to `stop` as int32 [stop - start].

    Raises:
      ValueError: the range is outside the store, the bytes are damaged, or an
        id is outside the vocabulary.
    """
    return self.begin_read(start, stop)()

  def begin_read(self, start: int, stop: int) -> Callable[[], np.ndarray]:
    """Starts a `read`; returns a function that waits for its tokens.

    Raises:
      ValueError: the range is outside the store. Damaged bytes and ids raise
        in the returned function.
    """
    if not 0 <= start <= stop <= self.num_tokens:
      raise ValueError(
        f"A range must be within the {self.num_tokens} tokens of {self.path}, "
        f"got {start} to {stop}. Read less."
      )
    future = self._tokens[start:stop].read()
    return lambda: self._checked(_result(self.path, future), start)

  def _checked(self, tokens: np.ndarray, start: int) -> np.ndarray:
    """Returns tokens read from `start` as int32; checks the vocabulary."""
    # Tokens are unsigned, so a negative id would be a large one.
    if len(tokens) and tokens.max() >= self.vocab_size:
      at = int(tokens.argmax())
      document = np.searchsorted(self.boundaries, start + at, side="right") - 1
      raise _damaged(
        self.path,
        f"the id {tokens[at]} at token {start + at}, in document {document}; "
        f"the vocabulary has {self.vocab_size}",
      )
    return tokens.astype(np.int32)

  def counts(self) -> np.ndarray:
    """Returns how often the store has each id, int64 [vocab_size].

    Raises:
      ValueError: as `read`.
    """
    counts_V = np.zeros(self.vocab_size, np.int64)
    for start in range(0, self.num_tokens, FILE_TOKENS):
      tokens = self.read(start, min(start + FILE_TOKENS, self.num_tokens))
      counts_V += np.bincount(tokens, minlength=self.vocab_size)
    return counts_V

  def verify(self) -> None:
    """Reads and checks everything.

    Raises:
      ValueError: the content does not match the fingerprint, or an id is
        outside the vocabulary.
    """
    digest = hashlib.sha256()
    for start in range(0, self.num_tokens, FILE_TOKENS):
      stop = min(start + FILE_TOKENS, self.num_tokens)
      tokens = _read(self.path, self._tokens[start:stop])
      self._checked(tokens, start)
      digest.update(tokens.tobytes())
    digest.update(self.boundaries.tobytes())
    if digest.hexdigest() != self.fingerprint:
      raise _damaged(self.path, f"content with sha256 {digest.hexdigest()}")


def read_metadata(path: str) -> metadata_lib.Metadata:
  """Returns the metadata of a finished store; raises as `Store.open`."""
  folder = epath.Path(path)
  if not folder.exists():
    raise FileNotFoundError(
      f"A token store is needed, got {path}, which does not exist. Check the "
      "path, or make it with `drope tokenize` or `drope sample`."
    )
  file = folder / metadata_lib.FILE
  if not file.exists():
    raise ValueError(
      f"A finished token store is needed, got {path}, which has no "
      f"{file.name}. Run its `drope tokenize` or `drope sample` again: it "
      "resumes."
    )
  try:
    return metadata_lib.decode(file.read_bytes())
  except artifacts.UnknownVersionError as error:
    raise ValueError(f"{file}: {error}") from error
  except (ValueError, TypeError) as error:
    raise _damaged(path, f"a damaged {file.name}: {error}") from error


def file_bytes(path: str, names: Iterable[str]) -> dict[str, int]:
  """Returns the size of each file of the store at `path`; 0 if missing."""
  # In parallel: buckets are slow, and a large store has thousands of files.
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
  """Returns a new, empty one-axis array in the store at `path`."""
  # Zarr's sharding gives few files, each with many small chunks and their CRCs.
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


def _open_array(
  path: str, name: str, length: int, dtype: np.dtype
) -> tensorstore.TensorStore:
  """Returns an array of the store at `path`; checks its length and dtype."""
  context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 1 << 27}})
  try:
    array = tensorstore.open(
      _spec(path, name),
      context=context,
      open=True,
      read=True,
      # A finished store does not change, so cached data are not checked again.
      recheck_cached_data="open",
      recheck_cached_metadata="open",
    ).result()
  except ValueError as error:
    raise _damaged(path, f"{name}: {error}") from error
  if array.shape != (length,) or array.dtype.numpy_dtype != dtype:
    raise _damaged(
      path,
      f"{name} of {array.dtype.name} {list(array.shape)} instead of "
      f"{dtype.name} [{length}]",
    )
  return array


def _spec(path: str, name: str) -> dict:
  return {
    "driver": "zarr3",
    "kvstore": paths.kvstore(epath.Path(path) / name),
    # Zarr reads a missing chunk as zeros; here it is damage.
    "fill_missing_data_reads": False,
  }


def _read(path: str, array: tensorstore.TensorStore) -> np.ndarray:
  return _result(path, array.read())


def _result(path: str, future: tensorstore.Future) -> np.ndarray:
  try:
    return future.result()
  except ValueError as error:
    raise _damaged(path, str(error)) from error


def _damaged(path: str, got: str) -> ValueError:
  return ValueError(
    f"A complete token store is needed, got {path}, with {got}. Delete it and "
    "run its `drope tokenize` or `drope sample` again."
  )
