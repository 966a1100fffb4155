"""The choices by which model families differ, as config.json says them.

Each class is one way of saying one choice. It reads the choice and writes it,
side by side, so that what is written is read back as the same model.
"""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  Number,
  Object,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.model.config import ModelConfig

_NOTHING: Mapping[str, Any] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Constant:
  """A tensor of a folder that no parameter of the model makes.

  Attributes:
    name: the tensor's; {} is the layer's number, if each layer has one.
    shape: the tensor's, in each layer.
    value: what all of it is when it is written.
    like: the parameter whose dtype it is written in.
    must_be: what an error says where it is read and is not `value`; None: no
      value of it changes what the model computes, and it may be absent.
  """

  name: str
  shape: tuple[int, ...]
  value: float
  like: str
  must_be: str | None = None

  def names(self, config: ModelConfig) -> list[str]:
    """Returns the names of all such tensors of a model."""
    names = (self.name.format(n) for n in range(config.num_layers))
    return list(dict.fromkeys(names))


class Choice:
  """One choice, said by no field: every model of the family makes the same.

  Attributes:
    kinds: the fields of config.json that say it, and what each may hold.
    defaults: what a field is where it is absent; without one it must be there.
  """

  @property
  def kinds(self) -> Mapping[str, Kind]:
    return _NOTHING

  @property
  def defaults(self) -> Mapping[str, Any]:
    return _NOTHING

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `ModelConfig`'s fields.

    Args:
      values: config.json's fields, with their defaults; `head_dim` is never
        None.
    """
    return {}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    """Returns config.json's fields, from which `read` makes the same."""
    return {}

  def misfit(self, config: ModelConfig) -> str | None:
    """Returns what a config has that cannot be said; None: nothing."""
    return None

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    """Returns the tensors that come with the choice."""
    return ()


@dataclasses.dataclass(frozen=True)
class Heads(Choice):
  """The size of a head.

  Attributes:
    default: head_dim where it is absent; None: width / heads.
    null_is_absent: whether it is `default` where it is null, too; else it is
      width / heads there.
    divide_width: whether the width must be a multiple of the heads.
    fill_width: whether heads times head_dim must be the width, so that no
      field says head_dim.
  """

  default: int | None = None
  null_is_absent: bool = True
  divide_width: bool = False
  fill_width: bool = False

  @property
  def kinds(self) -> Mapping[str, Kind]:
    size = Whole()
    return {"head_dim": size if self.null_is_absent else Optional(size)}

  @property
  def defaults(self) -> Mapping[str, Any]:
    return {"head_dim": self.default}

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"head_dim": values["head_dim"]}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {} if self.fill_width else {"head_dim": config.head_dim}

  def misfit(self, config: ModelConfig) -> str | None:
    M, H, D = config.width, config.num_heads, config.head_dim
    if D % 2:  # transformers 5 refuses to load it.
      return f"an odd head_dim of {D}"
    if self.divide_width and M % H:
      return f"a width of {M}, no multiple of {H} heads"
    if self.fill_width and M != H * D:
      return f"a width of {M}, not the {H} heads times head_dim {D}"
    return None


class EqualHeads(Choice):
  """As many key/value heads as heads, which fill the width."""

  kinds = types.MappingProxyType({"head_dim": Whole()})
  defaults = types.MappingProxyType({"head_dim": None})

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"head_dim": values["head_dim"]}

  def misfit(self, config: ModelConfig) -> str | None:
    M, H, K = config.width, config.num_heads, config.num_kv_heads
    if K != H:
      return f"{K} key/value heads for {H} heads"
    if H * config.head_dim != M:
      return f"a width of {M}, not the {H} heads times {config.head_dim}"
    return None


@dataclasses.dataclass(frozen=True)
class Embeddings(Choice):
  """What the embeddings that the first layer reads are multiplied by.

  Attributes:
    by_root_of_width: sqrt(width), or nothing.
  """

  by_root_of_width: bool = False

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"embedding_scale": self._scale(values["hidden_size"])}

  def misfit(self, config: ModelConfig) -> str | None:
    if (scale := config.embedding_scale) != self._scale(config.width):
      return f"embeddings that are multiplied by {scale:g}"
    if (scale := config.residual_scale) != 1:
      return f"a residual scale of {scale:g}"
    if (scale := config.final_logit_scale) != 1:
      return f"final logits that are multiplied by {scale:g}"
    return None

  def _scale(self, width: int) -> float:
    return width**0.5 if self.by_root_of_width else 1.0


