"""Builds frozen dataclasses from a .gin file.

This is the only module that imports gin, and it uses only gin's parser. The
bindings exist in one call of `build`, not in gin's process-wide registry. So
two configs never mix, and every mistake is reported with its file and line. The
syntax is gin's: `Class.field = value`, `scope/Class.field`, `@scope/Class()`,
macros (`NAME = 3`, `%NAME`), and `include`. An included path is relative to the
file that includes it, or is the name of a shipped config.
"""

from collections.abc import Iterator, Sequence
import pathlib
import tokenize
from typing import Any, TypeVar

from gin import config_parser

from drope_jax import attention, positional, sharding
from drope_jax.cli import bindings, shipped
from drope_jax.data import pipeline
from drope_jax.evals import needles, periodic, registry, suite
from drope_jax.model import config as model_config
from drope_jax.surgery import compose
from drope_jax.train import (
  guard,
  lora,
  optimizer,
  phases,
  recipe,
  sweep,
  teacher,
)

T = TypeVar("T")

CLASSES = (
  model_config.LayerGroup,
  model_config.ModelConfig,
  *positional.CATALOGUE.values(),
  pipeline.DataConfig,
  sharding.MeshConfig,
  attention.FlashTpu,
  attention.Blocks,
  optimizer.AdamW,
  optimizer.Muon,
  optimizer.Cosine,
  optimizer.WarmupStableDecay,
  optimizer.Constant,
  compose.Surgery,
  guard.Guard,
  lora.Lora,
  teacher.Teacher,
  phases.HeldOut,
  phases.TrainPhase,
  phases.SurgeryPhase,
  recipe.Recipe,
  needles.Needles,
  *registry.CLASSES,
  suite.Suite,
  periodic.Periodic,
  sweep.Axis,
  sweep.Sweep,
)

# Surgery is left out because its defaults matter: they drop all positions.
HIDE_DEFAULTS = tuple(c for c in CLASSES if c is not compose.Surgery)
"""Classes of which a lineage is shown without the defaults."""


def build(
  path: str,
  root: type[T],
  overrides: Sequence[str] = (),
  *,
  classes: Sequence[type] = CLASSES,
) -> T:
  """Returns the `root` that a .gin file describes.

  It is stricter than gin. A value must have its field's type (an int is allowed
  for a float, and a list for a tuple). A binding or a macro without effect is
  an error.

  Args:
    path: a file, or the name of a shipped one, e.g. "models/tiny.gin".
    root: the dataclass to build, from the bindings without a scope.
    overrides: bindings such as "pretrain/TrainPhase.steps = 10", read after the
      file, which they override.
    classes: the dataclasses that can be bound, including `root`.

  Raises:
    FileNotFoundError: the file, or one that it includes, does not exist.
    ValueError: text that is not UTF-8, a syntax error, an unknown name, a value
      of another type, a field without a value, a binding without effect, no
      binding of `root`, or a value that the dataclass refuses. The message
      begins with the file, and the line if known.
  """
  file = locate(path)
  found = bindings.Bindings(classes)
  for statement, where in [*_read_file(file), *_read_overrides(overrides)]:
    scope, name, field, value, _ = statement
    found.bind(scope, name, field, value, where)
  found.refuse_unrelated(root.__name__, str(file))
  try:
    built = found.construct(root.__name__)
  except bindings.ConfigError:
    raise
  except ValueError as error:
    raise ValueError(f"{file}: {error}") from error
  found.refuse_unused()
  return built


def locate(path: str) -> pathlib.Path:
  """Returns the file `path`, or the shipped config of that name.

  Raises:
    FileNotFoundError: neither exists.
  """
  for folder in (pathlib.Path(), shipped.folder()):
    if (folder / path).is_file():
      return folder / path
  raise FileNotFoundError(
    f"{path} is neither a file nor a shipped config. Give the path of a .gin "
    "file, or a name like recipes/tiny.gin; `drope recipes` lists all."
  )


class _Delegate(config_parser.ParserDelegate):
  """Makes gin's parser return our references and macros."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    *scope, name = scoped_configurable_name.split("/")
    return bindings.Reference(tuple(scope), name, evaluate)

  def macro(self, macro_name):
    return bindings.Macro(macro_name)


def _read_file(
  file: pathlib.Path, inside: tuple[pathlib.Path, ...] = ()
) -> Iterator[tuple[config_parser.BindingStatement, str]]:
  """Yields the bindings of a file and its includes, with file and line."""
  for statement, where in _parse(_read_text(file), str(file)):
    if isinstance(statement, config_parser.BindingStatement):
      yield statement, where
      continue
    beside = file.parent / statement.filename
    named = shipped.folder() / statement.filename
    included = named if named.is_file() and not beside.is_file() else beside
    if not included.is_file():
      raise FileNotFoundError(
        f"{where}: the included file {included} does not exist. An included "
        "path is relative to the file that includes it, or is the name of a "
        "shipped config."
      )
    if included.resolve() in inside:
      raise bindings.ConfigError(
        f"{where}: {included} includes itself. Remove the circular include."
      )
    yield from _read_file(included, (*inside, included.resolve()))


def _read_text(file: pathlib.Path) -> str:
  try:
    return file.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    line = error.object.count(b"\n", 0, error.start) + 1
    byte = error.object[error.start]
    raise bindings.ConfigError(
      f"{file}:{line}: a config must be UTF-8 text, got the byte 0x{byte:02x}. "
      "Save it as UTF-8."
    ) from None


def _read_overrides(
  overrides: Sequence[str],
) -> Iterator[tuple[config_parser.BindingStatement, str]]:
  for override in overrides:
    where = f"--set {override!r}"
    for statement, _ in _parse(override, "--set"):
      if not isinstance(statement, config_parser.BindingStatement):
        raise bindings.ConfigError(
          f"{where}: an override must be Class.field=value, got an include. "
          "Put it in a file."
        )
      yield statement, where


def _parse(text: str, name: str) -> Iterator[tuple[Any, str]]:
  """Yields the bindings and includes in `text`, each with "name:line"."""
  try:
    statements = list(config_parser.ConfigParser(text, _Delegate()))
  except SyntaxError as error:
    line = (error.text or text).strip()
    reason = error.msg.splitlines()[-1].strip().rstrip(".")
    raise bindings.ConfigError(
      f"{name}:{error.lineno}: cannot read {line!r}: {reason}. Write "
      "Class.field = value, with text in quotes."
    ) from None
  except tokenize.TokenError as error:
    message, (line, _) = error.args
    raise bindings.ConfigError(
      f"{name}:{line}: {message}. Close the bracket or the quotes."
    ) from None
  for statement in statements:
    where = f"{name}:{statement.location.line_num}"
    match statement:
      case config_parser.ImportStatement():
        raise bindings.ConfigError(
          f"{where}: a config cannot import {statement.module}. Remove the "
          "line: only drope_jax's own dataclasses can be bound."
        )
      case config_parser.BlockDeclaration():
        continue  # Its bindings follow as statements.
    yield statement, where
