"""Where documents come from: text, jsonl and parquet files, packaged texts."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import glob
import gzip
import io
import json
from typing import IO, Protocol

from etils import epath
import zstandard

from drope_jax.data import corpus, zstd_stream

_FORMATS = (".txt", ".jsonl", ".parquet")
_COMPRESSIONS = (".gz", ".zst")
_PACKAGED = "packaged:"


class Source(Protocol):
  """One shard of documents: the unit of parallel work and of resuming.

  It must pickle.

  Attributes:
    name: what messages call it.
  """

  name: str

  def identity(self) -> str:
    """Returns what changes when the documents do."""

  def documents(self) -> Iterator[str | Sequence[int]]:
    """Yields its documents in order: text, or token ids as they are."""


@dataclasses.dataclass(frozen=True)
class File:
  """A .txt, .jsonl (field "text") or .parquet (column "text") file.

  Each may be compressed as .gz or .zst.

  Attributes:
    path: local, or gs://.
    separator: a line that holds only this ends a document of a .txt file;
      None makes the whole file one document.
  """

  path: str
  separator: str | None = None

  @property
  def name(self) -> str:
    """Its path."""
    return self.path

  def identity(self) -> str:
    """Returns path, size, time of change and separator."""
    stat = epath.Path(self.path).stat()
    return f"{self.path} {stat.length} {stat.mtime} {self.separator!r}"

  def documents(self) -> Iterator[str]:
    """Yields its documents.

    Raises:
      ValueError: a line without the field, or bytes that do not decompress or
        are not UTF-8.
    """
    read = {".txt": _text, ".jsonl": _jsonl, ".parquet": _parquet}
    try:
      with _opened(self.path) as stream:
        yield from read[_format_of(self.path)](stream, self)
    except (OSError, EOFError, zstandard.ZstdError, UnicodeError) as error:
      raise ValueError(
        f"{self.path} must be readable UTF-8 text, whole and in the "
        f"compression its name says, got: {error}. Fetch it again, or leave "
        "it out."
      ) from error


@dataclasses.dataclass(frozen=True)
class Packaged:
  """A split of the packaged corpus."""

  split: corpus.Split

  @property
  def name(self) -> str:
    """As `expand` takes it."""
    return f"{_PACKAGED}{self.split}"

  def identity(self) -> str:
    """Returns its name; the corpus never changes."""
    return self.name

  def documents(self) -> Iterator[str]:
    """Yields as `corpus.documents`."""
    return corpus.documents(self.split)


@dataclasses.dataclass(frozen=True)
class Generated:
  """Documents made on the fly, such as needle tasks.

  Attributes:
    name: what messages call it.
    settings: all that decides the documents, seed and sizes included.
    make: called without arguments, in a worker (`functools.partial` pickles,
      a lambda does not); yields text, or ids of the store's own tokenizer.
  """

  name: str
  settings: str
  make: Callable[[], Iterator[str | Sequence[int]]]

  def identity(self) -> str:
    """Returns name and settings."""
    return f"{self.name} {self.settings}"

  def documents(self) -> Iterator[str | Sequence[int]]:
    """Yields what `make` does."""
    return self.make()


def expand(
  inputs: Sequence[str], separator: str | None = None
) -> tuple[Source, ...]:
  """Returns the sources that `inputs` name, in order.

  Each is a file, a folder (every file of a known kind under it, sorted by
  path), a glob, or `packaged:train|fit|test`.

  Raises:
    FileNotFoundError: an input names nothing.
    ValueError: a file of another kind, or an unknown packaged split.
  """
  found = []
  for text in inputs:
    if text.startswith(_PACKAGED):
      split = text.removeprefix(_PACKAGED)
      if split not in corpus.SPLITS:
        raise ValueError(
          f"The packaged corpus has the splits {', '.join(corpus.SPLITS)}, "
          f"got {split!r}. Write {_PACKAGED}{corpus.SPLITS[0]}."
        )
      found.append(Packaged(split))
    else:
      found.extend(File(path, separator) for path in _paths(text))
  return tuple(found)


def _paths(text: str) -> list[str]:
  path = epath.Path(text)
  if path.is_dir():
    paths = [p for p in _walk(path) if _format_of(p)]
  elif path.exists():
    if not _format_of(text):
      raise ValueError(
        f"An input ends in {', '.join(_FORMATS)}, then perhaps in "
        f"{' or '.join(_COMPRESSIONS)}, got {text}. Rename or convert it."
      )
    paths = [text]
  elif glob.has_magic(text):
    paths = [p for p in _globbed(text) if _format_of(p)]
  else:
    paths = []
  if not paths:
    raise FileNotFoundError(
      f"An input must name a file, a folder or a glob with {_FORMATS} files, "
      f"got {text}, where there is none. Check the path."
    )
  return sorted(paths)


def _globbed(text: str) -> list[str]:
  if "://" not in text:
    return glob.glob(text, recursive=True)
  folder, _, pattern = text.rpartition("/")
  return [str(path) for path in epath.Path(folder).glob(pattern)]


def _walk(folder: epath.Path) -> Iterator[str]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _walk(path)
    else:
      yield str(path)


def _format_of(path: str) -> str | None:
  for compression in _COMPRESSIONS:
    path = path.removesuffix(compression)
  return next((kind for kind in _FORMATS if path.endswith(kind)), None)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
  with epath.Path(path).open("rb") as raw:
    if path.endswith(".gz"):
      with gzip.open(raw) as stream:
        yield stream
    elif path.endswith(".zst"):
      with zstd_stream.opened(raw) as stream:
        yield stream
    else:
      yield raw


def _text(stream: IO[bytes], file: File) -> Iterator[str]:
  # newline="" keeps \r\n as it is.
  lines = io.TextIOWrapper(stream, encoding="utf-8", newline="")
  if file.separator is None:
    yield lines.read()
    return
  document = []
  for line in lines:
    if line.rstrip("\r\n") == file.separator:
      yield "".join(document)
      document = []
    else:
      document.append(line)
  yield "".join(document)


def _jsonl(stream: IO[bytes], file: File) -> Iterator[str]:
  for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8"), 1):
    if not line.strip():
      continue
    try:
      text = json.loads(line)["text"]
      if not isinstance(text, str):
        raise TypeError(f"a {type(text).__name__} in it")
      # JSON can spell half a surrogate pair, which no tokenizer takes.
      text.encode("utf-8")
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'Each line of a .jsonl input is an object with a string "text", got '
        f"{error!r} at {file.path}:{number}. Mend or drop that line."
      ) from error
    yield text


def _parquet(stream: IO[bytes], file: File) -> Iterator[str]:
  try:
    import pyarrow.parquet  # Heavy, and only for this format.
  except ImportError as error:
    raise ValueError(
      f"Reading {file.path} needs pyarrow, which is not installed. "
      "`pip install pyarrow`, or convert the file to .jsonl."
    ) from error
  # Parquet is read from its end, so a compressed one is inflated first.
  if not stream.seekable() or file.path.endswith(_COMPRESSIONS):
    stream = io.BytesIO(stream.read())
  try:
    table = pyarrow.parquet.ParquetFile(stream)
    for batch in table.iter_batches(columns=["text"]):
      texts = batch.column("text").cast(pyarrow.large_string())
      yield from texts.drop_null().to_pylist()
  except (pyarrow.ArrowException, KeyError) as error:
    raise ValueError(
      f'A .parquet input has a string column "text", got {error!r} in '
      f"{file.path}. Rename its column, or fetch it again."
    ) from error
