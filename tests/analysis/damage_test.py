import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.analysis import damage
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, LogScaled, Nope, Pattern, Rope

S = 24
CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
)
DROPPED = dataclasses.replace(CONFIG, positional=Nope())


@pytest.fixture(scope="module")
def params():
  # Large weights: attention far from uniform, where positions matter.
  weights = transformer.init(CONFIG, jax.random.key(0))
  return jax.tree.map(lambda leaf: 3 * leaf if leaf.ndim > 2 else leaf, weights)


@pytest.fixture(scope="module")
def tokens_BS():
  return jax.random.randint(jax.random.key(1), (2, S), 0, CONFIG.vocab_size)


def _numpy_anatomy(config, params, tokens_BS, slopes_H, window, scale_S):
  """The same from plain loops over layers, sequences and heads."""
  inputs = transformer.attention_inputs(config, params, tokens_BS)
  q_NBSHD, k_NBSKD = map(np.asarray, inputs[:2])
  repeats = config.num_heads // config.num_kv_heads
  entropies_N, logits_N = [], []
  for q_BSHD, k_BSKD in zip(q_NBSHD, k_NBSKD, strict=True):
    entropies, logits = [], []
    for b, h in np.ndindex(len(q_BSHD), config.num_heads):
      for i in range(S):
        first = max(i + 1 - window, 0)
        k_TD = k_BSKD[b, first : i + 1, h // repeats]
        logits_T = k_TD @ q_BSHD[b, i, h] * config.logit_scale * scale_S[i]
        logits_T = logits_T / math.sqrt(config.head_dim)
        logits_T = logits_T - slopes_H[h] * np.arange(len(k_TD))[::-1]
        p_T = np.exp(logits_T - logits_T.max())
        p_T /= p_T.sum()
        p_T = p_T[p_T > 0]  # 0 log 0 is 0.
        entropies.append(-(p_T * np.log(p_T)).sum())
        logits.append(logits_T.max())
    entropies_N.append(np.mean(entropies))
    logits_N.append(np.max(logits))
  return entropies_N, logits_N


def test_identical_models_differ_by_nothing(params, tokens_BS):
  report = damage.compare((CONFIG, params), (CONFIG, params), tokens_BS)
  assert report.before == report.after
  assert report.before.loss > 1
  for row in report.rows():
    assert len(row) == len(damage.COLUMNS)
    assert all(len(set(cell.split(" → "))) == 1 for cell in row)


def test_dropping_positions_shows_in_loss_and_attention(params, tokens_BS):
  report = damage.compare((CONFIG, params), (DROPPED, params), tokens_BS)
  assert abs(report.after.loss - report.before.loss) > 1e-3
  assert report.after.entropy_N != report.before.entropy_N
  last = f"{report.before.entropy_N[1]:.2f} → {report.after.entropy_N[1]:.2f}"
  assert [row[0] for row in report.rows()] == ["0", "1"]
  assert report.rows()[1][3] == last
  # The rotation keeps lengths, and the first layer's inputs are the same.
  assert report.after.query_rms_N[0] == pytest.approx(
    report.before.query_rms_N[0], rel=1e-5
  )


def test_without_positions_equal_queries_attend_uniformly(params, tokens_BS):
  attention = dict(params["layers"]["attention"])
  attention["q"] = {"kernel": jnp.zeros_like(attention["q"]["kernel"])}
  blind = params | {"layers": params["layers"] | {"attention": attention}}
  anatomy = damage.measure(DROPPED, blind, tokens_BS)
  mean = np.mean([math.log(i + 1) for i in range(S)])
  np.testing.assert_allclose(anatomy.entropy_N, mean, rtol=1e-5)
  assert anatomy.uniform_entropy == pytest.approx(mean)
  assert anatomy.query_rms_N == (0.0, 0.0)
  assert max(damage.measure(DROPPED, params, tokens_BS).entropy_N) < 0.99 * mean


@pytest.mark.parametrize(
  ("changes", "slopes_H", "window", "scale_S"),
  [
    ({"logit_scale": 1.7}, (0, 0, 0, 0), S, np.ones(S)),
    (
      {"positional": Alibi()},
      (2**-2, 2**-4, 2**-6, 2**-8),
      S,
      np.ones(S),
    ),
    ({"positional": Pattern((Rope(),), (5,))}, (0, 0, 0, 0), 5, np.ones(S)),
    (
      {"positional": LogScaled(Rope(), 4, 0.5), "logit_scale": 1.7},
      (0, 0, 0, 0),
      S,
      1 + 0.5 * np.log(np.maximum(np.arange(1, S + 1) / 4, 1)),
    ),
  ],
  ids=["scaled rope", "alibi", "window", "log-scaled rope"],
)
def test_attention_matches_loops_in_numpy(
  params, tokens_BS, changes, slopes_H, window, scale_S
):
  config = dataclasses.replace(CONFIG, **changes)
  anatomy = damage.measure(config, params, tokens_BS)
  entropy_N, max_logit_N = _numpy_anatomy(
    config, params, tokens_BS, slopes_H, window, scale_S
  )
  # float32 sums in another order.
  np.testing.assert_allclose(anatomy.entropy_N, entropy_N, rtol=1e-4)
  np.testing.assert_allclose(anatomy.max_logit_N, max_logit_N, rtol=1e-4)


def test_a_soft_cap_is_on_the_logits_as_in_the_model(params, tokens_BS):
  config = dataclasses.replace(CONFIG, logit_soft_cap=0.5)
  _, captured = transformer.hidden(
    config, params, tokens_BS, capture=("max_logit",)
  )
  got_N = damage.measure(config, params, tokens_BS).max_logit_N
  np.testing.assert_allclose(got_N, captured["max_logit"], rtol=1e-4)
  plain_N = damage.measure(CONFIG, params, tokens_BS).max_logit_N
  assert np.all(np.asarray(got_N) < 0.9 * np.asarray(plain_N))


def test_loss_is_the_mean_over_next_tokens(params, tokens_BS):
  logits_BSV = np.asarray(transformer.forward(CONFIG, params, tokens_BS))
  losses = [
    np.log(np.exp(logits_BSV[b, i]).sum())
    - logits_BSV[b, i, tokens_BS[b, i + 1]]
    for b, i in np.ndindex(len(tokens_BS), S - 1)
  ]
  got = damage.measure(CONFIG, params, tokens_BS).loss
  assert got == pytest.approx(np.mean(losses), rel=1e-5)


def test_rms_is_that_of_the_attention_inputs(params, tokens_BS):
  q_NBSHD, k_NBSKD, *_ = transformer.attention_inputs(CONFIG, params, tokens_BS)
  got = damage.measure(CONFIG, params, tokens_BS)
  for values, x_NBSHD in (
    (got.query_rms_N, q_NBSHD),
    (got.key_rms_N, k_NBSKD),
  ):
    flat = np.asarray(x_NBSHD).reshape(CONFIG.num_layers, -1)
    want_N = np.linalg.norm(flat, axis=1) / math.sqrt(flat.shape[1])
    np.testing.assert_allclose(values, want_N, rtol=1e-5)


def test_a_row_stays_short_whatever_the_sizes():
  side = damage.Anatomy(1.0, (99.99,), (123.4,), (0.5,), (-54321.0,), 2.0)
  (row,) = damage.Damage(side, side).rows()
  assert row[1:3] == ("99.99 → 99.99", "123 → 123")
  assert row[3:] == ("0.50 → 0.50", "-54321 → -54321")


def test_a_report_survives_json():
  side = damage.Anatomy(1.5, (1.0,), (2.0,), (0.1,), (9.0,), 2.2)
  report = damage.Damage(side, dataclasses.replace(side, loss=1 / 3))
  text = json.dumps(report.to_json())
  assert damage.Damage.from_json(json.loads(text)) == report


def test_refuses_what_is_no_report_and_what_is_no_text(params):
  with pytest.raises(ValueError, match="Damage needs after"):
    damage.Damage.from_json({"before": {"loss": 1.0}})
  with pytest.raises(ValueError, match="at least 2 tokens"):
    damage.measure(CONFIG, params, jnp.zeros((2, 1), jnp.int32))


def test_memory_is_that_of_one_sequence_and_some_of_its_logits():
  config = dataclasses.replace(CONFIG, vocab_size=2**16)
  shapes = transformer.param_shapes(config)

  def held_bytes(batch_size):
    tokens_BS = jax.ShapeDtypeStruct((batch_size, 2048), jnp.int32)
    compiled = damage._measure.lower(config, shapes, tokens_BS).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert held_bytes(16) < 1.1 * held_bytes(1)
  assert held_bytes(16) < 0.8 * 4 * 2048 * config.vocab_size
