"""Windows as config.json says them, each way read and written."""

from collections.abc import Mapping, Sequence
import dataclasses
import types
from typing import Any

from drope_jax.checkpoint.formats import hf_layers
from drope_jax.checkpoint.formats.hf_choices import Choice
from drope_jax.checkpoint.formats.hf_layers import FULL, SLIDING, Layers
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Scheme


class Windows(Choice):
  """No windows."""

  def windows(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[int | None]:
    """Returns each layer's window, in tokens with the query itself.

    Args:
      values: config.json's fields.
      schemes: one a layer.
    """
    return [None] * len(schemes)

  def misfit(self, config: ModelConfig) -> str | None:
    sizes = Layers.of(config).sizes
    return _size_misfit(sizes) or ("windows" if sizes else None)


class OneWindow(Windows):
  """One window for all layers, or none."""

  kinds = types.MappingProxyType({"sliding_window": Optional(Whole())})
  defaults = types.MappingProxyType({"sliding_window": 4096})

  def windows(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[int | None]:
    return [values["sliding_window"]] * len(schemes)

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": Layers.of(config).windows[0]}

  def misfit(self, config: ModelConfig) -> str | None:
    layers = Layers.of(config)
    in_some = layers.sizes and None in layers.windows
    return _size_misfit(layers.sizes) or (
      "windows in some layers" if in_some else None
    )


class WindowsByLayer(Windows):
  """One window, in the layers that layer_types names, or in none.

  Where layer_types is absent, it is in the layers without positions.
  """

  kinds = types.MappingProxyType(
    {"use_sliding_window": Flag(), "sliding_window": Optional(Whole())}
  )
  defaults = types.MappingProxyType(
    {"use_sliding_window": False, "sliding_window": None}
  )

  def windows(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[int | None]:
    if not values["use_sliding_window"]:
      return [None] * len(schemes)
    named = values["layer_types"]
    windowed = (
      self.by_default(values, schemes)
      if named is None
      else [kind == SLIDING for kind in named]
    )
    return [values["sliding_window"] if has else None for has in windowed]

  def by_default(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[bool]:
    """Returns which layers have the window where layer_types is absent."""
    return [scheme == Nope() for scheme in schemes]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    layers = Layers.of(config)
    return {
      "sliding_window": layers.sizes[0] if layers.sizes else None,
      "use_sliding_window": bool(layers.sizes),
      "layer_types": [SLIDING if w else FULL for w in layers.windows],
    }

  def misfit(self, config: ModelConfig) -> str | None:
    return _size_misfit(Layers.of(config).sizes)


@dataclasses.dataclass(frozen=True)
class WindowsByType(Windows):
  """One window, in the layers that layer_types names.

  Attributes:
    period: where layer_types is absent, the last of so many layers has none.
  """

  period: int

  @property
  def kinds(self) -> Mapping[str, Kind]:
    period = OneOf(self.period)
    return {
      "sliding_window": Optional(Whole()),
      "sliding_window_pattern": period,
      "_sliding_window_pattern": period,
    }

  defaults = types.MappingProxyType(
    {
      "sliding_window": 4096,
      "sliding_window_pattern": None,
      "_sliding_window_pattern": None,
    }
  )

  def windows(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[int | None]:
    window = values["sliding_window"]
    kinds = hf_layers.types(values, self.period)
    return [window if kind == SLIDING else None for kind in kinds]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    layers = Layers.of(config)
    # transformers needs one even where no layer has it.
    unused = self.defaults["sliding_window"]
    return {
      "sliding_window": layers.sizes[0] if layers.sizes else unused,
      "layer_types": [SLIDING if w else FULL for w in layers.windows],
    }

  def misfit(self, config: ModelConfig) -> str | None:
    return _size_misfit(Layers.of(config).sizes)


@dataclasses.dataclass(frozen=True)
class UpperWindows(WindowsByLayer):
  """As `WindowsByLayer`; where layer_types is absent, from max_window_layers.

  Attributes:
    are_written: whether a model with windows may be exported so.
  """

  are_written: bool = True

  kinds = types.MappingProxyType(
    {**WindowsByLayer.kinds, "max_window_layers": Whole(least=0)}
  )
  defaults = types.MappingProxyType(
    {
      "use_sliding_window": False,
      "sliding_window": 4096,
      "max_window_layers": 28,
    }
  )

  def by_default(
    self, values: Mapping[str, Any], schemes: Sequence[Scheme]
  ) -> list[bool]:
    return [n >= values["max_window_layers"] for n in range(len(schemes))]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return super().write(config) | {"max_window_layers": config.num_layers}

  def misfit(self, config: ModelConfig) -> str | None:
    if Layers.of(config).sizes and not self.are_written:
      return "windows"
    return super().misfit(config)


def _size_misfit(sizes: Sequence[int]) -> str | None:
  if len(sizes) > 1:
    return f"windows of {' and '.join(map(str, sizes))} tokens"
  return None
