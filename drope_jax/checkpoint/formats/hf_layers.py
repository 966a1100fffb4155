"""Which positions and which window each layer has, as choices share it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Scheme
from drope_jax.positional import pattern as patterns

FULL, SLIDING = "full_attention", "sliding_attention"
"""The values of layer_types."""


@dataclasses.dataclass(frozen=True)
class Layers:
  """The positions and the window of each layer.

  Attributes:
    schemes: one a layer.
    windows: likewise; None where a layer sees all tokens before it.
  """

  schemes: tuple[Scheme, ...]
  windows: tuple[int | None, ...]

  @classmethod
  def of(cls, config: ModelConfig) -> "Layers":
    """Returns a config's layers."""
    plan = patterns.layer_plan(config.positional, config.num_layers)
    schemes = patterns.layer_schemes(config.positional, config.num_layers)
    return cls(schemes, plan.windows or (None,) * config.num_layers)

  @property
  def rotary(self) -> tuple[Scheme, ...]:
    """The distinct schemes other than Nope."""
    return tuple(dict.fromkeys(s for s in self.schemes if s != Nope()))

  @property
  def sizes(self) -> tuple[int, ...]:
    """The distinct windows."""
    return tuple(dict.fromkeys(w for w in self.windows if w is not None))


def types(values: Mapping[str, Any], period: int) -> list[str]:
  """Returns each layer's type.

  Args:
    values: config.json's fields.
    period: without layer_types, the last of so many layers sees all tokens.
  """
  N = values["num_hidden_layers"]
  by_default = [FULL if (n + 1) % period == 0 else SLIDING for n in range(N)]
  return values["layer_types"] or by_default
