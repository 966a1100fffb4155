"""What a rotary pair is worth, on a random model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.analysis.studies import pairs, pairs_plots
from drope_jax.evals.retrieval import Sample
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, Rope

S = 12
CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=1,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
  positional=Rope(50.0),
)


@pytest.fixture(scope="module")
def model():
  """Params, text, and two questions, of which the first is answered."""
  weights = transformer.init(CONFIG, jax.random.key(0))
  # Attention far from uniform.
  params = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, weights)
  rng = np.random.default_rng(0)
  tokens_BS = jnp.asarray(rng.integers(0, 31, (3, S)), jnp.int32)
  asked_PS = rng.integers(0, 31, (2, S))
  forward = jax.jit(transformer.forward, static_argnums=0)
  for _ in range(2):  # The second token of the answer depends on the first.
    said_PSV = forward(CONFIG, params, jnp.asarray(asked_PS))
    said_PS = np.asarray(said_PSV.argmax(-1))
    asked_PS[:, 8], asked_PS[:, 9] = said_PS[:, 7], said_PS[:, 8]
  asked_PS[1, 9] = (asked_PS[1, 9] + 1) % 31
  at_PA = jnp.asarray([[7, 8, S], [7, 8, S]])
  return params, tokens_BS, pairs.Questions(jnp.asarray(asked_PS), at_PA)


def test_an_answer_is_recalled_if_every_token_of_it_is_the_most_likely(model):
  scores = pairs.scores(CONFIG, *model)
  assert scores.recalled_P.tolist() == [True, False]


def test_a_pair_that_is_removed_no_longer_rotates(model):
  params, tokens_BS, asked = model
  found = pairs.measure(CONFIG, params, tokens_BS, asked, 2.0)
  whole = pairs.scores(CONFIG, *model)
  assert found.loss == pytest.approx(whole.loss_B.mean(), rel=1e-6)
  assert found.recall == 0.5
  fewer = dataclasses.replace(CONFIG, positional=PartialRope(Rope(50.0), 3))
  rise_B = pairs.scores(fewer, *model).loss_B - whole.loss_B
  last = found.pairs[-1]
  assert last.rotations == pytest.approx(S * 50 ** (-3 / 4) / (2 * np.pi))
  # float32 losses near 3.5 nats.
  assert last.removed.loss == pytest.approx(rise_B.mean(), abs=2e-6)
  assert abs(last.removed.loss) > 1e-4
  assert last.removed.loss_low < last.removed.loss < last.removed.loss_high
  # Half its frequency is another model than none.
  assert abs(last.divided.loss - last.removed.loss) > 1e-5
  figure = pairs_plots.costs(found)
  heights = [bar.get_height() for bar in figure.axes[0].patches[:4]]
  assert heights == pytest.approx([pair.removed.loss for pair in found.pairs])


def test_questions_end_in_their_answers():
  samples = [
    Sample("a b c", (1, 2, 3), ("d", "e"), 9, 4),
    Sample("a b", (9, 1, 2), ("c",), 9, 4),  # 9 is BOS.
  ]

  def encode(text):
    return ["abcde".index(word.strip(",")) + 1 for word in text.split()]

  asked = pairs.questions(samples, encode)
  assert asked.tokens_PS.tolist() == [[1, 2, 3, 4, 5], [9, 1, 2, 3, 0]]
  assert asked.at_PA.tolist() == [[2, 3], [2, 5]]


def test_a_model_without_one_rotary_scheme_is_refused(model):
  nope = dataclasses.replace(CONFIG, positional=Nope())
  with pytest.raises(ValueError, match="one rotary scheme in all layers, got"):
    pairs.measure(nope, *model, 2.0)
  with pytest.raises(ValueError, match="above 1, got 1.0"):
    pairs.measure(CONFIG, *model, 1.0)
