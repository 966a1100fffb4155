"""Each layer's positions and window, as config.json says them.

Each class is one way of saying them. It reads and it writes, side by side, so
that what is written is read back as the same model.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import types
from typing import Any

from drope_jax.checkpoint.formats import rope_parameters
from drope_jax.checkpoint.formats.hf_choices import Choice
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  ListOf,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Scheme, rotary
from drope_jax.positional import pattern as patterns

FULL, SLIDING = "full_attention", "sliding_attention"


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


@dataclasses.dataclass(frozen=True)
class Positions(Choice):
  """One rotation for all layers.

  Attributes:
    no_rotation: which of `rope_parameters.NO_ROTATION` a model without
      positions leaves with.
  """

  no_rotation: str = "llama3"

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    """Returns each layer's scheme, by config.json's fields."""
    return [_rope(values)] * values["num_hidden_layers"]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return _rope_fields(config, rope_parameters.NO_ROTATION[self.no_rotation])

  def misfit(self, config: ModelConfig) -> str | None:
    layers = Layers.of(config)
    if layers.rotary and Nope() in layers.schemes:
      return "layers without positions beside layers with them"
    return _rotary_misfit(layers)

  def rotates_by_nothing(self, config: ModelConfig) -> bool:
    """Returns whether a model without positions leaves with `no_rotation`."""
    return not Layers.of(config).rotary


@dataclasses.dataclass(frozen=True)
class PositionsByLayer(Positions):
  """One rotation for some layers, which no_rope_layers names."""

  kinds = types.MappingProxyType(
    {"no_rope_layers": ListOf(OneOf(0, 1)), "no_rope_layer_interval": Whole()}
  )
  defaults = types.MappingProxyType(
    {"no_rope_layers": None, "no_rope_layer_interval": 4}
  )

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    scheme, N = _rope(values), values["num_hidden_layers"]
    rotated = values["no_rope_layers"]
    if rotated is None:
      interval = values["no_rope_layer_interval"]
      rotated = [int((n + 1) % interval != 0) for n in range(N)]
    if len(rotated) != N:
      raise ValueError(
        f"no_rope_layers must have a 0 or 1 for each of {N} layers, got "
        f"{len(rotated)}. Put the model's there."
      )
    # Despite its name, 1 means that the layer has RoPE.
    return [scheme if rotates else Nope() for rotates in rotated]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    unused = {"rope_type": "default", "rope_theta": 10_000.0}
    rotated = [int(scheme != Nope()) for scheme in Layers.of(config).schemes]
    return _rope_fields(config, unused) | {"no_rope_layers": rotated}

  def misfit(self, config: ModelConfig) -> str | None:
    return _rotary_misfit(Layers.of(config))

  def rotates_by_nothing(self, config: ModelConfig) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class NoPositions(Positions):
  """No positions in any layer, whatever the fields of a rotation say."""

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    _rope(values)  # Refuses what is no rotation.
    return [Nope()] * values["num_hidden_layers"]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"rope_theta": 10_000.0, "rope_scaling": None}

  def misfit(self, config: ModelConfig) -> str | None:
    return "positions in some layers" if Layers.of(config).rotary else None

  def rotates_by_nothing(self, config: ModelConfig) -> bool:
    return False


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
class UpperWindows(WindowsByLayer):
  """As `WindowsByLayer`; where layer_types is absent, from max_window_layers.

  Attributes:
    are_written: whether a model with windows may leave so.
  """

  are_written: bool = True

  kinds = types.MappingProxyType(
    {**WindowsByLayer.kinds, "max_window_layers": Whole(least=0)}
  )
  defaults = types.MappingProxyType(
    {**WindowsByLayer.defaults, "max_window_layers": 28}
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


def positional(
  positions: Positions, windows: Windows, values: Mapping[str, Any]
) -> Scheme | patterns.Pattern:
  """Returns `ModelConfig.positional`, by config.json's fields.

  Raises:
    ValueError: the fields contradict each other.
  """
  schemes, named = positions.schemes(values), values["layer_types"]
  if named is not None and len(named) != len(schemes):
    raise ValueError(
      f"layer_types must have one for each of {len(schemes)} layers, got "
      f"{len(named)}. Put the model's there."
    )
  sizes = windows.windows(values, schemes)
  if named is not None and named != [SLIDING if w else FULL for w in sizes]:
    raise ValueError(
      "layer_types must say what the other fields of windows do, got "
      f"{', '.join(sorted(set(named)))} where the windows are "
      f"{', '.join(map(str, dict.fromkeys(sizes)))}. Put the model's there."
    )
  return patterns.of_layers(schemes, sizes)


def _rope(values: Mapping[str, Any]) -> Scheme:
  scheme = rope_parameters.read(
    values["rope_scaling"] or values["rope_parameters"] or {},
    values["rope_theta"],
    values["max_position_embeddings"],
    values["original_max_position_embeddings"],
  )
  return rope_parameters.simplest(scheme, values["head_dim"])


def _rope_fields(
  config: ModelConfig, without: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a rotation's fields in transformers 4's form, which 5 reads too.

  Args:
    config: the model's.
    without: the rotation that is written where no layer has one.
  """
  rotates, rope = Layers.of(config).rotary, without
  if rotates:
    rope = rope_parameters.write(
      rotates[0], config.head_dim, config.context_tokens
    )
  scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
  is_plain = scaling["rope_type"] == "default"
  written = {
    "rope_theta": rope["rope_theta"],
    "rope_scaling": None if is_plain else scaling,
  }
  if scaling["rope_type"] == "longrope":
    # transformers 4 looks for it here alone.
    trained = "original_max_position_embeddings"
    written[trained] = scaling[trained]
  return written


def _rotary_misfit(layers: Layers) -> str | None:
  if len(layers.rotary) > 1:
    return f"{len(layers.rotary)} kinds of positions"
  for scheme in layers.rotary:
    if not isinstance(scheme, rotary.Rotary):
      return f"{type(scheme).__name__} positions"
  return None


def _size_misfit(sizes: Sequence[int]) -> str | None:
  if len(sizes) > 1:
    return f"windows of {' and '.join(map(str, sizes))} tokens"
  return None
