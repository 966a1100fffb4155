"""Dataclasses in JSON files, which every later version of the code reads.

A file holds the fields of a dataclass, a `schema_version`, and the code version
that wrote it. If another version wrote the file:

- A missing field gets its default.
- A field that was renamed, moved or retyped since is translated (`MIGRATIONS`).
- An unknown field is an error that names the version that wrote it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import reprlib
from typing import Any

import drope_jax
from drope_jax import revision

VERSION = 5
"""The schema version of all kinds of files, which share some classes.

Versions 1 to 3 were counted for each kind: manifests reached 1, results.json 2,
and token stores 3.
"""

_CLASS, _VERSION, _CODE = "__class__", "schema_version", "code"

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def _name_remat(phase: dict[str, Any]) -> dict[str, Any]:
  # `remat` was a boolean before there were policies.
  names = {False: "none", True: "full"}
  remat = phase.get("remat")
  return phase | {"remat": names[remat]} if isinstance(remat, bool) else phase


def _name_kept_rotations(surgery: dict[str, Any]) -> dict[str, Any]:
  surgery = dict(surgery)
  if "keep_turns" in surgery:
    surgery["keep_rotations"] = surgery.pop("keep_turns")
  return surgery


MIGRATIONS: Mapping[int, Mapping[str, Migration]] = {
  4: {"TrainPhase": _name_remat},
  5: {"Surgery": _name_kept_rotations},
}
"""Functions from old JSON fields to new ones, by target version and class.

The class of a file is the argument `name` of `migrate`; a class inside a file
is stored there with its name. A part without a name is not migrated by itself.
All migrations of one version are applied before those of the next, so that a
field can move from one class to another.
"""


class UnknownVersionError(ValueError):
  """A file is not damaged, but a later version of the code wrote it."""


@dataclasses.dataclass(frozen=True)
class Writer:
  """The version of the code that wrote a file.

  Attributes:
    version: the file's `schema_version`.
    code: from `revision.describe`; None if the file does not have it.
  """

  version: int
  code: str | None = None

  def __str__(self) -> str:
    code = "an unnamed version" if self.code is None else self.code
    return f"{code} (schema_version {self.version})"


def stamp(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields with the version of the running code added."""
  return {_VERSION: VERSION, _CODE: revision.describe()} | dict(fields)


def migrate(
  name: str, data: Any, code: str | None = None
) -> tuple[dict[str, Any], Writer]:
  """Returns a file's fields, migrated to this version, and its writer.

  Fields that were added to a class since are still missing: see
  `fill_defaults`.

  Args:
    name: of the file's class, as in `MIGRATIONS`.
    data: the file's JSON.
    code: version of the code that wrote it, if the file has it elsewhere.

  Raises:
    ValueError: it holds no fields.
    UnknownVersionError: it is of a later version.
  """
  if not isinstance(data, dict):
    raise ValueError(
      f"A {name} file must hold fields, got {reprlib.repr(data)}. Copy it "
      "again, or create it again."
    )
  fields = dict(data)
  version = fields.pop(_VERSION, 1)
  if code is None:
    code = fields.pop(_CODE, None)
  writer = Writer(version, code)
  if type(version) is not int or not 1 <= version <= VERSION:
    raise UnknownVersionError(
      f"drope_jax {drope_jax.__version__} reads files of schema_version 1 to "
      f"{VERSION}, got a {name} file of {writer}. Install the version that "
      "wrote it, or a newer one."
    )
  for step in range(version + 1, VERSION + 1):
    fields = _apply_migrations(fields, MIGRATIONS.get(step, {}), name)
  return fields, writer


def _apply_migrations(data, migrations, name=None):
  if isinstance(data, list):
    return [_apply_migrations(item, migrations) for item in data]
  # A file within a file is migrated on its own.
  if not isinstance(data, dict) or _VERSION in data:
    return data
  data = {
    key: _apply_migrations(item, migrations) for key, item in data.items()
  }
  migration = migrations.get(data.get(_CLASS, name))
  return migration(data) if migration else data


