"""The scale and caps of logits as config.json says them, read and written."""

from collections.abc import Mapping
import dataclasses
import types
from typing import Any

from drope_jax.checkpoint.formats.hf_choices import Choice
from drope_jax.checkpoint.formats.kinds import Kind, Number, OneOf, Optional
from drope_jax.model.config import ModelConfig


class NoSoftmaxScale(Choice):
  """Attention's logits are multiplied by 1 / sqrt(D); no logits are capped."""

  has_field = False

  def misfit(self, config: ModelConfig) -> str | None:
    if (cap := config.logit_soft_cap) is not None:
      return f"a cap of {cap:g} on attention's logits"
    if (cap := config.final_logit_soft_cap) is not None:
      return f"a cap of {cap:g} on the final logits"
    return None


class ScaleByHead(NoSoftmaxScale):
  """`NoSoftmaxScale`, of which two fields say that it is so in all layers."""

  kinds = types.MappingProxyType(
    {
      "scale_attn_weights": OneOf(True),
      "scale_attn_by_inverse_layer_idx": OneOf(False),
    }
  )
  defaults = types.MappingProxyType(
    {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
  )


@dataclasses.dataclass(frozen=True)
class SoftmaxScale(NoSoftmaxScale):
  """A field for all of what logits are multiplied by, 1 / sqrt(D) included.

  Attributes:
    field: its name.
    default: what it is where it is absent; None: 1 / sqrt(D).
  """

  field: str = "softmax_scale"
  default: float | None = None

  has_field = True

  @property
  def kinds(self) -> Mapping[str, Kind]:
    return {self.field: Number(above=0)}

  @property
  def defaults(self) -> Mapping[str, Any]:
    return {self.field: self.default}

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    scale, head_dim = values[self.field], values["head_dim"]
    if scale is None:
      return {}
    return {"logit_scale": float(scale) / head_dim**-0.5}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {self.field: config.logit_scale * config.head_dim**-0.5}


class QueryPreAttnScalar(NoSoftmaxScale):
  """A whole number, by whose root logits are divided in place of D's.

  Caps of logits and attention to later tokens, which have fields too, must be
  absent.
  """

  has_field = True
  kinds = types.MappingProxyType(
    {
      "query_pre_attn_scalar": Number(above=0),
      "attn_logit_softcapping": OneOf(None),
      "final_logit_softcapping": OneOf(None),
      "use_bidirectional_attention": OneOf(False),
    }
  )
  defaults = types.MappingProxyType(
    {
      "query_pre_attn_scalar": 256,
      "attn_logit_softcapping": None,
      "final_logit_softcapping": None,
      "use_bidirectional_attention": False,
    }
  )

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    scalar, head_dim = values["query_pre_attn_scalar"], values["head_dim"]
    return {"logit_scale": (head_dim / scalar) ** 0.5}

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return {"query_pre_attn_scalar": round(self._scalar(config))}

  def misfit(self, config: ModelConfig) -> str | None:
    return self._scalar_misfit(config) or super().misfit(config)

  def _scalar_misfit(self, config: ModelConfig) -> str | None:
    scalar = self._scalar(config)
    if abs(scalar - round(scalar)) > 1e-9 * scalar:
      return f"a logit scale of {config.logit_scale:g}"
    return None

  def _scalar(self, config: ModelConfig) -> float:
    return config.head_dim / config.logit_scale**2


class CappedLogits(QueryPreAttnScalar):
  """`QueryPreAttnScalar`, with a cap of attention's and one of all logits."""

  kinds = types.MappingProxyType(
    {
      **QueryPreAttnScalar.kinds,
      "attn_logit_softcapping": Optional(Number(above=0)),
      "final_logit_softcapping": Optional(Number(above=0)),
    }
  )
  defaults = types.MappingProxyType(
    {
      **QueryPreAttnScalar.defaults,
      "attn_logit_softcapping": 50.0,
      "final_logit_softcapping": 30.0,
    }
  )

  def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
    return super().read(values) | {
      "logit_soft_cap": values["attn_logit_softcapping"],
      "final_logit_soft_cap": values["final_logit_softcapping"],
    }

  def write(self, config: ModelConfig) -> dict[str, Any]:
    return super().write(config) | {
      "attn_logit_softcapping": config.logit_soft_cap,
      "final_logit_softcapping": config.final_logit_soft_cap,
    }

  def misfit(self, config: ModelConfig) -> str | None:
    return self._scalar_misfit(config)
