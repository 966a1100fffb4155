"""Evaluates the bindings of a config: scopes, references and macros.

The rules are gin's, plus checks against the dataclasses' annotations. No state
is kept between two configs.
"""

from collections.abc import Iterable
import dataclasses
import difflib
import typing
from typing import Any, NamedTuple

from drope_jax.cli import field_types


class ConfigError(ValueError):
  """A mistake in a config; the message begins with its file and line."""


class Reference(NamedTuple):
  """`@scope/Class()`; without a scope it has that of the place of its use."""

  scope: tuple[str, ...]
  name: str
  evaluate: bool


class Macro(NamedTuple):
  """`%NAME`, which stands for the value of `NAME = value`."""

  name: str


class _Binding(NamedTuple):
  value: Any
  where: str


class Bindings:
  """All bindings of a config, with a record of which took effect."""

  def __init__(self, classes: Iterable[type]):
    self._classes = {cls.__name__: cls for cls in classes}
    self._macros: dict[str, _Binding] = {}
    # Keyed by (scope, class, field).
    self._fields: dict[tuple[str, str, str], _Binding] = {}
    self._replaced: list[tuple[str, Any]] = []  # Scopes and values.
    self._used: set[int] = set()  # By id: a value need not be hashable.

  def bind(
    self, scope: str, name: str, field: str, value: Any, where: str
  ) -> None:
    """Binds scope/name.field, or the macro scope/name if `field` is empty.

    A later binding of the same name replaces an earlier one and the parts to
    which that one refers.

    Raises:
      ConfigError: there is no class of this name, or it has no such field.
    """
    if not field:
      self._macros["/".join(filter(None, (scope, name)))] = _Binding(
        value, where
      )
      return
    fields = _field_names(self._find(name, where))
    if field not in fields:
      raise ConfigError(
        f"{where}: {name} has no field {field!r}; {_nearest(field, fields)}"
      )
    if earlier := self._fields.get((scope, name, field)):
      self._replaced.append((scope, earlier.value))
    self._fields[scope, name, field] = _Binding(value, where)

  def construct(
    self,
    name: str,
    scope: tuple[str, ...] = (),
    where: str = "",
    inside: tuple[str, ...] = (),
  ) -> Any:
    """Returns an instance of class `name`, with the bindings of `scope`.

    Args:
      name: of the class.
      scope: outermost first; a field has its innermost binding.
      where: file and line of the reference.
      inside: references and macros that contain this one.

    Raises:
      ConfigError: an unknown name, a wrong type, or a part of itself.
      ValueError: a required field is not bound, or the class refuses a value.
    """
    cls = self._find(name, where)
    scoped = "/".join((*scope, name))
    inside = _enter(f"@{scoped}", inside, where)
    bound = self._bound(name, scope)
    self._used.update(map(id, bound.values()))
    missing = [f for f in _field_names(cls, required=True) if f not in bound]
    if missing:
      raise ValueError(
        f"{scoped} needs a value for {', '.join(missing)}, got none. Bind "
        f"{scoped}.{missing[0]}, or include a file that does."
      )
    hints = typing.get_type_hints(cls)
    values = {}
    for field, binding in bound.items():
      value = self._resolve(binding.value, scope, binding.where, inside)
      try:
        values[field] = field_types.check(value, hints[field])
      except TypeError as error:
        raise ConfigError(f"{binding.where}: {name}.{field} {error}") from None
    return cls(**values)

  def refuse_unrelated(self, name: str, where: str) -> None:
    """Raises ConfigError if fields are bound, but none of class `name`."""
    bound = dict.fromkeys(cls for _, cls, _ in self._fields)
    if bound and name not in bound:
      raise ConfigError(
        f"{where}: a config of a {name} is required, got one that binds "
        f"{', '.join(bound)}. Give a file that binds {name}."
      )

  def refuse_unused(self) -> None:
    """Raises ConfigError if a binding or a macro has no effect on the result.

    Bindings of a part that a later binding replaced are allowed: a file that
    replaces a part cannot remove its bindings from the file that it includes.
    """
    for scope, value in self._replaced:
      self._mark_used(value, tuple(filter(None, scope.split("/"))))
    names = {f"%{name}": binding for name, binding in self._macros.items()} | {
      f"{scope}/{name}.{field}".lstrip("/"): binding
      for (scope, name, field), binding in self._fields.items()
    }
    unused = [
      f"{binding.where}: {name}"
      for name, binding in names.items()
      if id(binding) not in self._used
    ]
    if unused:
      raise ConfigError(
        f"{', '.join(unused)} changes nothing in the result: no part uses it, "
        "or a binding with an inner scope overrides it. Remove it, or correct "
        "its scope."
      )

  def _bound(self, name: str, scope: tuple[str, ...]) -> dict[str, _Binding]:
    """Returns the innermost binding of each field of a class in a scope."""
    bound = {}
    for depth in range(len(scope) + 1):
      prefix = "/".join(scope[:depth])
      for key, binding in self._fields.items():
        if key[:2] == (prefix, name):
          bound[key[2]] = binding
    return bound

  def _mark_used(
    self, value: Any, scope: tuple[str, ...], inside: tuple[Any, ...] = ()
  ) -> None:
    """Marks as used the bindings of a value that was replaced."""
    match value:
      case Reference() if value not in inside:
        scope = value.scope or scope
        for binding in self._bound(value.name, scope).values():
          self._used.add(id(binding))
          self._mark_used(binding.value, scope, (*inside, value))
      case Macro(name) if name in self._macros and value not in inside:
        self._used.add(id(self._macros[name]))
        self._mark_used(self._macros[name].value, scope, (*inside, value))
      case list() | tuple():
        for part in value:
          self._mark_used(part, scope, inside)
      case dict():
        for part in value.values():
          self._mark_used(part, scope, inside)

  def _resolve(
    self,
    value: Any,
    scope: tuple[str, ...],
    where: str,
    inside: tuple[str, ...],
  ) -> Any:
    match value:
      case Reference(_, name, evaluate=False):
        raise ConfigError(
          f"{where}: a field needs an instance, got the class @{name}. Write "
          f"@{name}()."
        )
      case Reference():
        return self.construct(value.name, value.scope or scope, where, inside)
      case Macro(name):
        if name not in self._macros:
          raise ConfigError(
            f"{where}: the macro %{name} is not defined; "
            f"{_nearest(name, self._macros)}"
          )
        binding = self._macros[name]
        self._used.add(id(binding))
        inside = _enter(f"%{name}", inside, where)
        return self._resolve(binding.value, scope, binding.where, inside)
      case list() | tuple():
        return tuple(self._resolve(v, scope, where, inside) for v in value)
      case dict():
        return {
          key: self._resolve(part, scope, where, inside)
          for key, part in value.items()
        }
    return value

  def _find(self, name: str, where: str) -> type:
    if name not in self._classes:
      raise ConfigError(
        f"{where}: no class {name!r} can be configured; "
        f"{_nearest(name, self._classes)}"
      )
    return self._classes[name]


def _enter(node: str, inside: tuple[str, ...], where: str) -> tuple[str, ...]:
  if node in inside:
    raise ConfigError(
      f"{where}: {node} is a part of itself. Remove the circular reference."
    )
  return (*inside, node)


def _field_names(cls: type, required: bool = False) -> list[str]:
  names = []
  for field in dataclasses.fields(cls):
    defaults = {id(field.default), id(field.default_factory)}
    has_default = defaults != {id(dataclasses.MISSING)}
    if field.init and not (required and has_default):
      names.append(field.name)
  return names


def _nearest(name: str, names: Iterable[str]) -> str:
  """Returns advice: the most similar of `names`, or all of them."""
  near = difflib.get_close_matches(name, names, n=1)
  if near:
    return f"did you mean {near[0]!r}?"
  return (
    f"use one of: {', '.join(sorted(names))}." if names else "there is none."
  )
