"""Configs in JSON as readable lines."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
from typing import Any

from drope_jax import artifacts

_CLASS = "__class__"


def rows(
  fields: Mapping[str, Any], classes: Sequence[type] = ()
) -> list[tuple[str, str]]:
  """Returns (name, value) of each field, and of the fields of dataclasses.

  Args:
    fields: JSON values. A dataclass is a dict of its fields, with its name
      under "__class__".
    classes: dataclasses whose fields are left out if they have their default.
  """
  listed = []
  for name, value in fields.items():
    if not isinstance(value, dict):
      listed.append((name, _line(value, classes)))
      continue
    if _CLASS in value:
      listed.append((name, value[_CLASS]))
    inside = _without_defaults(value, classes)
    listed += [(f"{name}.{key}", _line(v, classes)) for key, v in inside]
  return listed


def changed(fields: Mapping[str, Any], cls: type) -> list[tuple[str, str]]:
  """Returns (name, value) of each field of a `cls` that is not its default."""
  given = _without_defaults({_CLASS: cls.__name__, **fields}, [cls])
  return [(name, _line(value, [])) for name, value in given]


def spell(value: Any, classes: Sequence[type] = ()) -> str:
  """Returns a value on one line, as Python writes it."""
  match value:
    case dict() if _CLASS in value:
      inside = _without_defaults(value, classes)
      text = ", ".join(f"{name}={spell(v, classes)}" for name, v in inside)
      return f"{value[_CLASS]}({text})"
    case dict():
      text = ", ".join(f"{k!r}: {spell(v, classes)}" for k, v in value.items())
      return f"{{{text}}}"
    case list():
      text = ", ".join(spell(item, classes) for item in value)
      return f"({text}{',' * (len(value) == 1)})"
  return repr(value)


def _line(value: Any, classes: Sequence[type]) -> str:
  return value if isinstance(value, str) else spell(value, classes)


def _without_defaults(
  value: Mapping[str, Any], classes: Sequence[type]
) -> list[tuple[str, Any]]:
  """Returns the fields without those of a class that have their default."""
  defaults: dict[str, Any] = {}
  for cls in classes:
    if cls.__name__ == value.get(_CLASS):
      defaults = {f.name: artifacts.default(f) for f in dataclasses.fields(cls)}
  return [
    (name, item)
    for name, item in value.items()
    if name != _CLASS and not (name in defaults and _same(item, defaults[name]))
  ]


def _same(value: Any, default: Any) -> bool:
  """Returns whether a JSON value is the JSON form of a default."""
  if default is dataclasses.MISSING:
    return False
  return any(
    _text(value) == _text(artifacts.encode(default, tagged=tagged))
    for tagged in (True, False)
  )


def _text(value: Any) -> str:
  # Python says that 1, 1.0 and True are equal.
  return json.dumps(value, sort_keys=True)
