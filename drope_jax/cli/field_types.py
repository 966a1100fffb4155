"""Checks a config's values against the annotations of their fields."""

from collections.abc import Mapping
import types
import typing
from typing import Any


def check(value: Any, hint: Any) -> Any:
  """Returns `value` as the type `hint`; an int becomes a float if needed.

  A bool is not accepted as an int, and a float neither, even if it is whole.

  Args:
    value: a scalar, None, a tuple, a dict, or a dataclass.
    hint: a scalar type, None, a class, a protocol, a Literal, a tuple or a
      Mapping of these, or a union of them.

  Raises:
    TypeError: it has another type. The message is to follow "Class.field".
  """
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    for argument in arguments:
      try:
        return check(value, argument)
      except TypeError:
        continue
  elif origin is tuple and isinstance(value, tuple):
    if arguments[-1:] == (...,):
      arguments = arguments[:1] * len(value)
    if len(arguments) == len(value):
      return tuple(map(check, value, arguments))
  elif origin is Mapping and isinstance(value, Mapping):
    key_hint, value_hint = arguments
    return {check(k, key_hint): check(v, value_hint) for k, v in value.items()}
  elif hint is float and type(value) is int:
    return float(value)
  elif _is_a(value, hint):
    return value
  advice = _advice(value, hint)
  raise TypeError(f"must be {_spell(hint)}, got {value!r}{advice}")


def _advice(value: Any, hint: Any) -> str:
  if not isinstance(value, str | int | float):
    return ""
  try:
    check((value,), hint)
    return f". Write ({value!r},)"
  except TypeError:
    is_whole = isinstance(value, float) and value.is_integer()
    return f". Write {int(value)}" if is_whole else ""


def _is_a(value: Any, hint: Any) -> bool:
  if typing.get_origin(hint) is typing.Literal:
    return value in typing.get_args(hint)
  if hint in (bool, int, float, str, types.NoneType):
    return type(value) is hint
  if getattr(hint, "_is_protocol", False):
    members = [name for name in vars(hint) if not name.startswith("_")]
    return all(hasattr(value, name) for name in members)
  return isinstance(hint, type) and isinstance(value, hint)


def _spell(hint: Any) -> str:
  if typing.get_origin(hint) is typing.Literal:
    return "one of " + ", ".join(map(repr, typing.get_args(hint)))
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return " or ".join(map(_spell, typing.get_args(hint)))
  if typing.get_origin(hint) is Mapping:
    return "a dict of " + " to ".join(map(_spell, typing.get_args(hint)))
  if hint is types.NoneType:
    return "None"
  if typing.get_origin(hint) is tuple:
    *parts, last = map(_spell, typing.get_args(hint))
    if last == "Ellipsis":
      return f"a tuple of {parts[0]}"
    return f"({', '.join([*parts, last])})"
  is_class = isinstance(hint, type) and typing.get_origin(hint) is None
  return hint.__name__ if is_class else str(hint)
