"""Adding QK norms to a trained model.

The norm of x is gain * u, with u = x / sqrt(mean(x^2) + eps) over a token's
channels: all heads' (joint) or its own head's. It erases the size of x, which
differs by channel and by token. Gains of one erase both, and logits, whose size
was learnt, change scale. Matched gains give channel c back its size on average:

  gain_c = sqrt(E[x_c^2] / E[u_c^2])    so that    E[(gain_c u_c)^2] = E[x_c^2]

with E over calibration tokens. Where heads share gains, both E also average
over heads. Neither keeps how the size varies from token to token. Where the
first token is an attention sink, as in SmolLM2, its keys are short, and a norm
on k makes them as long as the others' (docs/convert.md has what that costs).
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drope_jax import trees
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import QK_NORM_SCOPES, QK_NORMS, ModelConfig

INITS = ("unit", "matched")


class Moments(NamedTuple):
  """Second moments E[x^2] over tokens, for q; for k, H reads K.

  Attributes:
    raw_NHD: of the projection.
    joint_NHD: of the projection over its RMS over all heads.
    head_NHD: of the projection over its RMS over its own head.
  """

  raw_NHD: Array
  joint_NHD: Array
  head_NHD: Array


def add_qk_norm(
  config: ModelConfig,
  params: Any,
  which: str = "qk",
  scope: str = "joint",
  init: str = "unit",
  statistics: Mapping[str, Moments] | None = None,
) -> tuple[ModelConfig, Any]:
  """Returns the model with an RMS norm on every layer's q, k, or both.

  Not function-preserving, with either init: see the module.

  Args:
    config: of a model without QK norm.
    params: its weights; every leaf is shared, none is copied.
    which: "q", "k" or "qk".
    scope: "joint", one norm over all heads, as in the paper and its reference
      code; "head", one over each head's channels, with gains shared by heads.
    init: of the gains: "unit", ones, as in the paper; "matched", from
      `statistics`.
    statistics: what `measure` returned; for matched gains only.

  Returns:
    The new config, and params with float32 `layers/attention/q_norm/gain`
    [N, H*D] and `k_norm/gain` [N, K*D], or [N, D] with scope "head".

  Raises:
    ValueError: the model has a QK norm; an argument is unknown; statistics are
      missing, or given for unit gains.

  Source: the DroPE paper (arXiv:2512.12167), appendix C.1 and D.3. Matched
    gains are this project's.
  """
  if config.qk_norm != "none":
    raise ValueError(
      "add_qk_norm needs a model without QK norm, got one with "
      f"{config.qk_norm!r}: a second would reset the trained gains. Remove "
      "this step."
    )
  if which not in QK_NORMS[1:] or scope not in QK_NORM_SCOPES:
    raise ValueError(
      f"add_qk_norm takes which in {QK_NORMS[1:]} and scope in "
      f"{QK_NORM_SCOPES}, got {which!r} and {scope!r}. Name one of each."
    )
  if init not in INITS or (init == "matched") != (statistics is not None):
    raise ValueError(
      'add_qk_norm takes init "unit", or "matched" with the statistics of '
      f"`measure`, got {init!r} {'with' if statistics else 'without'} "
      "statistics. Pass both or neither."
    )
  config = dataclasses.replace(config, qk_norm=which, qk_norm_scope=scope)
  flat = trees.flatten(params)
  for path, leaf in trees.flatten(transformer.param_shapes(config)).items():
    if path in flat:
      continue
    gain = jnp.ones(leaf.shape, jnp.float32)
    if statistics is not None:
      moments = statistics["q" if "q_norm" in path else "k"]
      gain = _matched(moments, scope)[transformer.layers_of(config, path)]
    flat[path] = gain - config.norm_gain_offset
  return config, trees.unflatten(flat)


def measure(
  config: ModelConfig, params: Any, tokens_BS: Array
) -> dict[str, Moments]:
  """Returns the moments of a model's raw q and k, under "q" and "k".

  Measure a model that works, so before its positions are dropped: the inputs
  of a layer depend on the layers below. Some thousands of tokens are plenty;
  one sequence at a time is held in memory.
  """

  def moments(params: Any, tokens_S: Array) -> dict[str, Moments]:
    q_NBSHD, k_NBSKD = transformer.qk_projections(
      config, params, tokens_S[None], backend="blockwise"
    )
    of = functools.partial(_moments, eps=config.norm_eps)
    return {"q": of(q_NBSHD), "k": of(k_NBSKD)}

  @jax.jit
  def by_sequence(params: Any, tokens_BS: Array) -> dict[str, Moments]:
    return jax.lax.map(functools.partial(moments, params), tokens_BS)

  measured = by_sequence(params, tokens_BS)
  return jax.tree.map(lambda x: x.mean(axis=0), measured)


def _moments(x_NBSHD: Array, eps: float) -> Moments:
  square_NBSHD = jnp.square(x_NBSHD.astype(jnp.float32))

  def mean_of_normed(axes: tuple[int, ...]) -> Array:
    mean = square_NBSHD.mean(axes, keepdims=True)
    return (square_NBSHD / (mean + eps)).mean((1, 2))

  return Moments(
    square_NBSHD.mean((1, 2)), mean_of_normed((3, 4)), mean_of_normed((4,))
  )


def _matched(moments: Moments, scope: str) -> Array:
  if scope == "head":
    raw_ND, unit_ND = moments.raw_NHD.mean(1), moments.head_NHD.mean(1)
    return _ratio(raw_ND, unit_ND)
  N = moments.raw_NHD.shape[0]
  return _ratio(moments.raw_NHD, moments.joint_NHD).reshape(N, -1)


def _ratio(raw: Array, unit: Array) -> Array:
  """Returns the gain; one for a channel that is always 0."""
  return jnp.sqrt(jnp.where(unit > 0, raw / unit, 1))
