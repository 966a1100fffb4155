"""A configuration of another project, held to a table of its fields.

A format names each field that it honors with its kind, and those that change
no logit. All else is refused, once, before anything is made of it.
"""

from collections.abc import Collection, Mapping
from typing import Any

from drope_jax.checkpoint.formats import kinds as kinds_lib
from drope_jax.checkpoint.formats.kinds import Kind


def read(
  data: Mapping[str, Any],
  kinds: Mapping[str, Kind],
  *,
  defaults: Mapping[str, Any],
  inert: Collection[str] = (),
) -> dict[str, Any]:
  """Returns every field of `kinds`; where one is absent, its default.

  Null is the same as absent, unless it is of the field's kind.

  Args:
    data: the configuration.
    kinds: the fields that are honored.
    defaults: of the fields that may be absent.
    inert: fields that change no logit; of any kind.

  Raises:
    ValueError: fields are missing, unknown or of another kind; names them all.
  """
  given = {
    name: value
    for name, value in data.items()
    if value is not None or (name in kinds and kinds[name].holds(None))
  }
  wrong = kinds_lib.complaints(given, kinds)
  wrong += [
    f"{name} must be {kind}, got none"
    for name, kind in kinds.items()
    if name not in given and name not in defaults
  ]
  unknown = sorted(given.keys() - kinds.keys() - set(inert))
  unknown = [name if name.isprintable() else repr(name) for name in unknown]
  advice = "Put the model's there."
  if unknown:
    wrong.append(
      f"every field must be one that is honored here, got {', '.join(unknown)}"
    )
    advice = "Remove a field only if it changes nothing."
  if wrong:
    raise ValueError(
      f"{'; '.join(wrong)}. This cannot be read exactly. {advice}"
    )
  return {name: given.get(name, defaults.get(name)) for name in kinds}