def fill_defaults(
  cls: type, fields: Mapping[str, Any], writer: Writer
) -> dict[str, Any]:
  """Returns a dataclass's fields from a file, with defaults for missing ones.

  Raises:
    ValueError: a field without a default is missing.
    UnknownVersionError: a field is unknown.
  """
  if not isinstance(fields, Mapping):
    raise ValueError(
      f"{cls.__name__} must have fields, got {reprlib.repr(fields)}. Copy the "
      "file again, or create it again."
    )
  known = {field.name: field for field in dataclasses.fields(cls)}
  if unknown := sorted(fields.keys() - known.keys()):
    raise UnknownVersionError(
      f"In drope_jax {drope_jax.__version__} {cls.__name__} has no field "
      f"{', '.join(unknown)}, got a file of {writer}. Install that version, or "
      "a newer one."
    )
  added = {name: default(known[name]) for name in known if name not in fields}
  missing = [n for n, value in added.items() if value is dataclasses.MISSING]
  if missing:
    raise ValueError(
      f"{cls.__name__} needs {', '.join(missing)}, got a file of {writer} "
      "without it. Copy the file again, or create it again."
    )
  return {**fields, **added}


def build(cls: type, fields: Mapping[str, Any], writer: Writer) -> Any:
  """Returns the dataclass with these fields of a file.

  Raises:
    ValueError: as `fill_defaults`; or the class refuses a value.
  """
  fields = fill_defaults(cls, fields, writer)
  try:
    return cls(**fields)
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f"{cls.__name__} needs values of its fields' types, got {fields} "
      f"({error}). Copy the file again, or create it again."
    ) from error


def fill_nested_defaults(found: Any, value: Any, writer: Writer) -> Any:
  """Returns the JSON `found` with defaults for missing fields, at any depth.

  The result is to be compared with `encode(value)`. Parts of another class or
  length than in `value` stay as they are.

  Args:
    found: as `migrate` returns it.
    value: dataclasses, and tuples of them; `found` is JSON of an earlier
      version of such a value.
    writer: as `migrate` returns it.

  Raises:
    ValueError: as `fill_defaults`.
  """
  if isinstance(value, tuple) and isinstance(found, list):
    if len(value) != len(found):
      return found
    pairs = zip(found, value, strict=True)
    return [fill_nested_defaults(f, v, writer) for f, v in pairs]
  name = type(value).__name__
  if (
    not dataclasses.is_dataclass(value)
    or not isinstance(found, dict)
    or found.get(_CLASS, name) != name
  ):
    return found
  tag = {_CLASS: name} if _CLASS in found else {}
  fields = {key: item for key, item in found.items() if key != _CLASS}
  full = encode(fill_defaults(type(value), fields, writer), tagged=bool(tag))
  return tag | {
    key: fill_nested_defaults(item, getattr(value, key), writer)
    for key, item in full.items()
  }


def encode(value: Any, *, tagged: bool = True, finite: bool = True) -> Any:
  """Returns `value` as JSON types; floats keep every bit through `json`.

  Args:
    value: scalars, and lists, tuples, string-keyed mappings and dataclasses of
      them.
    tagged: store the class's name with each dataclass.
    finite: whether floats must be; otherwise null stands for one that is not.

  Raises:
    ValueError: a float that JSON cannot hold, or another type.
  """
  each = functools.partial(encode, tagged=tagged, finite=finite)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    data = {
      field.name: each(getattr(value, field.name))
      for field in dataclasses.fields(value)
    }
    return ({_CLASS: type(value).__name__} if tagged else {}) | data
  if isinstance(value, (list, tuple)):
    return [each(item) for item in value]
  if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
    return {key: each(item) for key, item in value.items()}
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float) and (math.isfinite(value) or not finite):
    return value if math.isfinite(value) else None
  raise ValueError(
    "A file can hold finite scalars, tuples, string-keyed dicts and "
    f"dataclasses of them, got {value!r}. Convert it first."
  )


def decode(data: Any, classes: Mapping[str, type], writer: Writer) -> Any:
  """Returns the dataclasses that `encode` was given; they must hold no mapping.

  Lists are returned as tuples.

  Args:
    data: as `migrate` returns it.
    classes: the classes that it may hold, by name.
    writer: as `migrate` returns it.

  Raises:
    ValueError: as `build`.
    UnknownVersionError: a class that is not among `classes`.
  """
  if isinstance(data, list):
    return tuple(decode(item, classes, writer) for item in data)
  if not isinstance(data, dict):
    return data
  name = data.get(_CLASS)
  if not isinstance(name, str) or name not in classes:
    raise UnknownVersionError(
      f"drope_jax {drope_jax.__version__} reads {', '.join(sorted(classes))} "
      f"here, got {name!r} in a file of {writer}. Install that version, or a "
      "newer one."
    )
  fields = {
    key: decode(item, classes, writer)
    for key, item in data.items()
    if key != _CLASS
  }
  return build(classes[name], fields, writer)


def default(field: dataclasses.Field) -> Any:
  """Returns a field's default, or `dataclasses.MISSING`."""
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default
