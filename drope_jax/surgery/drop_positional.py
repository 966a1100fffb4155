"""Dropping positional embeddings: a change of config, never of weights."""

import dataclasses
from typing import Any

from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, Scheme, partial, rotary
from drope_jax.positional import pattern as patterns


def drop_positional(
  config: ModelConfig,
  params: Any,
  layers: str | tuple[int, ...] = "all",
  *,
  keep_turns: float | None = None,
  keep_pairs: int | None = None,
) -> tuple[ModelConfig, Any]:
  """Returns the model without positions in some layers, and the same params.

  Not function-preserving: the loss jumps, and recalibration brings it back.
  Attention windows stay: they are no embeddings.

  A drop takes a layer's positions whole, as the paper's does, or its slow
  channel pairs alone, where `keep_turns` or `keep_pairs` says which stay.

  Args:
    config: has positions to be dropped in each of the layers.
    params: returned as they are.
    layers: "all" that have such positions, or indices from 0; the others keep
      their schemes.
    keep_turns: pairs stay that complete at least as many rotations in
      `config.context_tokens`. One is enough to have met every phase.
    keep_pairs: as many of the fastest pairs stay; instead of `keep_turns`.

  Raises:
    ValueError: an index is out of range, named twice, or of a layer where
      nothing is dropped; with "all", no layer loses anything; pairs are to stay
      of positions that are not rotary.

  Source: the DroPE paper (arXiv:2512.12167), which drops all at once.
  """
  N = config.num_layers
  schemes = patterns.layer_schemes(config.positional, N)
  indices = tuple(range(N)) if layers == "all" else layers
  distinct = set(indices)
  if not distinct or len(distinct) < len(indices) or distinct - {*range(N)}:
    raise ValueError(
      f'drop_positional needs "all" or different layers in 0..{N - 1}, got '
      f"{layers!r}. Name layers that the model has, each once."
    )
  left = [
    _what_is_left(config, scheme, keep_turns, keep_pairs)
    if n in distinct
    else scheme
    for n, scheme in enumerate(schemes)
  ]
  same = [n for n in indices if left[n] == schemes[n]]
  if len(same) == N or (same and layers != "all"):
    raise ValueError(
      "drop_positional needs positions to drop in each layer that is named, "
      f"got none in {same}: {schemes[same[0]]}. Leave out what was dropped "
      "before, raise keep_turns, or lower keep_pairs."
    )
  windows = patterns.layer_plan(config.positional, N).windows
  positional = patterns.of_layers(left, windows)
  return dataclasses.replace(config, positional=positional), params


def _what_is_left(
  config: ModelConfig,
  scheme: Scheme,
  keep_turns: float | None,
  keep_pairs: int | None,
) -> Scheme:
  """Returns a layer's scheme after the drop; itself where nothing goes."""
  if scheme == Nope() or (keep_turns is None and keep_pairs is None):
    return Nope()
  whole = scheme.rope if isinstance(scheme, PartialRope) else scheme
  if not isinstance(whole, rotary.GeometricRotary):
    raise ValueError(
      "Pairs can stay where positions are rotary, with one frequency at every "
      f"length, got {whole}. Drop all of these positions."
    )
  D = config.head_dim
  had = scheme.pairs if isinstance(scheme, PartialRope) else D // 2
  if keep_pairs is None:
    keep_pairs = partial.complete_pairs(
      whole, D, config.context_tokens, keep_turns
    )
  if keep_pairs >= had:
    return scheme
  return PartialRope(whole, keep_pairs) if keep_pairs else Nope()
