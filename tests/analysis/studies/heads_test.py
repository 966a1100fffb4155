"""Which heads are positional, and attention around a needle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.analysis import readers
from drope_jax.analysis.studies import heads, heads_plots, needle
from drope_jax.data import corpus, tokenizer
from drope_jax.evals import needles as needles_lib
from drope_jax.evals import niah
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Rope, Yarn

CONFIG = ModelConfig(
  vocab_size=31,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=8,
)


def test_a_rows_weights_are_those_of_its_scheme_at_its_last_token():
  params = transformer.init(CONFIG, jax.random.key(0))
  yarn = Yarn(factor=2.0, trained_tokens=8)
  prompts = [
    needle.Prompt(tuple(range(1, length)), 2, 4) for length in (12, 15)
  ]
  scaled = dataclasses.replace(CONFIG, logit_scale_slope=0.5)
  got = needle.rows(scaled, yarn, params, prompts)
  for row_NHT, prompt in zip(got, prompts, strict=True):
    length = len(prompt.tokens)
    _, captured = transformer.hidden(
      dataclasses.replace(CONFIG, positional=yarn),
      params,
      jnp.asarray([prompt.tokens]),
      logit_scale=1 + 0.5 * np.log(length / 8),
      capture=("weights",),
      reader=readers.OfQuery(length - 1),
    )
    np.testing.assert_allclose(row_NHT, captured["weights"][:, 0], atol=1e-5)
    np.testing.assert_allclose(row_NHT.sum(-1), 1, atol=1e-5)
    want_NH = row_NHT[..., 1:5].sum(-1)
    np.testing.assert_allclose(needle.mass(row_NHT, prompt), want_NH)


def test_the_place_of_a_needle_is_that_of_its_value():
  tokens = tokenizer.load(str(corpus.tokenizer_path()))
  needles = needles_lib.Needles()
  task = niah.Niah("multi_key", num_keys=4, needles=needles)
  documents = list(corpus.documents("fit"))[:3]
  for sample in niah.samples(task, tokens.encode, documents, 200, 4, seed=0):
    found = needle.prompt(sample, needles, tokens.encode)
    ids = list(found.tokens)
    value = tokens.decode(ids[found.start : found.stop])
    assert value.strip() == sample.answers[0]
    before = tokens.decode(ids[: found.start])
    sentence = needles.needle(sample.queries[0], sample.answers[0])
    assert before.endswith(
      sentence[: sentence.rindex(sample.answers[0])].strip()
    )


def test_a_profile_is_the_mean_over_prompts_that_are_aligned_at_the_value():
  first, second = np.zeros((2, 1, 1, 40))
  first[0, 0, 5], second[0, 0, [21, 30]] = 0.8, (0.4, 0.2)
  prompts = [needle.Prompt((), 5, 6), needle.Prompt((), 20, 22)]
  (row,) = needle.around([first, second], prompts, [(0, 0)], "rope", 2.0)
  middle = needle.AROUND
  assert row.weights[middle : middle + 2] == pytest.approx((0.4, 0.2))
  assert row.weights[middle + 10] == pytest.approx(0.1)
  assert (row.peak, row.within_one) == (0, pytest.approx((0.8 + 0.4) / 2))
  mean = (0.2 * 1 + 0.1 * 10) / 0.7
  squares = 0.4 * mean**2 + 0.2 * (1 - mean) ** 2 + 0.1 * (10 - mean) ** 2
  assert row.deviation == pytest.approx((squares / 0.7) ** 0.5)


def test_text_is_read_by_head_with_its_largest_activation():
  params = transformer.init(CONFIG, jax.random.key(0))
  tokens_BS = jax.random.randint(jax.random.key(1), (2, 8), 0, 31)
  found = heads.Text(CONFIG, Rope(), params, tokens_BS)
  read = functools.partial(
    transformer.hidden,
    CONFIG,
    params,
    tokens_BS,
    capture=("weights", "outputs"),
  )
  _, captured = read(reader=readers.ByOffset((0, 3)))
  near_NHO = found.near_NHO[..., [0, 3]]
  np.testing.assert_allclose(near_NHO, captured["weights"].mean(1), atol=1e-6)
  size_NBSM = np.abs(captured["outputs"])
  for n, activations in enumerate(found.activations()):
    assert activations.largest == pytest.approx(size_NBSM[n].max(), rel=1e-5)
    _, token, _ = np.unravel_index(size_NBSM[n].argmax(), size_NBSM[n].shape)
    assert activations.token == token
  scored = found.heads(np.zeros((2, 2)))
  _, captured = read(reader=readers.OffsetBias(1))
  assert [head.bias[1] for head in scored] == pytest.approx(
    captured["weights"].mean(1).ravel().tolist(), abs=1e-6
  )


def test_heads_are_called_by_what_they_reach():
  scored = [
    heads.Head(0, 0, (0.1, 0.9, 0.0), 0.0, 0.0),
    heads.Head(0, 1, (0.0, 0.0, 0.3), 0.5, 0.0),
    heads.Head(1, 0, (0.1, 0.0, 0.0), 0.2, 0.9),
    heads.Head(1, 1, (0.0, 0.2, 0.0), 0.0, 0.0),
  ]
  roles = [head.role for head in scored]
  assert roles == ["positional", "both", "semantic", "other"]
  assert heads.best(scored, 1) == ([(0, 0)], [(0, 1)])
  assert heads.best(scored, 2)[1] == [(1, 0), (1, 1)]


def test_scalings_are_of_plain_rope_beyond_the_context():
  assert [*heads.methods(CONFIG, 1.0)] == ["rope"]
  assert [*heads.methods(CONFIG, 2.0)] == ["rope", "pi", "ntk", "yarn"]
  alibi = dataclasses.replace(CONFIG, positional=Alibi())
  assert heads.methods(alibi, 2.0) == {"model": Alibi()}


def test_layers_before_needles_are_those_before_the_first_semantic_head():
  def head(layer, needle):
    return heads.Head(layer, 0, (0.9, 0.9, 0.0), needle, 0.0)

  found = [head(0, 0.02), head(1, 0.09), head(2, 0.4), head(3, 0.9)]
  assert heads.layers_before_needles(found) == 2
  assert heads.layers_before_needles(found[:2]) == 0


def test_every_length_of_the_plot_around_the_needle_is_shown_whole():
  width = 2 * needle.AROUND + 1
  peaks = {1.0: 0.2, 4.0: 0.9}
  found = [
    needle.Around(
      layer=0,
      head=0,
      method="yarn",
      factor=factor,
      weights=(peak,) * width,
      peak=0,
      within_one=peak,
      deviation=0.0,
    )
    for factor, peak in peaks.items()
  ]
  for ax in heads_plots.around(found).axes:
    low, high = ax.get_ylim()
    assert low == 0 and high > 0.9