class Multipliers(Embeddings):
  """Fields for what embeddings and residuals are multiplied by, and logits.

  Logits are divided by theirs.
  """

  kinds = types.MappingProxyType(
    {
      "embedding_multiplier": Number(above=0),
      "residual_multiplier": Number(above=0),
      "logits_scaling": Number(above=0),
    }
  )
  defaults = types.MappingProxyType(dict.fromkeys(kinds, 1.0))

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "embedding_scale": float(values["embedding_multiplier"]),
      "residual_scale": float(values["residual_multiplier"]),
      "final_logit_scale": 1 / values["logits_scaling"],
    }

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {
      "embedding_multiplier": config.embedding_scale,
      "residual_multiplier": config.residual_scale,
      "logits_scaling": _inverse(config.final_logit_scale),
    }

  def misfit(self, config: ModelConfig) -> str | None:
    return None


def _inverse(number: float) -> float:
  """Returns 1 / number, or a shorter one whose inverse the number is."""
  short = float(f"{1 / number:.12g}")
  return short if 1 / short == number else 1 / number


@dataclasses.dataclass(frozen=True)
class Norms(Choice):
  """Where the norms of a layer are, the same in all layers, and their gains.

  Attributes:
    placement: `ModelConfig.norm_placement`.
    gain_offset: `ModelConfig.norm_gain_offset`.
    kind: `ModelConfig.norm_kind`.
  """

  placement: str = "pre"
  gain_offset: float = 0.0
  kind: str = "rms"

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "norm_placement": self.placement,
      "norm_gain_offset": self.gain_offset,
      "norm_kind": self.kind,
    }

  def misfit(self, config: ModelConfig) -> str | None:
    if config.layer_groups:
      return "groups of layers that differ"
    if config.norm_kind != self.kind:
      return f"{config.norm_kind!r} as its kind of norm"
    if config.norm_placement != self.placement:
      return f"{config.norm_placement!r} as its placement of norms"
    if config.parallel_residual:
      return "attention and an MLP that read the same"
    if config.norm_gain_offset != self.gain_offset:
      return f"gains to which {config.norm_gain_offset:g} is added"
    return None


@dataclasses.dataclass(frozen=True)
class ParallelNorms(Norms):
  """`Norms`, and whether attention and the MLP of a layer read the same."""

  kinds = types.MappingProxyType({"use_parallel_residual": Flag()})
  defaults = types.MappingProxyType({"use_parallel_residual": True})

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    parallel = values["use_parallel_residual"]
    return super().read(values) | {"parallel_residual": parallel}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"use_parallel_residual": config.parallel_residual}

  def misfit(self, config: ModelConfig) -> str | None:
    return super().misfit(dataclasses.replace(config, parallel_residual=False))


@dataclasses.dataclass(frozen=True)
class QkNorm(Choice):
  """Norms of q and k, or none.

  Attributes:
    scope: `ModelConfig.qk_norm_scope`; None: there are no norms.
  """

  scope: str | None = None

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    if self.scope is None:
      return {"qk_norm": "none"}
    return {"qk_norm": "qk", "qk_norm_scope": self.scope}

  def misfit(self, config: ModelConfig) -> str | None:
    if self.scope is None:
      return None if config.qk_norm == "none" else "a QK norm"
    if config.qk_norm == "none":
      return "no QK norm"
    if (config.qk_norm, config.qk_norm_scope) != ("qk", self.scope):
      return f"a {config.qk_norm_scope} norm on {' and '.join(config.qk_norm)}"
    return None


@dataclasses.dataclass(frozen=True)
class AttentionType(Choice):
  """The DroPE paper's repository's attention_type: joint norms, if any.

  A layer with one norm has both; the other is not applied.

  Attributes:
    names: of q's and k's gains.
  """

  names: Mapping[str, str]

  _norms = types.MappingProxyType(
    {
      "nope": "none",
      "qk_norm_nope": "qk",
      "q_norm_nope": "q",
      "k_norm_nope": "k",
    }
  )
  kinds = types.MappingProxyType(
    {
      "attention_type": OneOf(*_norms),
      "auto_map": Object(),  # It names the code that attention_type stands for.
    }
  )
  defaults = types.MappingProxyType(
    {"attention_type": "nope", "auto_map": None}
  )

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "qk_norm": self._norms[values["attention_type"]],
      "qk_norm_scope": "joint",
    }

  def write(self, config: ModelConfig) -> dict[str, Any]:
    said = {norm: name for name, norm in self._norms.items()}
    return {"attention_type": said[config.qk_norm]}

  def misfit(self, config: ModelConfig) -> str | None:
    if config.qk_norm != "none" and config.qk_norm_scope != "joint":
      return "a QK norm per head"
    return None

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    if config.qk_norm not in ("q", "k"):
      return ()
    other = "k" if config.norms_q else "q"
    heads = config.num_kv_heads if config.norms_q else config.num_heads
    name = self.names[f"layers/attention/{other}_norm/gain"]
    size = heads * config.head_dim
    return (Constant(name, (size,), 1.0, like="final_norm/gain"),)
