"""Positions as config.json says them, each way read and written."""

from collections.abc import Mapping, Sequence
import dataclasses
import types
from typing import Any

import numpy as np

from drope_jax.checkpoint.formats import (
  hf_layers,
  rope_layout,
  rope_parameters,
)
from drope_jax.checkpoint.formats.hf_choices import Choice, Constant
from drope_jax.checkpoint.formats.hf_layers import FULL, SLIDING, Layers
from drope_jax.checkpoint.formats.kinds import (
  Kind,
  ListOf,
  Number,
  Object,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  LearnedAbsolute,
  Nope,
  PartialRope,
  Rope,
  Scheme,
  Yarn,
  rotary,
)


@dataclasses.dataclass(frozen=True)
class Positions(Choice):
  """One rotation for all layers.

  Attributes:
    no_rotation: which of `rope_parameters.NO_ROTATION` a model without
      positions is exported with.
    kind_field: what names the kind of a rotation. Both names are read; with
      "rope_type" transformers 4 refuses OLMo 2.
  """

  no_rotation: str = "llama3"
  kind_field: str = "rope_type"

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    """Returns each layer's scheme, by config.json's fields."""
    return [_rope(values)] * values["num_hidden_layers"]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    without = rope_parameters.NO_ROTATION[self.no_rotation]
    written = _rope_fields(config, without)
    if scaling := written["rope_scaling"]:
      kind = scaling.pop("rope_type")
      written["rope_scaling"] = {self.kind_field: kind, **scaling}
    return written

  def misfit(self, config: ModelConfig) -> str | None:
    layers = Layers.of(config)
    if layers.rotary and Nope() in layers.schemes:
      return "layers without positions beside layers with them"
    return _one_rotation_misfit(config)

  def rotates_by_zero(self, config: ModelConfig) -> bool:
    """Returns whether the model is exported with `no_rotation`."""
    return not Layers.of(config).rotary

  def by_weights(
    self, config: ModelConfig, tensors: Mapping[str, Tensor]
  ) -> ModelConfig:
    """Returns the model with the positions that its weights say it has."""
    return config

  def order(self, config: ModelConfig) -> np.ndarray | None:
    """Returns which channel of a head each of ours is; None: the same."""
    return None


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
    return _one_rotation_misfit(config)

  def rotates_by_zero(self, config: ModelConfig) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class PositionsByType(Positions):
  """Plain RoPE for layers with a window, one rotation for those without.

  transformers 5 has both in rope_parameters, by layer type. transformers 4 has
  rope_theta, and rope_scaling for layers without a window: it always rotates
  the others. Both forms are written.

  Attributes:
    period: where layer_types is absent, the last of so many layers has no
      window.
    windowed_theta: transformers 4's field for the theta of layers with a
      window; None: it is rope_theta.
  """

  period: int = 4
  windowed_theta: str | None = None

  @property
  def kinds(self) -> Mapping[str, Kind]:
    if self.windowed_theta is None:
      return {}
    return {self.windowed_theta: Number(above=1)}

  @property
  def defaults(self) -> Mapping[str, Any]:
    return {} if self.windowed_theta is None else {self.windowed_theta: 1e4}

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    by_type = values["rope_parameters"] or {
      FULL: values["rope_scaling"],
      SLIDING: None,
    }
    if set(by_type) != {FULL, SLIDING}:
      raise ValueError(
        f"rope_parameters must have positions for {FULL} and for {SLIDING}, "
        f"got {', '.join(by_type)}. Put the model's there."
      )
    positions = Optional(Object())
    for kind, given in by_type.items():
      if not positions.holds(given):
        raise ValueError(
          f"rope_parameters of {kind} must be {positions}, got {given!r}. Put "
          "the model's there."
        )
    theta = {
      FULL: values["rope_theta"],
      SLIDING: values[self.windowed_theta or "rope_theta"],
    }
    read = {
      kind: _rope(
        {
          **values,
          "rope_parameters": given,
          "rope_scaling": None,
          "rope_theta": theta[kind],
        }
      )
      for kind, given in by_type.items()
    }
    return [read[kind] for kind in hf_layers.types(values, self.period)]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    windowed, others = _by_window(config)
    (plain,) = windowed
    full = others[0] if others else plain
    assert isinstance(plain, rotary.GeometricRotary)  # Else it is a misfit.
    rope = {
      **rope_parameters.NO_ROTATION[self.no_rotation],
      "rope_theta": plain.theta,
    }
    if full != Nope():
      rope = rope_parameters.write(full, config.head_dim, config.context_tokens)
    sliding = rope_parameters.write(
      plain, config.head_dim, config.context_tokens
    )
    written = _old_form(rope)
    if self.windowed_theta is not None:
      written[self.windowed_theta] = plain.theta
    return written | {"rope_parameters": {FULL: rope, SLIDING: sliding}}

  def misfit(self, config: ModelConfig) -> str | None:
    windowed, others = _by_window(config)
    for schemes, which in ((windowed, "with"), (others, "without")):
      if len(schemes) > 1:
        return f"{len(schemes)} kinds of positions in layers {which} a window"
    if not windowed:
      return "no windows"
    if not isinstance(windowed[0], Rope):
      return f"positions other than plain RoPE, {windowed[0]}, beside a window"
    rotary_others = [scheme for scheme in others if scheme != Nope()]
    if reason := _rotary_misfit(rotary_others, config):
      return reason
    # transformers 5 looks for `truncate` beside the layer types: in vain.
    if any(isinstance(s, Yarn) and not s.truncate for s in rotary_others):
      return "YaRN without truncation in layers without a window"
    for scheme in rotary_others if self.windowed_theta is None else ():
      written = rope_parameters.write(
        scheme, config.head_dim, config.context_tokens
      )
      if written["rope_theta"] != windowed[0].theta:
        return "two values of theta"
    return None

  def rotates_by_zero(self, config: ModelConfig) -> bool:
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

  def rotates_by_zero(self, config: ModelConfig) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class LeadingPositions(Positions):
  """A rotation of a head's first channels, or of all.

  R of D channels rotate by theta^(-2i/R), which is theta'^(-2i/D) for a theta'
  of theta^(D/R): RoPE's fastest pairs for that theta'.
  """

  kinds = types.MappingProxyType(
    {
      "rotary_pct": Number(above=0),
      "partial_rotary_factor": Number(above=0),
      "rotary_emb_base": Number(above=1),
    }
  )
  defaults = types.MappingProxyType(
    {"rotary_pct": 0.25, "partial_rotary_factor": None, "rotary_emb_base": 1e4}
  )

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    given = dict(values["rope_scaling"] or values["rope_parameters"] or {})
    share = given.pop("partial_rotary_factor", None)
    if share is None:
      share = values["partial_rotary_factor"] or values["rotary_pct"]
    theta = values["rope_theta"] or values["rotary_emb_base"]
    D = values["head_dim"]
    rotated = int(D * share) if Number(above=0).holds(share) else 0
    if rotated % 2 or not 0 < rotated <= D:
      raise ValueError(
        f"RoPE rotates pairs of a head's {D} channels, got a share of {share}"
        f" of them, which is {rotated}. Put the model's there."
      )
    given = {
      "rope_parameters": given,
      "rope_scaling": None,
      "rope_theta": theta,
      "head_dim": rotated,
    }
    scheme = _rope({**values, **given})
    if rotated == D or scheme == Nope():
      return [scheme] * values["num_hidden_layers"]
    if not isinstance(scheme, Rope):
      raise ValueError(
        "A rotation of a head's first channels must be plain RoPE, got "
        f"{scheme} for {rotated} of {D}. This checkpoint cannot be read "
        "exactly."
      )
    with np.errstate(over="ignore"):  # Rope refuses infinity.
      theta = float(np.float64(scheme.theta) ** (D / rotated))
    scheme = PartialRope(Rope(theta), rotated // 2)
    return [scheme] * values["num_hidden_layers"]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    pairs, D = _leading_pairs(config), config.head_dim
    if pairs is None:
      written = super().write(config)
      theta = written.pop("rope_theta")
      return {"rotary_pct": 1.0, "rotary_emb_base": theta, **written}
    (scheme,) = Layers.of(config).rotary
    assert isinstance(scheme, PartialRope)  # It has pairs.
    theta = scheme.rope.theta ** (2 * pairs / D)
    short = float(f"{theta:.12g}")
    is_same = short ** (D / (2 * pairs)) == scheme.rope.theta
    return {
      "rotary_pct": 2 * pairs / D,
      "rotary_emb_base": short if is_same else theta,
      "rope_scaling": None,
    }

  def misfit(self, config: ModelConfig) -> str | None:
    pairs, D = _leading_pairs(config), config.head_dim
    if pairs is not None:
      (scheme, *others) = Layers.of(config).rotary
      assert isinstance(scheme, PartialRope)  # It has pairs.
      if others or not isinstance(scheme.rope, Rope):
        return "pairs that are dropped of other positions than plain RoPE"
      if int(D * (2 * pairs / D)) != 2 * pairs:
        return f"{pairs} pairs that rotate, of {D // 2}"
    return super().misfit(config)

  def order(self, config: ModelConfig) -> np.ndarray | None:
    pairs = _leading_pairs(config)
    if pairs is None:
      return None
    return rope_layout.leading(config.head_dim, pairs)


def _leading_pairs(config: ModelConfig) -> int | None:
  """Returns how many pairs of a head rotate; None: all or none."""
  scheme = Layers.of(config).schemes[0]
  return scheme.pairs if isinstance(scheme, PartialRope) else None


@dataclasses.dataclass(frozen=True)
class LearnedPositions(Positions):
  """A table of positions; of zeros, where the model has none.

  Attributes:
    table: the name of its tensor.
  """

  table: str = ""

  def schemes(self, values: Mapping[str, Any]) -> list[Scheme]:
    tokens = values["max_position_embeddings"]
    return [LearnedAbsolute(tokens)] * values["num_hidden_layers"]

  def write(self, config: ModelConfig) -> dict[str, Any]:
    scheme = Layers.of(config).schemes[0]
    if scheme.table_tokens is None:
      return {}
    return {"max_position_embeddings": scheme.table_tokens}

  def misfit(self, config: ModelConfig) -> str | None:
    for scheme in Layers.of(config).rotary:
      if not isinstance(scheme, LearnedAbsolute):
        return f"{type(scheme).__name__} positions"
      if scheme.stretch != 1:
        return "a table of positions that is stretched"
    return None

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    if Layers.of(config).rotary:
      return ()
    shape = (config.context_tokens, config.width)
    must_be = "A table of positions must be zeros where a model has none"
    return (Constant(self.table, shape, 0.0, "embed/table", must_be),)

  def rotates_by_zero(self, config: ModelConfig) -> bool:
    return False

  def by_weights(
    self, config: ModelConfig, tensors: Mapping[str, Tensor]
  ) -> ModelConfig:
    table = tensors.get(self.table)
    if table is None or table.array().any():
      return config
    return dataclasses.replace(config, positional=Nope())


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
  rotary, rope = Layers.of(config).rotary, without
  if rotary:
    rope = rope_parameters.write(
      rotary[0], config.head_dim, config.context_tokens
    )
  return _old_form(rope)


def _old_form(rope: Mapping[str, Any]) -> dict[str, Any]:
  """Returns transformers 4's fields of one rotation."""
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


def _by_window(config: ModelConfig) -> tuple[list[Scheme], list[Scheme]]:
  """Returns the distinct schemes of layers with a window, and of the others."""
  layers = Layers.of(config)
  found: tuple[list[Scheme], list[Scheme]] = ([], [])
  for scheme, window in zip(layers.schemes, layers.windows, strict=True):
    of_kind = found[window is None]
    if scheme not in of_kind:
      of_kind.append(scheme)
  return found


def _one_rotation_misfit(config: ModelConfig) -> str | None:
  schemes = Layers.of(config).rotary
  if len(schemes) > 1:
    return f"{len(schemes)} kinds of positions"
  return _rotary_misfit(schemes, config)


def _rotary_misfit(
  schemes: Sequence[Scheme], config: ModelConfig
) -> str | None:
  for scheme in schemes:
    if not isinstance(scheme, rotary.Rotary):
      return f"{type(scheme).__name__} positions"
    try:
      rope_parameters.write(scheme, config.head_dim, config.context_tokens)
    except ValueError:
      return (
        f"{scheme} at a context of {config.context_tokens}, for which "
        "config.json has no rule"
      )
  return None
