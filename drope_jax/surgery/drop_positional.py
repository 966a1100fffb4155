"""Dropping positional embeddings: a change of config.

No weight changes. What a dropped scheme has learned is removed.
"""

import dataclasses
from typing import Any

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  LogScaled,
  Nope,
  PartialRope,
  Scheme,
  partial,
  rotary,
)
from drope_jax.positional import pattern as patterns


def drop_positional(
  config: ModelConfig,
  params: Any,
  layers: str | tuple[int, ...] = "all",
  *,
  keep_rotations: float | None = None,
  keep_pairs: int | None = None,
) -> tuple[ModelConfig, Any]:
  """Returns the model without positions in some layers, and its params.

  Not function-preserving: the loss jumps, and recalibration brings it back.
  Attention windows and a scale by the query's position are kept: they are no
  embeddings.

  A layer loses all of its positions, as in the paper, or those of its slow
  channel pairs alone: `keep_rotations` or `keep_pairs` says which it keeps.

  Args:
    config: has positions to drop in each of the layers.
    params: returned as they are, but for what a scheme has learned that no
      layer has any more.
    layers: "all" that have such positions, or indices from 0; the others keep
      their schemes.
    keep_rotations: the pairs to keep complete at least as many rotations in
      `config.context_tokens`. A pair that completes one has met every phase.
    keep_pairs: as many of the fastest pairs are kept; instead of
      `keep_rotations`.

  Raises:
    ValueError: an index is out of range, named twice, or of a layer that loses
      nothing; with "all", no layer loses anything; pairs are to be kept of
      positions that are not rotary.

  Source: the DroPE paper (arXiv:2512.12167), which drops all at once.
  """
  N = config.num_layers
  schemes = patterns.layer_schemes(config.positional, N)
  indices = tuple(range(N)) if isinstance(layers, str) else layers
  distinct = set(indices)
  if not distinct or len(distinct) < len(indices) or distinct - {*range(N)}:
    raise ValueError(
      f'drop_positional needs "all" or different layers in 0..{N - 1}, got '
      f"{layers!r}. Name layers that the model has, each once."
    )
  left = [
    _what_is_left(config, scheme, keep_rotations, keep_pairs)
    if n in distinct
    else scheme
    for n, scheme in enumerate(schemes)
  ]
  same = [n for n in indices if left[n] == schemes[n]]
  if len(same) == N or (same and layers != "all"):
    raise ValueError(
      "drop_positional needs positions to drop in each layer that is named, "
      f"got none in {same}: {schemes[same[0]]}. Leave out what was dropped "
      "before, raise keep_rotations, or lower keep_pairs."
    )
  positional = patterns.with_schemes(config.positional, left)
  dropped = dataclasses.replace(config, positional=positional)
  had, needed = (
    trees.flatten(transformer.param_shapes(model)).keys()
    for model in (config, dropped)
  )
  if had != needed:
    flat = trees.flatten(params)
    params = trees.unflatten({path: flat[path] for path in needed})
  return dropped, params


def _what_is_left(
  config: ModelConfig,
  scheme: Scheme,
  keep_rotations: float | None,
  keep_pairs: int | None,
) -> Scheme:
  """Returns a layer's scheme after the drop; itself if it loses nothing."""
  if isinstance(scheme, LogScaled):
    left = _what_is_left(config, scheme.scheme, keep_rotations, keep_pairs)
    return dataclasses.replace(scheme, scheme=left)
  if scheme == Nope() or (keep_rotations is None and keep_pairs is None):
    return Nope()
  whole = scheme.rope if isinstance(scheme, PartialRope) else scheme
  if not isinstance(whole, rotary.GeometricRotary):
    raise ValueError(
      "Pairs can be kept where positions are rotary, with one frequency at "
      f"every length, got {whole}. Drop all of these positions."
    )
  D = config.head_dim
  had = scheme.pairs if isinstance(scheme, PartialRope) else D // 2
  if keep_pairs is None:
    assert keep_rotations is not None  # One of the two is.
    keep_pairs = partial.complete_pairs(
      whole, D, config.context_tokens, keep_rotations
    )
  if keep_pairs >= had:
    return scheme
  return PartialRope(whole, keep_pairs) if keep_pairs else Nope()
