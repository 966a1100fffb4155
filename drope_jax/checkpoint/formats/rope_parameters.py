"""Positions as config.json writes them, read and written.

transformers 5 has `rope_parameters`; before it, `rope_theta` and
`rope_scaling`. Nothing is approximated: what a scheme here does not do is
refused by name.
"""

from collections.abc import Mapping
import math
import types
from typing import Any

import numpy as np

from drope_jax.checkpoint.formats import fields
from drope_jax.checkpoint.formats.kinds import (
  Flag,
  Kind,
  ListOf,
  Number,
  OneOf,
  Whole,
)
from drope_jax.positional import (
  Dynamic,
  Llama3Rope,
  LongRope,
  Nope,
  NtkAware,
  PartialRope,
  PositionInterpolation,
  RescaledRope,
  Rope,
  Scheme,
  Yarn,
  partial,
  rotary,
)

_TRAINED = "original_max_position_embeddings"
_KINDS: Mapping[str, Kind] = {
  "rope_theta": Number(above=1),
  "partial_rotary_factor": OneOf(1.0, 1),
  _TRAINED: Whole(),
}
"""Fields of every type; a type that has no use for one ignores it."""

_FACTOR = {"factor": Number(above=0)}
_ATTENTION_FACTOR = {"attention_factor": Number(above=0)}
_OWN_KINDS: Mapping[str, Mapping[str, Kind]] = {
  "default": {},
  "linear": _FACTOR,
  "dynamic": _FACTOR,
  "yarn": {
    **_FACTOR,
    **_ATTENTION_FACTOR,
    "beta_fast": Number(above=0),
    "beta_slow": Number(above=0),
    "mscale": Number(above=0),
    "mscale_all_dim": Number(above=0),
    "truncate": Flag(),
  },
  "longrope": {
    **_FACTOR,
    **_ATTENTION_FACTOR,
    "short_factor": ListOf(Number(above=0)),
    "long_factor": ListOf(Number(above=0)),
  },
  "llama3": {
    **_FACTOR,
    "low_freq_factor": Number(above=0),
    "high_freq_factor": Number(above=0),
  },
}
"""Fields of each rope_type."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
  "yarn": {
    "attention_factor": None,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
  },
  "longrope": {"factor": None, "attention_factor": None},
}

STILL = 1e30
"""Divides the frequency of a pair that is not to rotate.

At 1e9 tokens the angle is then 1e-21, whose cosine is 1 in float32, and whose
sine is lost in any sum.
"""

NO_ROTATION: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    "llama3": {
      "rope_type": "llama3",
      "rope_theta": 10_000.0,
      "factor": STILL,
      _TRAINED: 1,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
    },
    "linear": {
      "rope_type": "linear",
      "rope_theta": 10_000.0,
      "factor": STILL,
    },
  }
)
"""Rotations by zero, for architectures that must have a rotation.

