"""Positions as config.json writes them, read and written.

transformers 5 has `rope_parameters`; before it, `rope_theta` and
`rope_scaling`. Nothing is approximated: what a scheme here does not do is
refused by name.
"""

from collections.abc import Mapping
import types
from typing import Any

import numpy as np

from drope_jax.positional import (
  Dynamic,
  Llama3Rope,
  Nope,
  NtkAware,
  PartialRope,
  PositionInterpolation,
  Rope,
  Scheme,
  Yarn,
  partial,
  rotary,
)

_FIELDS = {
  "default": (),
  "linear": ("factor",),
  "dynamic": ("factor",),
  "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "truncate"),
  "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_TRAINED = "original_max_position_embeddings"

STILL = 1e30
"""Divides the frequency of a pair that is not to rotate.

At 1e9 tokens the angle is then 1e-21, whose cosine is 1 in float32, and whose
sine is lost in any sum.
"""

NEUTRAL = types.MappingProxyType(
  {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": STILL,
    _TRAINED: 1,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
  }
)
"""A rotation by nothing, for an architecture that must have one.

Every wavelength is above one token, so that the rule divides every frequency
by `factor`.
"""


def read(
  parameters: Mapping[str, Any], default_theta: float, context_tokens: int
) -> Scheme:
  """Returns the scheme of `rope_parameters` or `rope_scaling`.

  Args:
    parameters: the dict; empty for plain RoPE.
    default_theta: where it names none.
    context_tokens: max_position_embeddings.

  Raises:
    ValueError: an unknown type or field, or a setting that no scheme has.
  """
  given = dict(parameters)
  legacy = given.pop("type", "default")
  kind = given.pop("rope_type", legacy)
  theta = float(given.pop("rope_theta", default_theta))
  trained = given.pop(_TRAINED, None) or context_tokens
  if kind not in _FIELDS:
    raise ValueError(
      f"Positions must be of a rope_type in {', '.join(_FIELDS)}, got "
      f"{kind!r}. This checkpoint cannot be read exactly."
    )
  if given.pop("partial_rotary_factor", 1.0) != 1.0:
    raise ValueError(
      "Positions must rotate all of a head, got a partial_rotary_factor. This "
      "checkpoint cannot be read exactly."
    )
  if unknown := sorted(given.keys() - set(_FIELDS[kind])):
    raise ValueError(
      f"Positions of rope_type {kind!r} must have no field but "
      f"{', '.join(_FIELDS[kind]) or 'rope_theta'}, got {', '.join(unknown)}. "
      "This checkpoint cannot be read exactly."
    )
  if kind == "default":
    return Rope(theta)
  if "factor" not in given:
    raise ValueError(
      f"Positions of rope_type {kind!r} need a factor, got none. Put it back "
      "into config.json."
    )
  factor = float(given["factor"])
  match kind:
    case "linear":
      return PositionInterpolation(theta, factor)
    case "dynamic":
      return _dynamic(theta, factor, context_tokens)
    case "yarn":
      return _yarn(theta, factor, trained, given)
  for name in _FIELDS["llama3"]:
    given.setdefault(name, None)
  low, high = given["low_freq_factor"], given["high_freq_factor"]
  if None in (low, high):
    raise ValueError(
      "Positions of rope_type 'llama3' need low_freq_factor and "
      f"high_freq_factor, got {low} and {high}. Put them back into config.json."
    )
  return Llama3Rope(theta, factor, int(trained), float(low), float(high))


def simplest(scheme: Scheme, head_dim: int) -> Scheme:
  """Returns the drop that a scheme stands for, or the scheme itself.

  It stands for one where fast pairs have plain RoPE's frequencies, and all the
  others are divided by `STILL`.
  """
  if not isinstance(scheme, rotary.GeometricRotary):
    return scheme
  plain_F = rotary.geometric_frequencies(scheme.theta, head_dim)
  share_F = scheme.frequencies(head_dim) / plain_F
  pairs = int((share_F == 1.0).sum())
  # Float32 rounds the division.
  still_F = share_F[pairs:] <= 1.001 / STILL
  is_drop = (share_F[:pairs] == 1.0).all() and still_F.size and still_F.all()
  if not is_drop or scheme.attention_factor != 1.0:
    return scheme
  return PartialRope(Rope(scheme.theta), pairs) if pairs else Nope()


def write(scheme: Scheme, head_dim: int, context_tokens: int) -> dict[str, Any]:
  """Returns what `read` and `simplest` turn into `scheme`.

  Slow pairs that were dropped leave by Llama 3's rule, which the fast ones
  escape: more clients know it than per-pair factors (longrope), and none of
  them adds a softmax scale to it.

  Args:
    scheme: the model's.
    head_dim: of its heads.
    context_tokens: that it was trained at.

  Raises:
    ValueError: the scheme is none of transformers'.
  """
  match scheme:
    case Rope(theta):
      return {"rope_type": "default", "rope_theta": theta}
    case PositionInterpolation(theta, factor):
      return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    case Dynamic(NtkAware(theta), _):
      return {"rope_type": "dynamic", "rope_theta": theta, "factor": 1.0}
    case Yarn(theta, factor, trained, fast, slow):
      return {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        _TRAINED: trained,
        "beta_fast": fast,
        "beta_slow": slow,
      }
    case Llama3Rope(theta, factor, trained, low, high):
      return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        _TRAINED: trained,
        "low_freq_factor": low,
        "high_freq_factor": high,
      }
    case PartialRope(Rope(theta), pairs):
      return _partial(theta, pairs, head_dim, context_tokens)
  raise ValueError(
    "A stock architecture has plain, linear, dynamic, YaRN or Llama 3 RoPE, "
    f"got {scheme}. Export a checkpoint with one of these."
  )


def _partial(
  theta: float, pairs: int, head_dim: int, context_tokens: int
) -> dict[str, Any]:
  """Returns Llama 3's rule with its ramp between the last pair and the next."""
  rotations_F = partial.rotations(Rope(theta), head_dim, context_tokens)
  if pairs == len(rotations_F):
    return write(Rope(theta), head_dim, context_tokens)
  # By their logarithms; both ends are clear of the pairs, in float32 too.
  low, high = np.geomspace(rotations_F[pairs], rotations_F[pairs - 1], 4)[1:3]
  return {
    "rope_type": "llama3",
    "rope_theta": theta,
    "factor": STILL,
    _TRAINED: context_tokens,
    "low_freq_factor": float(low),
    "high_freq_factor": float(high),
  }


def _dynamic(theta: float, factor: float, context_tokens: int) -> Dynamic:
  if factor != 1.0:
    raise ValueError(
      "Positions of rope_type 'dynamic' are read at factor 1, where the base "
      f"follows the length alone, got {factor:g}. Set it to 1."
    )
  return Dynamic(NtkAware(theta), context_tokens)


def _yarn(theta, factor, trained, given) -> Yarn:
  scheme = Yarn(
    theta,
    factor,
    int(trained),
    float(given.get("beta_fast") or 32.0),
    float(given.get("beta_slow") or 1.0),
  )
  attention_factor = given.get("attention_factor")
  if attention_factor not in (None, scheme.attention_factor):
    raise ValueError(
      "YaRN's attention_factor must be 0.1 ln(factor) + 1 = "
      f"{scheme.attention_factor:g}, got {attention_factor}. This checkpoint "
      "cannot be read exactly."
    )
  if not given.get("truncate", True):
    raise ValueError(
      "YaRN's ramp must be between whole pairs, got truncate: false. This "
      "checkpoint cannot be read exactly."
    )
  return scheme
