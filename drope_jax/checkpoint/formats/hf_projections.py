"""Biases and MLPs as config.json says them, each way read and written."""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from drope_jax.checkpoint.formats.hf_choices import Choice, Constant
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  Number,
  OneOf,
  Optional,
  Whole,
)
from drope_jax.model.config import ModelConfig


class NoOutputBias(Choice):
  """No bias of o."""

  def misfit(self, config: ModelConfig) -> str | None:
    return "a bias of attention's output" if config.o_bias else None


class AllBiases(Choice):
  """Biases of all projections."""

  kinds = types.MappingProxyType({"attention_bias": OneOf(True)})
  defaults = types.MappingProxyType({"attention_bias": True})

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": True, "o_bias": True, "mlp_bias": True}

  def misfit(self, config: ModelConfig) -> str | None:
    has_all = config.qkv_bias and config.o_bias and config.mlp_bias
    return None if has_all else "projections without biases"


@dataclasses.dataclass(frozen=True)
class Biases(NoOutputBias):
  """Biases of q, k and v: always or never.

  Attributes:
    always: which of the two.
  """

  always: bool = False

  @property
  def kinds(self) -> Mapping[str, Kind]:
    return {"attention_bias": OneOf(self.always)}

  defaults = types.MappingProxyType({"attention_bias": None})

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": self.always}

  def misfit(self, config: ModelConfig) -> str | None:
    if config.qkv_bias != self.always:
      return "biases" if config.qkv_bias else "no biases"
    return super().misfit(config)


@dataclasses.dataclass(frozen=True)
class AttentionBias(NoOutputBias):
  """Biases of q, k, v and o where attention_bias says so; o's are zeros.

  Attributes:
    o_bias: the name of o's.
  """

  o_bias: str

  kinds = types.MappingProxyType({"attention_bias": Flag()})
  defaults = types.MappingProxyType({"attention_bias": False})

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": values["attention_bias"]}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.qkv_bias}

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    if not config.qkv_bias:
      return ()
    return (
      Constant(
        self.o_bias,
        (config.width,),
        0.0,
        like="layers/attention/q/bias",
        must_be="Attention may have biases on q, k and v alone, so that o's "
        "must be zeros",
      ),
    )


class InputBias(NoOutputBias):
  """Biases of q, k and v where attention_bias says so; o has none."""

  kinds = types.MappingProxyType(
    {"attention_bias": Flag(), "attention_out_bias": OneOf(False)}
  )
  defaults = types.MappingProxyType(
    {"attention_bias": True, "attention_out_bias": False}
  )

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": values["attention_bias"]}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": config.qkv_bias, "attention_out_bias": False}


class NoBiases(Biases):
  """No biases, which use_bias says too."""

  kinds = types.MappingProxyType({"use_bias": OneOf(False)})
  defaults = types.MappingProxyType({"use_bias": False})

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"use_bias": False}


class Mlp(Choice):
  """A gated MLP with SiLU."""

  kinds: Mapping[str, Kind] = types.MappingProxyType(
    {"hidden_act": OneOf("silu", "swish")}
  )
  defaults: Mapping[str, Any] = types.MappingProxyType({"hidden_act": "silu"})
  activation = "silu"

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"mlp_activation": self.activation}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"hidden_act": "silu"}

  def misfit(self, config: ModelConfig) -> str | None:
    if config.mlp_activation != self.activation:
      return f"{config.mlp_activation!r} as the MLP's activation"
    if not config.gated_mlp:
      return "an MLP without a gate"
    if config.mlp_bias:
      return "biases of the MLP"
    return None


class DenseMlp(Mlp):
  """A gated MLP with SiLU, of which mlp_bias says that it has no biases."""

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return super().write(config) | {"mlp_bias": False}


class GeluMlp(Mlp):
  """A gated MLP with GELU, approximated by tanh."""

  kinds = types.MappingProxyType(
    {
      "hidden_activation": OneOf("gelu_pytorch_tanh"),
      "hidden_act": OneOf("gelu_pytorch_tanh"),  # Gemma 2 has both.
    }
  )
  defaults = types.MappingProxyType(
    {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": None}
  )
  activation = "gelu_tanh"

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"hidden_activation": "gelu_pytorch_tanh"}


@dataclasses.dataclass(frozen=True)
class PlainMlp(Choice):
  """An MLP with GELU, exact or approximated by tanh, and no gate.

  Attributes:
    default: the activation where it is absent.
    has_width: whether config.json must have the MLP's width; else it is four
      times the model's where it is absent.
  """

  default: str
  has_width: bool

  _activations = types.MappingProxyType(
    {
      "gelu_new": "gelu_tanh",
      "gelu_pytorch_tanh": "gelu_tanh",
      "gelu_fast": "gelu_tanh",
      "gelu": "gelu",
    }
  )

  @property
  def kinds(self) -> Mapping[str, Kind]:
    width = Whole() if self.has_width else Optional(Whole())
    return {"intermediate_size": width, "hidden_act": OneOf(*self._activations)}

  @property
  def defaults(self) -> Mapping[str, Any]:
    width = {} if self.has_width else {"intermediate_size": None}
    return {"hidden_act": self.default, **width}

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
      "mlp_activation": self._activations[values["hidden_act"]],
      "gated_mlp": False,
      "mlp_width": values["intermediate_size"] or 4 * values["hidden_size"],
    }

  def write(self, config: ModelConfig) -> dict[str, Any]:
    name = {"gelu_tanh": "gelu_new", "gelu": "gelu"}[config.mlp_activation]
    return {"hidden_act": name}

  def misfit(self, config: ModelConfig) -> str | None:
    if config.mlp_activation not in self._activations.values():
      return f"{config.mlp_activation!r} as the MLP's activation"
    return "a gate in the MLP" if config.gated_mlp else None


@dataclasses.dataclass(frozen=True)
class SingleExpert(Mlp):
  """An MLP as the only expert of a mixture.

  Whatever the router says, the softmax of one logit is one.

  Attributes:
    router: the name of its kernel.
  """

  router: str

  kinds = types.MappingProxyType(
    {
      **Mlp.kinds,
      "num_experts": OneOf(1),
      "num_experts_per_tok": OneOf(1),
      "norm_topk_prob": Flag(),
      "output_router_logits": Flag(),
      "router_aux_loss_coef": Number(),  # Of training.
      "clip_qkv": OneOf(None),
    }
  )
  # Absent, the first two are 64 and 8.
  defaults = types.MappingProxyType(
    {
      **Mlp.defaults,
      "norm_topk_prob": False,
      "output_router_logits": False,
      "router_aux_loss_coef": 0.0,
      "clip_qkv": None,
    }
  )

  def write(self, config: ModelConfig) -> dict[str, Any]:
    written = {"num_experts": 1, "num_experts_per_tok": 1, "clip_qkv": None}
    return super().write(config) | written

  def constants(self, config: ModelConfig) -> tuple[Constant, ...]:
    shape = (1, config.width)
    return (Constant(self.router, shape, 0.0, like="layers/mlp/gate/kernel"),)
