"""A configuration in JSON of which every field is honoured or refused."""

from collections.abc import Collection, Mapping
import dataclasses
import json
import pathlib
from typing import Any

from drope_jax.checkpoint.formats import tensors as tensors_lib


def load_json(path: pathlib.Path) -> dict[str, Any]:
  """Returns the object in a file.

  Raises:
    ValueError: it holds no JSON, or no object.
  """
  try:
    data = json.loads(path.read_text())
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
