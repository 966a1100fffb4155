"""One surgery as a value: what a recipe's phase and `drope surgery` apply."""

import dataclasses
from typing import Any

from drope_jax import trees
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import QK_NORM_SCOPES, QK_NORMS, ModelConfig
from drope_jax.surgery import drop_positional, qk_norm


@dataclasses.dataclass(frozen=True)
class Surgery:
  """What to change in a trained model.

  Attributes:
    drop: layers that lose their positions: "all" that have them, "none", or
      indices from 0.
    qk_norm: the norms to add: "none", "q", "k" or "qk".
    qk_norm_scope: "joint" or "head"; see `qk_norm.add_qk_norm`.
    qk_norm_init: of the added norms' gains, "unit" or "matched".
    logit_scale: the model's new logit scale; None keeps the old.
  """

  drop: str | tuple[int, ...] = "all"
  qk_norm: str = "none"
  qk_norm_scope: str = "joint"
  qk_norm_init: str = "unit"
  logit_scale: float | None = None

  def __post_init__(self):
    for name, choices in (
      ("qk_norm", QK_NORMS),
      ("qk_norm_scope", QK_NORM_SCOPES),
      ("qk_norm_init", qk_norm.INITS),
    ):
      if getattr(self, name) not in choices:
        raise ValueError(
          f"Surgery.{name} must be one of {', '.join(choices)}, got "
          f"{getattr(self, name)!r}. Name one of these."
        )
    if self.drop not in ("all", "none") and not (
      isinstance(self.drop, tuple)
      and self.drop
      and all(isinstance(layer, int) for layer in self.drop)
    ):
      raise ValueError(
        'Surgery.drop must be "all", "none" or a tuple of layers, got '
        f"{self.drop!r}. Write (0, 2) for the first and third."
      )
    norms = self.qk_norm_scope, self.qk_norm_init
    if self.qk_norm == "none" and norms != ("joint", "unit"):
      raise ValueError(
        "Surgery.qk_norm_scope and qk_norm_init are of the norms to add, got "
        f'{norms} with qk_norm "none". Set qk_norm, or leave them out.'
      )
    if (self.drop, self.qk_norm, self.logit_scale) == ("none", "none", None):
      raise ValueError(
        "Surgery must change something, got nothing to drop, no norm and no "
        "logit scale. Set one of them, or leave the surgery out."
      )
    if self.logit_scale is not None and self.logit_scale <= 0:
      raise ValueError(
        "Surgery.logit_scale must be above 0, or every key weighs alike, got "
        f"{self.logit_scale}. Raise it, or pass None."
      )

  @property
  def needs_tokens(self) -> bool:
    """Whether `apply` must see text, to match the gains to it."""
    return self.qk_norm != "none" and self.qk_norm_init == "matched"


def apply(
  surgery: Surgery,
  config: ModelConfig,
  params: Any,
  tokens_BS: Array | None = None,
) -> tuple[ModelConfig, Any]:
  """Returns the model after `surgery`; untouched leaves are shared.

  Not function-preserving. Gains are matched to the model as it was, before
  its positions are dropped.

  Args:
    surgery: what to do.
    config: the model's.
    params: its weights.
    tokens_BS: int32 text for `qk_norm.measure`, where `needs_tokens`.

  Raises:
    ValueError: `surgery` or `params` do not fit the model, or tokens are
      missing.
  """
  trees.require_same_leaves(
    transformer.param_shapes(config), params, "the model before surgery"
  )
  statistics = None
  if surgery.needs_tokens:
    if tokens_BS is None:
      raise ValueError(
        "Matched gains are measured on text, got none. Pass tokens_BS, or set "
        'qk_norm_init to "unit".'
      )
    statistics = qk_norm.measure(config, params, tokens_BS)
  if surgery.qk_norm != "none":
    config, params = qk_norm.add_qk_norm(
      config,
      params,
      surgery.qk_norm,
      surgery.qk_norm_scope,
      surgery.qk_norm_init,
      statistics,
    )
  if surgery.drop != "none":
    config, params = drop_positional.drop_positional(
      config, params, surgery.drop
    )
  if surgery.logit_scale is not None:
    config = dataclasses.replace(config, logit_scale=surgery.logit_scale)
  return config, params
