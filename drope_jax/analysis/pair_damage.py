"""What each rotary channel pair that a surgery drops is worth in loss."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp

from drope_jax.analysis import loss
from drope_jax.axes import Array
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  LogScaled,
  Nope,
  PartialRope,
  Scheme,
  log_scaled,
  partial,
  rotary,
)
from drope_jax.positional import pattern as patterns

COLUMNS = ("pair", "rotations", "kept", "cost alone (nats)")
"""Of `PairDamage.rows`."""


@dataclasses.dataclass(frozen=True)
class PairDamage:
  """The pairs of a head, fastest first, as they were before a surgery.

  Attributes:
    rotations_F: how many each completes in the trained context.
    cost_F: by how much the loss rises where that pair alone no longer rotates
      in the layers that the surgery drops from, nats a token.
    kept: how many of the fastest still rotate there after the surgery.
  """

  rotations_F: tuple[float, ...]
  cost_F: tuple[float, ...]
  kept: int

  def rows(self) -> list[tuple[str, ...]]:
    """Returns a table's rows under `COLUMNS`."""
    return [
      (
        str(pair),
        f"{rotations:.3g}",
        "yes" if pair < self.kept else "no",
        f"{cost:+.4f}",
      )
      for pair, (rotations, cost) in enumerate(
        zip(self.rotations_F, self.cost_F, strict=True)
      )
    ]


def measure(
  before: ModelConfig,
  after: ModelConfig,
  params,
  tokens_BS: Array,
  on_pair: Callable[[int, int], None] = lambda done, pairs: None,
) -> PairDamage | None:
  """Returns what each pair is worth; one forward pass of the text for each.

  Args:
    before: config of the model as it was.
    after: as the surgery left it, with the same layers.
    params: of the model as it was.
    tokens_BS: int32 tokens of held-out text.
    on_pair: called with how many pairs are measured, and of how many.

  Returns:
    None where no layer loses rotary positions, or the layers that do had not
    one rotary scheme, and have not one scheme after, in common.
  """
  lost = _lost(before, after)
  if lost is None:
    return None
  layers, scheme, left = lost
  D = before.head_dim
  base = float(_loss_without(before, layers, params, tokens_BS, -1))
  costs = []
  for pair in range(D // 2):
    without = _loss_without(before, layers, params, tokens_BS, pair)
    costs.append(float(without) - base)
    on_pair(pair + 1, D // 2)
  in_context = scheme.at(before.context_tokens)
  assert isinstance(in_context, rotary.Rotary)
  rotations_F = partial.rotations(in_context, D, before.context_tokens)
  kept = left.pairs if isinstance(left, PartialRope) else 0
  return PairDamage(tuple(map(float, rotations_F)), tuple(costs), kept)


def _lost(
  before: ModelConfig, after: ModelConfig
) -> tuple[tuple[int, ...], rotary.Rotary, Scheme] | None:
  """Returns the layers that lose positions, and their scheme then and now."""
  then, now = (
    [
      log_scaled.unscaled(scheme)
      for scheme in patterns.layer_schemes(config.positional, config.num_layers)
    ]
    for config in (before, after)
  )
  layers = tuple(
    n
    for n in range(before.num_layers)
    if then[n] != now[n] and isinstance(now[n], (Nope, PartialRope))
  )
  changes = {(then[n], now[n]) for n in layers}
  if len(changes) != 1:
    return None
  ((scheme, left),) = changes
  return (layers, scheme, left) if isinstance(scheme, rotary.Rotary) else None


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loss_without(
  config: ModelConfig,
  layers: Sequence[int],
  params,
  tokens_BS: Array,
  pair: Array,
) -> Array:
  """Returns the loss where `pair` rotates in none of `layers`; -1: in all."""
  schemes = list(patterns.layer_schemes(config.positional, config.num_layers))
  whole = log_scaled.unscaled(schemes[layers[0]]).at(tokens_BS.shape[1])
  assert isinstance(whole, rotary.Rotary)
  omega_F = jnp.asarray(whole.frequencies(config.head_dim))
  less = rotary.Given(
    jnp.where(jnp.arange(omega_F.size) == pair, 0.0, omega_F),
    jnp.asarray(whole.attention_factor, jnp.float32),
  )
  for layer in layers:
    had = schemes[layer]
    schemes[layer] = (
      dataclasses.replace(had, scheme=less)
      if isinstance(had, LogScaled)
      else less
    )
  positional = patterns.with_schemes(config.positional, schemes)
  config = dataclasses.replace(config, positional=positional)
  return loss.of_sequences(config, params, tokens_BS).mean()
