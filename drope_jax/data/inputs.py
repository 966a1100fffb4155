"""Input arguments to document sources: files, folders, globs, stdin."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import glob
import os

from etils import epath

from drope_jax.data import compression, corpus, formats, reading, sources
from drope_jax.data import paths as paths_lib

STANDARD = "-"

# Why files are left out, apart from an unknown ending.
_HIDDEN = "hidden"
_LINK = "link to a file or folder that is read already"
_BROKEN = "broken link"
_SPECIAL = "device or pipe"
_NO_TEXT = '.json without "text"'

LeftOut = Mapping[str, Sequence[str]]


def expand(
  inputs: Sequence[str], options: reading.Options = reading.DEFAULT
) -> tuple[tuple[sources.Source, ...], LeftOut]:
  """Returns the sources that `inputs` name, in order, and what is left out.

  An input is a file, a folder (every file of a known format in it, sorted by
  path), a glob of files, `packaged:train|fit|test`, or `-` for standard input.
  In a folder, links are followed and each file is read once. Hidden files are
  left out (.git, .ipynb_checkpoints, ._a.txt), and so is a .json file that
  does not begin with a document, for example a configuration.

  Returns:
    The sources; and the paths of folders and globs that are left out, by
    reason.

  Raises:
    FileNotFoundError: an input matches no file that can be read.
    ValueError: a file of an unknown format, an unknown packaged split, or
      standard input named twice.
  """
  if options.ending is not None:
    formats.require_known(options.ending)
  expanded: list[sources.Source] = []
  left_out: dict[str, list[str]] = defaultdict(list)
  for text in inputs:
    if text.startswith(paths_lib.PACKAGED):
      expanded.append(_packaged(text))
    elif text == STANDARD:
      expanded.append(sources.StandardInput(options))
    else:
      expanded.extend(_files(text, options, left_out))
  if inputs.count(STANDARD) > 1:
    raise ValueError(
      f"Standard input can be read only once, got {STANDARD} more than once. "
      "Name it once."
    )
  return tuple(expanded), left_out


def describe(left_out: LeftOut) -> str:
  """Returns how many files are left out, and why, with some of their names."""
  kinds = [
    f"{len(paths):,} {why} ({', '.join(paths[:2])}{', ...' * (len(paths) > 2)})"
    for why, paths in sorted(left_out.items())
  ]
  return f"{sum(map(len, left_out.values())):,} left out: {', '.join(kinds)}"


def _packaged(text: str) -> sources.Packaged:
  split = text.removeprefix(paths_lib.PACKAGED)
  if split not in corpus.SPLITS:
    raise ValueError(
      f"The packaged corpus has the splits {', '.join(corpus.SPLITS)}, got "
      f"{split!r}. Write {paths_lib.PACKAGED}{corpus.SPLITS[0]}."
    )
  return sources.Packaged(split)


def _files(
  text: str, options: reading.Options, left_out: dict[str, list[str]]
) -> list[sources.File]:
  paths_lib.require_named(text)
  if "://" in text and "**" in text:
    raise ValueError(
      f"A glob in a bucket may have * and no **, got {text}. Name the folder, "
      "which is read with all that is below it."
    )
  text = os.path.expanduser(text)
  path = epath.Path(text)
  here: dict[str, list[str]] = defaultdict(list)
  if path.is_dir():
    paths = _select(_walk(path, here), options, here)
  elif path.exists():
    if formats.parse_name(text, options.ending)[0] is None:
      raise ValueError(
        f"An input must end in {', '.join(formats.READERS)}, optionally "
        f"followed by {', '.join(compression.ENDINGS)}, got {text}. Give its "
        "format with `ending`, rename it or convert it."
      )
    paths = [text]
  elif glob.has_magic(text):
    paths = _select(_globbed(text), options, here)
  else:
    paths = []
  if not paths:
    got, advice = "which matches no file", "Check the path."
    if here:
      got = f"with {describe(here)}"
      advice = "Check the path, or give the format with `ending`."
    raise FileNotFoundError(
      "An input must name a file, a folder or a glob of files that end in "
      f"{', '.join(formats.READERS)}, got {text}, {got}. {advice}"
    )
  for why, names in here.items():
    left_out[why].extend(names)
  return [sources.File(path, options) for path in sorted(paths)]


def _globbed(text: str) -> Iterator[str]:
  if "://" not in text:
    paths = glob.iglob(text, recursive=True)
    return (path for path in paths if not os.path.isdir(path))
  folder, _, pattern = text.rpartition("/")
  return map(str, epath.Path(folder).glob(pattern))


def _walk(folder: epath.Path, left_out: dict[str, list[str]]) -> Iterator[str]:
  """Yields the files under a folder; those behind linked folders are last."""
  folders, entered = deque([folder]), set()
  links: deque[epath.Path] = deque()
  while folders or links:
    folder = (folders or links).popleft()
    if (real := _real(str(folder))) in entered:
      left_out[_LINK].append(str(folder))
      continue
    entered.add(real)
    for path in sorted(folder.iterdir()):
      if path.name.startswith("."):
        left_out[_HIDDEN].append(str(path))
      elif path.is_dir():
        (links if os.path.islink(path) else folders).append(path)
      else:
        yield str(path)


def _select(
  paths: Iterator[str],
  options: reading.Options,
  left_out: dict[str, list[str]],
) -> list[str]:
  """Returns the files to read, each under one of its names."""
  # A file's own name comes before the links to it.
  paths = sorted(paths, key=os.path.islink)
  kept, others = {}, []
  for path in paths:
    why = _reason_to_skip(path, options)
    real = _real(path)
    if why is not None:
      others.append((why, path, real))
    elif real in kept:
      left_out[_LINK].append(path)
    else:
      kept[real] = path
  for why, path, real in others:
    if real not in kept:  # Otherwise it is read under another name.
      left_out[why].append(path)
  return list(kept.values())


def _reason_to_skip(path: str, options: reading.Options) -> str | None:
  """Returns why a file of a folder is not read; None if it is read."""
  kind, packed = formats.parse_name(path, options.ending)
  if "://" not in path and not os.path.isfile(path):
    return _SPECIAL if os.path.exists(path) else _BROKEN
  if kind is None:
    name = os.path.basename(path).lower().removesuffix(packed or "")
    return (os.path.splitext(name)[1] or "without an ending") + (packed or "")
  # No configuration is compressed, so compressed .json files are read.
  plain_json = (kind, packed) == (".json", None)
  if plain_json and not _begins_with_text(path, options):
    return _NO_TEXT
  return None


def _begins_with_text(path: str, options: reading.Options) -> bool:
  strict = dataclasses.replace(options, skip_bad=False)
  try:
    next(sources.File(path, strict).documents(), None)
  except ValueError:
    return False
  return True


def _real(path: str) -> str:
  return path if "://" in path else os.path.realpath(path)
