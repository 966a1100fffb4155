"""A table of positions against a model whose tokens say where they stand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention, sharding, trees
from drope_jax.analysis import damage
from drope_jax.evals.record import Record
from drope_jax.evals.suite import Material, Suite
from drope_jax.inference import batching, evaluation
from drope_jax.inference import lm as lms
from drope_jax.model import cache as caches
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  LearnedAbsolute,
  LogScaled,
  Nope,
  Pattern,
  Rope,
)
from drope_jax.surgery import drop_positional

S, V, ROWS = 24, 31, 26
CONFIG = ModelConfig(
  vocab_size=V,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=S,
  positional=LearnedAbsolute(ROWS),
)
NOPE = dataclasses.replace(CONFIG, positional=Nope())
TABLE = "embed/positions"


class _Words:
  """A tokenizer of a token a letter."""

  fingerprint = "letters"

  def encode(self, text):
    return [ord(letter) % V for letter in text]

  def decode(self, ids):
    return " " * len(ids)


def _under(positional):
  return dataclasses.replace(CONFIG, positional=positional)


@pytest.fixture(scope="module")
def params():
  # Large weights: attention far from uniform, where positions matter.
  weights = transformer.init(CONFIG, jax.random.key(0))
  flat = trees.flatten(weights)
  return trees.unflatten(
    {path: (3 if leaf.ndim > 2 else 20) * leaf for path, leaf in flat.items()}
  )


@pytest.fixture(scope="module")
def tokens_BS():
  return jax.random.randint(jax.random.key(1), (2, S), 0, V)


def _without_table(params):
  flat = trees.flatten(params)
  return trees.unflatten({p: x for p, x in flat.items() if p != TABLE})


def _hidden(config, params, tokens_BS, **options):
  return jax.jit(
    lambda params, tokens_BS: transformer.hidden(
      config, params, tokens_BS, **options
    )
  )(params, tokens_BS)


def test_each_position_has_a_row_of_its_own_at_the_start():
  leaves = trees.flatten(transformer.init(CONFIG, jax.random.key(0)))
  assert leaves.keys() - {TABLE} == {
    *trees.flatten(transformer.param_shapes(NOPE))
  }
  assert leaves[TABLE].shape == (ROWS, CONFIG.width)
  assert np.std(leaves[TABLE]) == pytest.approx(0.02, rel=0.1)
  assert np.unique(leaves[TABLE]).size > 0.99 * leaves[TABLE].size


@pytest.mark.parametrize("backend", ["reference", "blockwise", "xla"])
def test_it_is_a_model_whose_tokens_name_their_positions(
  params, tokens_BS, backend
):
  by_token_VM, by_position_PM = (
    params["embed"]["table"],
    params["embed"]["positions"],
  )
  # Token t at position p is token t * ROWS + p of a larger vocabulary.
  table = (by_token_VM[:, None] + by_position_PM).reshape(-1, CONFIG.width)
  larger = dataclasses.replace(NOPE, vocab_size=V * ROWS, tied_embeddings=True)
  layers = {"layers": params["layers"], "final_norm": params["final_norm"]}
  want_BSM = _hidden(
    larger,
    {"embed": {"table": table}, **layers},
    tokens_BS * ROWS + jnp.arange(S),
    backend=backend,
  )
  got_BSM = _hidden(CONFIG, params, tokens_BS, backend=backend)
  # The same additions in the same order.
  np.testing.assert_allclose(got_BSM, want_BSM, rtol=1e-5, atol=1e-5)
  without_BSM = _hidden(NOPE, _without_table(params), tokens_BS)
  assert np.abs(got_BSM - without_BSM).max() > 0.1, "the table has no effect"


def test_each_row_gets_the_gradient_of_its_position(params, tokens_BS):
  def total(params):
    x_BSM = transformer.hidden(CONFIG, params, tokens_BS[:, :9])
    return jnp.square(x_BSM).mean()

  gradient_PM = jax.grad(total)(params)["embed"]["positions"]
  assert (np.abs(gradient_PM[:9]).max(axis=1) > 0).all()
  assert not gradient_PM[9:].any()


def test_joined_sequences_have_the_same_positions(params, tokens_BS):
  np.testing.assert_allclose(
    _hidden(CONFIG, params, tokens_BS, join_sequences=True),
    _hidden(CONFIG, params, tokens_BS),
    rtol=1e-5,
    atol=1e-5,
  )


def test_decoding_goes_on_at_its_rows_own_offset(params, tokens_BS):
  want_BSM = _hidden(CONFIG, params, tokens_BS)
  cache = caches.empty(CONFIG, 2, S + 40, jnp.float32)
  first_B = np.array([7, 16])
  _, cache = transformer.forward_cached(
    CONFIG, params, tokens_BS[:, :16], cache, from_empty=True
  )
  cache = cache._replace(length_B=jnp.asarray(first_B))
  for step in range(S - 16):
    row_B = first_B + step
    token_B1 = tokens_BS[np.arange(2), row_B][:, None]
    x_B1M, cache = transformer.forward_cached(CONFIG, params, token_B1, cache)
    # Sums in another order.
    np.testing.assert_allclose(
      x_B1M[:, 0], want_BSM[np.arange(2), row_B], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("zig_zag", [False, True])
def test_devices_that_split_a_sequence_have_its_positions(
  params, tokens_BS, zig_zag
):
  mesh = sharding.make_mesh(
    sharding.MeshConfig(fsdp=2, context=4), jax.devices()
  )
  divided = attention.Divided("reference", mesh, **sharding.ATTENTION)

  def hidden(params, tokens_BS, backend):
    return transformer.hidden(CONFIG, params, tokens_BS, backend=backend)

  def table_gradient(params, *rest):
    # Smaller weights: those of the fixture magnify rounding in gradients.
    smaller = jax.tree.map(lambda leaf: leaf / 4, params)
    gradient = jax.grad(lambda p: jnp.sin(hidden(p, *rest)).mean())(smaller)
    return trees.flatten(gradient)[TABLE]

  want = params, tokens_BS, "reference"
  got = (
    jax.device_put(params, sharding.param_shardings(mesh, params)),
    jax.device_put(tokens_BS, jax.NamedSharding(mesh, sharding.BATCH)),
    divided if zig_zag else "reference",
  )
  got_BSM, want_BSM, got_PM, want_PM = (
    jax.jit(function, static_argnums=2)(*arguments)
    for function in (hidden, table_gradient)
    for arguments in (got, want)
  )
  assert (np.abs(want_PM).max(1) > 0).sum() == S, "a row is not trained"
  # Sums in another order.
  np.testing.assert_allclose(got_BSM, want_BSM, rtol=1e-4, atol=1e-4)
  limit = 1e-4 * np.abs(want_PM).max()
  np.testing.assert_allclose(got_PM, want_PM, rtol=0, atol=limit)


# Beyond the table -------------------------------------------------------------

BEYOND = rf"reach {ROWS} tokens, got a sequence of {ROWS + 1}\. Read less"


def test_a_sequence_beyond_the_table_is_refused(params):
  lm = lms.CheckpointLM(CONFIG, params, None)
  longer = [1] * (ROWS + 1)
  for read in (
    lambda: transformer.hidden(CONFIG, params, jnp.asarray([longer])),
    lambda: lm.score([longer[:4]], [[*longer[4:], 1]]),
    lambda: lm.generate([longer[:-4]], 4),
    lambda: dataclasses.replace(CONFIG, context_tokens=ROWS + 1),
  ):
    with pytest.raises(ValueError, match=BEYOND):
      read()


def test_a_sequence_that_ends_with_the_table_is_scored(params):
  """Its padding would be beyond the table."""
  lm = lms.CheckpointLM(CONFIG, params, None)
  assert batching.bucket(ROWS) > ROWS
  ids = np.random.default_rng(0).integers(0, V, ROWS)
  logits_SV = transformer.forward(CONFIG, params, jnp.asarray(ids)[None])[0]
  want = jax.nn.log_softmax(logits_SV)[np.arange(ROWS - 1), ids[1:]]
  (got,) = lm.loglikelihood([ids.tolist()])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_stretch_reads_between_the_rows():
  table_PM = jnp.asarray([[0.0, 1.0], [10.0, 3.0], [30.0, 7.0]])
  scheme = LearnedAbsolute(3, stretch=2.0)
  assert scheme.most_tokens == 6
  np.testing.assert_array_equal(
    scheme.embedding(table_PM, jnp.arange(6)[None])[0],
    [[0, 1], [5, 2], [10, 3], [20, 5], [30, 7], [30, 7]],
  )
  np.testing.assert_array_equal(
    LearnedAbsolute(3).embedding(table_PM, jnp.arange(3)[None])[0], table_PM
  )


def test_pi_stretches_the_table(params):
  lm = lms.CheckpointLM(CONFIG, params, None)
  stretched = evaluation.variants(lm)("pi", 2.0)
  assert stretched.config.positional == LearnedAbsolute(ROWS, 2.0)
  ids = [1] * 2 * ROWS
  (scored,) = stretched.score([ids[:2]], [ids[2:]])
  assert scored.log_p.shape == (2 * ROWS - 2,)
  with pytest.raises(ValueError, match="'yarn' needs a model with plain Rope"):
    evaluation.variants(lm)("yarn", 2.0)


def test_pi_reads_each_length_that_an_evaluation_rounds_to():
  rounded_up = 0
  for tenths in range(10, 41):
    for tokens in (ROWS, 512, 1001):
      length = round(tenths / 10 * tokens)
      scheme = LearnedAbsolute(tokens).stretched(tenths / 10)
      assert scheme.at(length) == scheme
      rounded_up += length > tokens * scheme.stretch
      # The last position may lie beyond the last row: it reads that row.
      last_PM = jnp.arange(tokens, dtype=jnp.float32)[:, None]
      row_BS1 = scheme.embedding(last_PM, jnp.asarray([[length - 1]]))
      want = min((length - 1) / scheme.stretch, tokens - 1)
      np.testing.assert_allclose(row_BS1[0, 0, 0], want, rtol=1e-6)
      with pytest.raises(ValueError, match=f"reach {length} tokens"):
        scheme.at(length + 1)
  assert rounded_up > 10, "no length was rounded up"


def test_an_evaluation_reads_by_each_method_what_it_can(params):
  lm = lms.CheckpointLM(CONFIG, params, _Words())
  suite = Suite(
    evals=("perplexity",),
    methods=("model", "crop", "pi"),
    factors=(1.0, 2.0),
    samples=(1, 1),
    excerpts=1,
    fit_factor=None,
  )
  text = [" ".join("abcdefgh" * 20)]
  steps = evaluation.plan(suite, {"it": lm}, Material(text, text), Record())
  assert [step.name.removesuffix(": perplexity") for step in steps] == [
    *(f"it by {method} at 1x" for method in ("model", "crop", "pi")),
    *(f"it by {method} at 2x" for method in ("crop", "pi")),
  ]
  beyond = dataclasses.replace(
    suite, methods=("model",), factors=(2.0,), samples=(1,)
  )
  with pytest.raises(ValueError, match=rf"reach {ROWS} tokens, got .* {2 * S}"):
    evaluation.plan(beyond, {"it": lm}, Material(text, text), Record())


@pytest.mark.parametrize(
  "fields", [{"tokens": 0}, {"stretch": 0.5}, {"stretch": math.inf}]
)
def test_fields_out_of_range_are_refused(fields):
  (value,) = fields.values()
  with pytest.raises(ValueError, match=rf"LearnedAbsolute needs .*{value}\."):
    LearnedAbsolute(**fields)


# In a model -------------------------------------------------------------------


def test_a_drop_takes_the_table_along_and_the_report_says_what_it_costs(
  params, tokens_BS
):
  config, dropped = drop_positional.drop_positional(CONFIG, params)
  assert config == NOPE
  assert trees.flatten(dropped).keys() == (
    trees.flatten(params).keys() - {TABLE}
  )
  before, after = (
    damage.measure(*model, tokens_BS)
    for model in ((CONFIG, params), (config, dropped))
  )
  want_BSV = transformer.forward(NOPE, _without_table(params), tokens_BS)
  log_p = jax.nn.log_softmax(want_BSV[:, :-1])
  nats = -jnp.take_along_axis(log_p, tokens_BS[:, 1:, None], -1).mean()
  assert after.loss == pytest.approx(float(nats), rel=1e-5)
  assert abs(after.loss - before.loss) > 0.01


def test_some_layers_alone_cannot_have_the_table(params):
  with pytest.raises(ValueError, match="all layers must have it alike"):
    _under(Pattern((CONFIG.positional, Rope())))
  with pytest.raises(ValueError, match="all layers must have it alike"):
    drop_positional.drop_positional(CONFIG, params, (0,))


def test_windows_and_a_scale_by_position_keep_the_table(params, tokens_BS):
  windowed = _under(Pattern((CONFIG.positional,), (S,)))
  scaled = _under(LogScaled(CONFIG.positional, S))
  want_BSM = _hidden(CONFIG, params, tokens_BS)
  for config in (windowed, scaled):
    got_BSM = _hidden(config, params, tokens_BS)
    np.testing.assert_allclose(got_BSM, want_BSM, rtol=1e-5, atol=1e-5)
