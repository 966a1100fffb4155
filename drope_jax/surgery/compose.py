"""One surgery as a value: what a recipe's phase and `drope surgery` apply."""

import dataclasses
from typing import Any

from drope_jax import trees
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import QK_NORM_SCOPES, QK_NORMS, ModelConfig
from drope_jax.positional import scaling as scalings
from drope_jax.surgery import (
  drop_positional,
  qk_norm,
  scaling,
  theta,
  windows,
)

_UNCHANGED = {
  "drop": "none",
  "windows": (),
  "theta": None,
  "scaling": None,
  "qk_norm": "none",
  "logit_scale": None,
  "logit_scale_slope": None,
}


@dataclasses.dataclass(frozen=True)
class Surgery:
  """What to change in a trained model.

  Attributes:
    drop: layers that lose their positions: "all" that have them, "none", or
      indices from 0.
    keep_rotations: the dropped layers keep the pairs that complete at least as
      many rotations in the context; see `drop_positional.drop_positional`.
    keep_pairs: they keep as many of the fastest pairs; instead of
      `keep_rotations`.
    windows: (layer, tokens) for each layer whose queries see that many tokens
      from now on, themselves included.
    theta: of the rotary positions, before any drop; None keeps the old.
    scaling: of RoPE from now on, at every length: "pi", "ntk", "yarn" or
      "longrope2"; None keeps the old.
    scaling_factor: longest length / trained context that it is for.
    qk_norm: the norms to add: "none", "q", "k" or "qk".
    qk_norm_scope: "joint" or "head"; see `qk_norm.add_qk_norm`.
    qk_norm_init: of the added norms' gains, "unit" or "matched".
    logit_scale: the model's new logit scale; None keeps the old.
    logit_scale_slope: by which it grows beyond the context, as `drope evaluate`
      fits it (`ModelConfig.logit_scale_slope`); None keeps the old.
  """

  drop: str | tuple[int, ...] = "all"
  keep_rotations: float | None = None
  keep_pairs: int | None = None
  windows: tuple[tuple[int, int], ...] = ()
  theta: float | None = None
  scaling: str | None = None
  scaling_factor: float | None = None
  qk_norm: str = "none"
  qk_norm_scope: str = "joint"
  qk_norm_init: str = "unit"
  logit_scale: float | None = None
  logit_scale_slope: float | None = None

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
        "Surgery.qk_norm_scope and qk_norm_init need norms to add, got "
        f'{norms} with qk_norm "none". Set qk_norm, or leave them out.'
      )
    self._require_kept_of_dropped()
    self._require_scaling_alone()
    if all(getattr(self, field) == old for field, old in _UNCHANGED.items()):
      raise ValueError(
        "Surgery must change something, got nothing to drop, no window, no "
        "theta, no scaling, no norm, no logit scale and no slope of it. Set "
        "one of them, or leave the surgery out."
      )
    if self.logit_scale is not None and self.logit_scale <= 0:
      raise ValueError(
        "Surgery.logit_scale must be above 0, or every key weighs alike, got "
        f"{self.logit_scale}. Raise it, or pass None."
      )

  def _require_kept_of_dropped(self) -> None:
    kept = {
      "keep_rotations": self.keep_rotations,
      "keep_pairs": self.keep_pairs,
    }
    given = {name: value for name, value in kept.items() if value is not None}
    if not given:
      return
    got = ", ".join(f"{name}={value}" for name, value in given.items())
    # A NaN is no number above 0 either.
    if len(given) > 1 or not min(given.values()) > 0:
      raise ValueError(
        "Surgery.keep_rotations and keep_pairs are two ways to say which pairs "
        f"the dropped layers keep, a number above 0, got {got}. Set one of "
        "them, or neither to drop all pairs."
      )
    if self.drop == "none":
      raise ValueError(
        "Surgery.keep_rotations and keep_pairs need layers to drop pairs of, "
        f"got {got} with drop 'none'. Set drop to 'all', or them to None."
      )

  def _require_scaling_alone(self) -> None:
    known = [name for name in scalings.METHODS if name != "rope"]
    if self.scaling not in (None, *known):
      raise ValueError(
        f"Surgery.scaling must be one of {', '.join(known)}, got "
        f"{self.scaling!r}. Name one of these."
      )
    if (self.scaling_factor is None) != (self.scaling is None):
      raise ValueError(
        "Surgery.scaling and scaling_factor come together, got "
        f"{self.scaling!r} and {self.scaling_factor}. Set both, or neither."
      )
    if self.scaling is not None and self.drop != "none":
      raise ValueError(
        "Surgery.scaling is of positions that stay, got "
        f'{self.scaling!r} with drop {self.drop!r}. Set drop to "none", or '
        "leave scaling out."
      )

  @property
  def changes_context(self) -> bool:
    """Whether the trained context is read otherwise than before."""
    return any(
      getattr(self, field) != old
      for field, old in _UNCHANGED.items()
      if field != "logit_scale_slope"
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
  if surgery.theta is not None:
    config, params = theta.change_theta(config, params, surgery.theta)
  if surgery.scaling is not None and surgery.scaling_factor is not None:
    config, params = scaling.scale_rotation(
      config, params, surgery.scaling, surgery.scaling_factor
    )
  if surgery.windows:
    config, params = windows.set_windows(config, params, surgery.windows)
  if surgery.drop != "none":
    config, params = drop_positional.drop_positional(
      config,
      params,
      surgery.drop,
      keep_rotations=surgery.keep_rotations,
      keep_pairs=surgery.keep_pairs,
    )
  for field in ("logit_scale", "logit_scale_slope"):
    if (value := getattr(surgery, field)) is not None:
      config = dataclasses.replace(config, **{field: value})
  return config, params
