"""What a pair is worth is what dropping it, and it alone, costs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from drope_jax.analysis import damage, pair_damage
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Alibi,
  LogScaled,
  LongRope,
  Nope,
  PartialRope,
  Pattern,
  Rope,
)

CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=24,
  positional=Rope(100.0),
)


@pytest.fixture(scope="module")
def params():
  # Large weights: attention far from uniform, where positions matter.
  weights = transformer.init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 2 else leaf, weights)


@pytest.fixture(scope="module")
def tokens_BS():
  return jax.random.randint(jax.random.key(1), (2, 24), 0, CONFIG.vocab_size)


def _with(positional):
  return dataclasses.replace(CONFIG, positional=positional)


_forward = jax.jit(transformer.forward, static_argnums=0)


def _loss(config, params, tokens_BS):
  logits_BSV = _forward(config, params, tokens_BS)
  log_p_BSV = np.asarray(jax.nn.log_softmax(logits_BSV[:, :-1]))
  return -np.take_along_axis(
    log_p_BSV, np.asarray(tokens_BS)[:, 1:, None], -1
  ).mean()


def test_the_slowest_pair_costs_what_dropping_it_costs(params, tokens_BS):
  after = _with(PartialRope(Rope(100.0), 3))
  found = pair_damage.measure(CONFIG, after, params, tokens_BS)
  cost = _loss(after, params, tokens_BS) - _loss(CONFIG, params, tokens_BS)
  assert abs(cost) > 1e-3, "the pair had no effect"
  # Float32 sums over a softmax of 31 logits.
  np.testing.assert_allclose(found.cost_F[3], cost, atol=1e-5)
  np.testing.assert_allclose(
    found.rotations_F,
    24 * 100.0 ** (-np.arange(4) / 4) / (2 * np.pi),
    rtol=1e-6,
  )
  assert found.kept == 3


def test_a_pair_is_measured_in_the_dropped_layers_alone(params, tokens_BS):
  less = PartialRope(Rope(100.0), 3)
  after = _with(Pattern((Rope(100.0), less)))
  found = pair_damage.measure(CONFIG, after, params, tokens_BS)
  cost = _loss(after, params, tokens_BS) - _loss(CONFIG, params, tokens_BS)
  np.testing.assert_allclose(found.cost_F[3], cost, atol=1e-5)
  everywhere = pair_damage.measure(CONFIG, _with(less), params, tokens_BS)
  assert abs(everywhere.cost_F[3] - cost) > 1e-4


@pytest.mark.parametrize("tokens", [12, 24])
def test_a_pair_is_measured_at_the_length_of_the_text(
  params, tokens_BS, tokens
):
  """Of LongRoPE, whose factors are others beyond its trained tokens."""
  short, long, still = (1.0,) * 4, (1.0, 2.0, 3.0, 5.0), 1e30

  def without(pair):
    factors = [
      tuple(still if i == pair else f for i, f in enumerate(of_length))
      for of_length in (short, long)
    ]
    return _with(LongRope(100.0, *factors, trained_tokens=16))

  before, text_BS = without(None), tokens_BS[:, :tokens]
  found = pair_damage.measure(before, _with(Nope()), params, text_BS)
  base = _loss(before, params, text_BS)
  cost_F = [_loss(without(i), params, text_BS) - base for i in range(4)]
  np.testing.assert_allclose(found.cost_F, cost_F, atol=1e-5)
  # In the context of 24 tokens the long ones hold, however short the text.
  omega_F = 100.0 ** (-np.arange(4) / 4) / long
  np.testing.assert_allclose(
    found.rotations_F, 24 * omega_F / (2 * np.pi), rtol=1e-6
  )


def test_a_scale_by_the_position_is_kept_while_pairs_are_measured(
  params, tokens_BS
):
  before, after = (
    _with(LogScaled(scheme, trained_tokens=4, slope=1.0))
    for scheme in (Rope(100.0), PartialRope(Rope(100.0), 3))
  )
  found = pair_damage.measure(before, after, params, tokens_BS)
  cost = _loss(after, params, tokens_BS) - _loss(before, params, tokens_BS)
  np.testing.assert_allclose(found.cost_F[3], cost, atol=1e-5)
  assert found.kept == 3
  bare = pair_damage.measure(
    CONFIG, _with(PartialRope(Rope(100.0), 3)), params, tokens_BS
  )
  assert abs(bare.cost_F[3] - cost) > 1e-4, "the scale had no effect"


@pytest.mark.parametrize(
  ("before", "after"),
  [
    (Rope(100.0), Rope(100.0)),
    (Alibi(), Nope()),
    (Pattern((Rope(100.0), Rope(50.0))), Nope()),
    (Rope(100.0), Rope(50.0)),
  ],
)
def test_nothing_is_said_where_no_one_scheme_is_dropped(
  params, tokens_BS, before, after
):
  found = pair_damage.measure(_with(before), _with(after), params, tokens_BS)
  assert found is None


def test_it_is_part_of_the_damage_and_survives_json(params, tokens_BS):
  pairs = []
  report = damage.compare(
    (CONFIG, params),
    (_with(Nope()), params),
    tokens_BS,
    on_pair=lambda done, total: pairs.append((done, total)),
  )
  assert pairs == [(1, 4), (2, 4), (3, 4), (4, 4)]
  assert report.pairs.kept == 0
  again = damage.Damage.from_json(json.loads(json.dumps(report.to_json())))
  assert again == report
  rows = report.pairs.rows()
  assert len(rows[0]) == len(pair_damage.COLUMNS)
  assert rows[1][2:] == ("no", f"{report.pairs.cost_F[1]:+.4f}")
