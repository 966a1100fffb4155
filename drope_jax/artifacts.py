"""Dataclasses in JSON files, which every later version of the code reads.

A file holds the fields of a dataclass, the `schema_version` of its form, and
the code that wrote it. Of a file that another version wrote:

- A field that the file lacks has its default.
- A field that was renamed, moved or retyped since is translated (`MIGRATIONS`).
- A field that is not known is refused, and the code that wrote it is named.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
import reprlib
from typing import Any

import drope_jax
from drope_jax import revision

VERSION = 4
"""Of the form of all files, since one class lies in several kinds of them.

Before they counted together, manifests were at 1, results.json at 2, and token
stores at 3.
"""

_CLASS, _VERSION, _CODE = "__class__", "schema_version", "code"

Migration = Callable[[dict[str, Any]], dict[str, Any]]


def _name_remat(phase: dict[str, Any]) -> dict[str, Any]:
  # It was a boolean before policies had names.
  names = {False: "none", True: "full"}
  remat = phase.get("remat")
  return phase | {"remat": names[remat]} if isinstance(remat, bool) else phase


MIGRATIONS: Mapping[int, Mapping[str, Migration]] = {
  4: {"TrainPhase": _name_remat},
}
"""By the version that they lead to and the class: old JSON fields to new ones.

Classes within a file are known by the name that is stored with them, the file's
own by the name that `opened` is given; parts without a name are its own's. All
of one version are applied before any of the next, so that a field may move from
class to class.
"""


class UnknownFormError(ValueError):
  """A file may be whole, but code other than this wrote it."""


@dataclasses.dataclass(frozen=True)
class Written:
  """What wrote a file.

  Attributes:
    version: of the file's form.
    code: as `revision.describe` has it; None: the file does not say.
  """

  version: int
  code: str | None = None

  def __str__(self) -> str:
    code = "an unnamed version" if self.code is None else self.code
    return f"{code} (schema_version {self.version})"


def signed(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content of a file with these fields, which this code writes."""
  return {_VERSION: VERSION, _CODE: revision.describe()} | dict(fields)


def opened(
  name: str, data: Any, code: str | None = None
) -> tuple[dict[str, Any], Written]:
  """Returns a file's fields, in the form of this version, and what wrote it.

  Fields that a class has gained since are not there yet: see `current`.

  Args:
    name: of the file's class, as in `MIGRATIONS`.
    data: the file's JSON.
    code: that wrote it, where the file has that in a place of its own.

  Raises:
    ValueError: it holds no fields.
    UnknownFormError: it is of a later version.
  """
  if not isinstance(data, dict):
    raise ValueError(
      f"A {name} file must hold fields, got {reprlib.repr(data)}. Copy it "
      "again, or make it anew."
    )
  fields = dict(data)
  version = fields.pop(_VERSION, 1)
  if code is None:
    code = fields.pop(_CODE, None)
  written = Written(version, code)
  if type(version) is not int or not 1 <= version <= VERSION:
    raise UnknownFormError(
      f"drope_jax {drope_jax.__version__} reads files of schema_version 1 to "
      f"{VERSION}, got a {name} file by {written}. Install the version that "
      "wrote it, or a newer one."
    )
  for step in range(version + 1, VERSION + 1):
    fields = _migrated(fields, MIGRATIONS.get(step, {}), name)
  return fields, written


def _migrated(data, migrations, name=None):
  if isinstance(data, list):
    return [_migrated(item, migrations) for item in data]
  # A file within a file is opened by itself.
  if not isinstance(data, dict) or _VERSION in data:
    return data
  data = {key: _migrated(item, migrations) for key, item in data.items()}
  migrate = migrations.get(data.get(_CLASS, name))
  return migrate(data) if migrate else data