Llama 3's rule divides every frequency here, since every wavelength is above one
token. llama.cpp reads that rule for Llama and Mistral only, and the linear rule
for every architecture. For the linear rule vLLM makes a table as long as the
context times `factor`.
"""


def read(
  parameters: Mapping[str, Any],
  default_theta: float,
  context_tokens: int,
  trained_tokens: int | None = None,
) -> Scheme:
  """Returns the scheme of `rope_parameters` or `rope_scaling`.

  Args:
    parameters: the dict; empty for plain RoPE.
    default_theta: where it names none.
    context_tokens: max_position_embeddings.
    trained_tokens: original_max_position_embeddings, where config.json has it
      beside the dict, as Phi-3's.

  Raises:
    ValueError: an unknown type or field, or a setting that no scheme has.
  """
  given = dict(parameters)
  legacy = given.pop("type", None) or "default"
  kind = given.pop("rope_type", None) or legacy
  if not isinstance(kind, str) or kind not in _OWN_KINDS:
    raise ValueError(
      f"Positions must be of a rope_type in {', '.join(_OWN_KINDS)}, got "
      f"{kind!r}. This checkpoint cannot be read exactly."
    )
  try:
    values = fields.read(
      given,
      {**_KINDS, **_OWN_KINDS[kind]},
      defaults=dict.fromkeys(_KINDS) | dict(_DEFAULTS.get(kind, {})),
    )
  except ValueError as error:
    raise ValueError(f"Positions of rope_type {kind!r}: {error}") from error
  theta = float(values["rope_theta"] or default_theta)
  trained = _trained(values[_TRAINED], trained_tokens, context_tokens)
  factor: Any = values.get("factor")  # `_KINDS` has checked it.
  match kind:
    case "linear":
      return PositionInterpolation(theta, float(factor))
    case "dynamic":
      return Dynamic(NtkAware(theta, float(factor)), context_tokens)
    case "yarn":
      return _yarn(theta, trained, values)
    case "longrope":
      return _longrope(theta, trained, context_tokens, values)
    case "llama3":
      low, high = values["low_freq_factor"], values["high_freq_factor"]
      return Llama3Rope(theta, float(factor), trained, float(low), float(high))
  return Rope(theta)


def simplest(scheme: Scheme, head_dim: int) -> Scheme:
  """Returns the drop that a scheme stands for, or the scheme itself.

  It stands for one where fast pairs have plain RoPE's frequencies, and all the
  others are divided by `STILL`.
  """
  if not isinstance(scheme, (rotary.GeometricRotary, PartialRope)):
    return scheme
  whole = scheme.rope if isinstance(scheme, PartialRope) else scheme
  plain_F = rotary.geometric_frequencies(whole.theta, head_dim)
  share_F = scheme.frequencies(head_dim) / plain_F
  pairs = int((share_F == 1.0).sum())
  # Float32 rounds the division.
  still_F = share_F[pairs:] <= 1.001 / STILL
  is_drop = (share_F[:pairs] == 1.0).all() and still_F.size and still_F.all()
  if not is_drop or scheme.attention_factor != 1.0:
    return scheme
  return PartialRope(Rope(whole.theta), pairs) if pairs else Nope()


def write(scheme: Scheme, head_dim: int, context_tokens: int) -> dict[str, Any]:
  """Returns what `read` and `simplest` turn into `scheme`.

  Two are read back as plain RoPE, with the same frequencies: NTK-aware scaling,
  which is RoPE of another theta, and a scaling that slows dropped pairs alone.

  Slow pairs that were dropped leave by Llama 3's rule, which the fast ones
  escape: more clients know it than per-pair factors (longrope), and none of
  them adds a softmax scale to it.

  Args:
    scheme: any but Nope.
    head_dim: of its heads.
    context_tokens: the max_position_embeddings that it is written beside.

  Raises:
    ValueError: the scheme is none of transformers'.
  """
  match scheme:
    case Rope(theta):
      return {"rope_type": "default", "rope_theta": theta}
    case NtkAware():
      return write(scheme.as_rope(head_dim), head_dim, context_tokens)
    case PositionInterpolation(theta, factor):
      return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    case Dynamic(NtkAware(theta, factor), trained) if trained == context_tokens:
      return {"rope_type": "dynamic", "rope_theta": theta, "factor": factor}
    case RescaledRope(theta, factors, length_factor):
      # Where both lengths are one, no reader makes an attention_factor of
      # their ratio.
      return _write_longrope(
        LongRope(theta, factors, factors, context_tokens, length_factor)
      )
    case LongRope():
      return _write_longrope(scheme)
    case Yarn(theta, factor, trained, fast, slow, length_factor, truncate):
      written = {
        "rope_type": "yarn",
        "rope_theta": theta,
        "factor": factor,
        _TRAINED: trained,
        "beta_fast": fast,
        "beta_slow": slow,
      }
      if length_factor is not None:
        written["attention_factor"] = length_factor
      return written if truncate else written | {"truncate": False}
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
    case PartialRope() if (plain := simplest(scheme, head_dim)) != scheme:
      return write(plain, head_dim, context_tokens)
  raise ValueError(
    "A stock architecture has plain, linear, dynamic (from its context on), "
    f"YaRN, Llama 3 or LongRoPE positions, got {scheme} at a context of "
    f"{context_tokens}. Export a checkpoint with one of these."
  )


def _partial(
  theta: float, pairs: int, head_dim: int, context_tokens: int
) -> dict[str, Any]:
  """Returns Llama 3's rule with its ramp between the last pair and the next."""
  # Any length will do that is below the context, where transformers wants it.
  length = max(context_tokens // 2, 1)
  rotations_F = partial.rotations(Rope(theta), head_dim, length)
  if pairs == len(rotations_F):
    return write(Rope(theta), head_dim, context_tokens)
  # By their logarithms; both ends are clear of the pairs, in float32 too.
  low, high = np.geomspace(rotations_F[pairs], rotations_F[pairs - 1], 4)[1:3]
  return {
    "rope_type": "llama3",
    "rope_theta": theta,
    "factor": STILL,
    _TRAINED: length,
    "low_freq_factor": float(low),
    "high_freq_factor": float(high),
  }


def _write_longrope(scheme: LongRope) -> dict[str, Any]:
  return {
    "rope_type": "longrope",
    "rope_theta": scheme.theta,
    "short_factor": list(scheme.short_factor),
    "long_factor": list(scheme.long_factor),
    _TRAINED: scheme.trained_tokens,
    "attention_factor": scheme.attention_factor,
  }


def _trained(inside: int | None, beside: int | None, context: int) -> int:
  if None not in (inside, beside) and inside != beside:
    raise ValueError(
      f"{_TRAINED} must be the same beside the positions and among them, got "
      f"{beside} and {inside}. Put the model's in both."
    )
  return inside or beside or context


def _yarn(theta: float, trained: int, values: Mapping[str, Any]) -> Yarn:
  factor = float(values["factor"])
  length_factor = values["attention_factor"]
  mscale, all_dim = values["mscale"], values["mscale_all_dim"]
  if length_factor is None and mscale and all_dim:
    log = 0.1 * math.log(max(factor, 1.0))
    length_factor = (mscale * log + 1.0) / (all_dim * log + 1.0)
  return Yarn(
    theta,
    factor,
    trained,
    float(values["beta_fast"]),
    float(values["beta_slow"]),
    None if length_factor is None else float(length_factor),
    values["truncate"],
  )


def _longrope(
  theta: float, trained: int, context_tokens: int, values: Mapping[str, Any]
) -> LongRope | RescaledRope:
  if trained < 2:
    raise ValueError(
      f"LongRoPE needs {_TRAINED} of at least 2, got {trained}. Put the "
      "model's there."
    )
  # The factor is only what an attention_factor is made of, as in the paper.
  factor = values["factor"] or context_tokens / trained
  length_factor = values["attention_factor"]
  if length_factor is None:
    length_factor = 1.0
    if factor > 1.0:
      length_factor = math.sqrt(1.0 + math.log(factor) / math.log(trained))
  scheme = LongRope(
    theta,
    tuple(map(float, values["short_factor"])),
    tuple(map(float, values["long_factor"])),
    trained,
    float(length_factor),
  )
  same = scheme.short_factor == scheme.long_factor
  return scheme.at(trained) if same else scheme
