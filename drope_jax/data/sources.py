"""Where documents come from: files, standard input, packaged texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import itertools
import sys
from typing import BinaryIO, Protocol
import uuid

from etils import epath

from drope_jax.data import compression, corpus, formats, paths, reading

# What `tokenize` joins and counts: a text, ids as they are, or neither.
Document = str | Sequence[int] | reading.Skipped


class Source(Protocol):
  """One shard of documents: the unit of parallel work and of resuming.

  It must pickle.

  Attributes:
    name: what messages call it.
  """

  name: str

  def identity(self) -> str:
    """Returns what changes when the documents do."""

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields its documents in order, from number `first` on.

    In place of those that are left out there is a mark.
    """


@dataclasses.dataclass(frozen=True)
class File:
  """A file of documents, in a format of `formats.READERS`.

  It may be compressed, as `compression.ENDINGS`.

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
    """Returns path, size, time of change, and what decides how it is read.

    What was read until a document was refused stays good when the next start
    skips it, or allows more bytes: these two options are left out.
    """
    stat, options = epath.Path(self.path).stat(), self.options
    identity = f"{self.path} {stat.length} {stat.mtime} {options.separator!r}"
    if (options.encoding, options.ending) != ("utf-8", None):
      identity += f" {options.encoding} {options.ending}"
    return identity

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields its documents from number `first` on.

    Raises:
      ValueError: it does not decompress, or holds what cannot be read.
    """
    opened = epath.Path(self.path).open
    found = _documents(lambda: opened("rb"), self.path, self.name, self.options)
    return itertools.islice(found, first, None)


@dataclasses.dataclass(frozen=True)
class StandardInput:
  """Standard input, in the format that `options.ending` tells, else text.

  It can be read once.
  """

  options: reading.Options = reading.DEFAULT
  name: str = "standard input"

  def identity(self) -> str:
    """Returns another at each call, since what comes next is not known."""
    return f"{self.name} {uuid.uuid4()}"

  def documents(self, first: int = 0) -> Iterator[Document]:
    """Yields as `File.documents`."""
    found = _documents(
      lambda: contextlib.nullcontext(sys.stdin.buffer),
      self.options.ending or ".txt",
      self.name,
      self.options,
    )
    return itertools.islice(found, first, None)


def _documents(
  opened: Callable[[], contextlib.AbstractContextManager[BinaryIO]],
  path: str,
  name: str,
  options: reading.Options,
) -> Iterator[Document]:
  kind, packed = formats.split(path, options.ending)
  try:
    with opened() as raw, compression.opened(raw, packed) as stream:
      yield from formats.READERS[kind](stream, name, options)
  except (*compression.DAMAGE, UnicodeError) as error:
    raise ValueError(
      f"{name} must be readable, whole and in the compression its name says, "
      f"in {options.encoding.upper()} where no byte order mark says another, "
      f"got: {error}. Fetch it again, or leave it out."
    ) from error


@dataclasses.dataclass(frozen=True)
class Packaged:
  """A split of the packaged corpus."""

  split: corpus.Split

  @property
  def name(self) -> str:
    """As an input names it."""
    return f"{paths.PACKAGED}{self.split}"

  def identity(self) -> str:
    """Returns its name; the corpus never changes."""
    return self.name

  def documents(self, first: int = 0) -> Iterator[str]:
    """Yields as `corpus.documents`, from number `first` on."""
    return itertools.islice(corpus.documents(self.split), first, None)


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

  def documents(self, first: int = 0) -> Iterator[str | Sequence[int]]:
    """Yields what `make` does, from number `first` on."""
    return itertools.islice(self.make(), first, None)


def texts(sources: Iterable[Source]) -> Iterator[str]:
  """Yields the texts of all, without what was left out."""
  for source in sources:
    for document in source.documents():
      if isinstance(document, str):
        yield document