def current(
  cls: type, fields: Mapping[str, Any], written: Written
) -> dict[str, Any]:
  """Returns a dataclass's fields in a file, with those that it gained since.

  Raises:
    ValueError: one without a default is missing.
    UnknownFormError: one is unknown.
  """
  if not isinstance(fields, Mapping):
    raise ValueError(
      f"{cls.__name__} must have fields, got {reprlib.repr(fields)}. Copy the "
      "file again, or make it anew."
    )
  known = {field.name: field for field in dataclasses.fields(cls)}
  if unknown := sorted(fields.keys() - known.keys()):
    raise UnknownFormError(
      f"drope_jax {drope_jax.__version__} has no {cls.__name__} with the field "
      f"{', '.join(unknown)}, got one by {written}. Install "
      "that version, or a newer one."
    )
  gained = {name: _default(known[name]) for name in known if name not in fields}
  missing = [n for n, value in gained.items() if value is dataclasses.MISSING]
  if missing:
    raise ValueError(
      f"{cls.__name__} needs {', '.join(missing)}, got one without by "
      f"{written}. Copy the file again, or make it anew."
    )
  return {**fields, **gained}


def build(cls: type, fields: Mapping[str, Any], written: Written) -> Any:
  """Returns the dataclass that has these fields in a file.

  Raises:
    ValueError: as `current`; or values that it refuses.
  """
  fields = current(cls, fields, written)
  try:
    return cls(**fields)
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f"{cls.__name__} needs values of its fields' types, got {fields} "
      f"({error}). Copy the file again, or make it anew."
    ) from error


def completed(found: Any, value: Any, written: Written) -> Any:
  """Returns what a file has of `value`, with the fields gained since.

  For what is compared rather than read: parts of another class, or of another
  length, stay as they are.

  Args:
    found: as `opened`.
    value: dataclasses, and tuples of them, that `encode` wrote an earlier
      version of.
    written: as `opened`.

  Raises:
    ValueError: as `current`.
  """
  if isinstance(value, tuple) and isinstance(found, list):
    if len(value) != len(found):
      return found
    pairs = zip(found, value, strict=True)
    return [completed(f, v, written) for f, v in pairs]
  name = type(value).__name__
  if (
    not dataclasses.is_dataclass(value)
    or not isinstance(found, dict)
    or found.get(_CLASS, name) != name
  ):
    return found
  tag = {_CLASS: name} if _CLASS in found else {}
  fields = {key: item for key, item in found.items() if key != _CLASS}
  full = encode(current(type(value), fields, written), tagged=bool(tag))
  return tag | {
    key: completed(item, getattr(value, key), written)
    for key, item in full.items()
  }


def encode(value: Any, *, tagged: bool = True) -> Any:
  """Returns `value` in JSON types; floats survive `json` bit for bit.

  Args:
    value: scalars, and lists, tuples, string-keyed mappings and dataclasses of
      them.
    tagged: whether a dataclass carries its class's name.

  Raises:
    ValueError: a float that JSON cannot hold, or another type.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    data = {
      field.name: encode(getattr(value, field.name), tagged=tagged)
      for field in dataclasses.fields(value)
    }
    return ({_CLASS: type(value).__name__} if tagged else {}) | data
  if isinstance(value, (list, tuple)):
    return [encode(item, tagged=tagged) for item in value]
  if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
    return {key: encode(item, tagged=tagged) for key, item in value.items()}
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float) and math.isfinite(value):
    return value
  raise ValueError(
    "A file holds finite scalars, tuples, string-keyed dicts and dataclasses "
    f"of them, got {value!r}. Convert it first."
  )


def decode(data: Any, classes: Mapping[str, type], written: Written) -> Any:
  """Returns the dataclasses that `encode` was given, which held no mapping.

  Lists come back as tuples.

  Args:
    data: as `opened`.
    classes: that it may hold, by their names.
    written: as `opened`.

  Raises:
    ValueError: as `build`.
    UnknownFormError: a class that is not among `classes`.
  """
  if isinstance(data, list):
    return tuple(decode(item, classes, written) for item in data)
  if not isinstance(data, dict):
    return data
  name = data.get(_CLASS)
  if name not in classes:
    raise UnknownFormError(
      f"drope_jax {drope_jax.__version__} reads {', '.join(sorted(classes))} "
      f"here, got {name!r} by {written}. Install that version, or a "
      "newer one."
    )
  fields = {
    key: decode(item, classes, written)
    for key, item in data.items()
    if key != _CLASS
  }
  return build(classes[name], fields, written)


def _default(field: dataclasses.Field) -> Any:
  """Returns a field's default; `MISSING` where it has none."""
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default
