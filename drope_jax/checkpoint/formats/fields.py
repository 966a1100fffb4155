"""A configuration of another project, held to a table of its fields.

A format names each field that it honours with its kind, and those that change
no logit. All else is refused, once, before anything is made of it.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
import pathlib
from typing import Any

from drope_jax.checkpoint.formats import kinds as kinds_lib
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.kinds import Kind

MOST_JSON_BYTES = 64 * 2**20
"""Of a configuration or an index; parsed, JSON takes many times its bytes."""


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a file.

  Raises:
    ValueError: it holds no JSON, or no object, or more than `MOST_JSON_BYTES`.
  """
  if (size := path.stat().st_size) > MOST_JSON_BYTES:
    raise ValueError(
      f"{path} must be at most {MOST_JSON_BYTES} bytes, got {size}. Fetch it "
      "again."
    )
  try:
    data = json.loads(path.read_text(encoding="utf-8"))
  except RecursionError as error:
    raise ValueError(
      f"{path} must be JSON that is not nested deeper than Python reads, got "
      "more. Fetch it again."
    ) from error
  except ValueError as error:
    raise ValueError(
      f"{path} must be JSON, got {error}. Fetch it again."
    ) from error
  if not isinstance(data, dict):
    raise ValueError(
      f"{path} must be a JSON object, got {type(data).__name__}. Fetch it "
      "again."
    )
  return data


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
    kinds: the fields that are honoured.
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
  advice = "Put the model's there."
  if unknown:
    wrong.append(
      f"every field must be one that is honoured here, got {', '.join(unknown)}"
    )
    advice = "Remove a field only if it changes nothing."
  if wrong:
    raise ValueError(
      f"{'; '.join(wrong)}. This cannot be read exactly. {advice}"
    )
  return {name: given.get(name, defaults.get(name)) for name in kinds}


@dataclasses.dataclass
class Fields:
  """A configuration of which every field must be taken.

  Attributes:
    data: the object; fields that are taken leave `left`.
    inert: fields that change no logit, and need not be taken.
    defaults: what a field is where it is absent.
  """

  data: Mapping[str, Any]
  inert: Collection[str] = ()
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    self.left = set(self.data) - set(self.inert)

  def take(self, name: str, default: Any = None) -> Any:
    """Returns a field; where it is absent, `defaults`' or this default."""
    self.left.discard(name)
    return self.data.get(name, self.defaults.get(name, default))

  def whole(self, name: str, default: int | None = None) -> int:
    """Returns a field that counts something."""
    return self._of_type(int, "a whole number", name, default)

  def number(self, name: str, default: float | None = None) -> float:
    """Returns a field that measures something."""
    return float(self._of_type((int, float), "a number", name, default))

  def require(self, name: str, allowed: tuple) -> None:
    """Checks a field that changes the model unless it is as `allowed`."""
    value = self.take(name, allowed[0])
    if value not in allowed:
      raise ValueError(
        f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}. "
        "This checkpoint cannot be read exactly."
      )

  def refuse_the_rest(self) -> None:
    """Raises where a field was not taken."""
    if self.left:
      raise ValueError(
        "Every field must be one that is honoured here, got "
        f"{tensors_lib.listed(self.left)}. This checkpoint cannot be read "
        "exactly; remove a field that changes nothing."
      )

  def _of_type(self, kind, description, name, default):
    value = self.take(name)
    value = default if value is None else value
    if not isinstance(value, kind) or isinstance(value, bool):
      raise ValueError(
        f"{name} must be {description}, got {value!r}. Put the model's there."
      )
    return value
