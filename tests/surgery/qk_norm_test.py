"""What an added QK norm keeps: every old leaf, and with matched gains sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.positional import Nope
from drope_jax.surgery import qk_norm

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=16,
  qkv_bias=True,
  positional=Nope(),  # So that attention_inputs shows the norm's output.
)
TOKENS_BS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (6, 16)))


@pytest.fixture(scope="module")
def params():
  """Weights whose q and k differ in size by channel, head and token."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda s: jnp.asarray(
      rng.normal(size=s.shape) * np.exp(rng.normal(size=s.shape[-1])), s.dtype
    ),
    transformer.param_shapes(CONFIG),
  )


@pytest.fixture(scope="module")
def statistics(params):
  return qk_norm.measure(CONFIG, params, TOKENS_BS)


def _second_moment(x_NBSHD):
  return np.mean(np.square(np.asarray(x_NBSHD, np.float64)), axis=(1, 2))


@pytest.mark.parametrize("scope", ["joint", "head"])
@pytest.mark.parametrize("which", ["q", "k", "qk"])
def test_the_norm_is_the_one_asked_for_and_old_leaves_are_shared(
  params, which, scope
):
  config, normed = qk_norm.add_qk_norm(CONFIG, params, which, scope)
  assert (config.qk_norm, config.qk_norm_scope) == (which, scope)
  trees.require_same_leaves(transformer.param_shapes(config), normed, "it")
  old, new = trees.flatten(params), trees.flatten(normed)
  assert all(new[name] is leaf for name, leaf in old.items())
  assert sorted(new.keys() - old.keys()) == [
    f"layers/attention/{name}_norm/gain" for name in sorted(which)
  ]


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_unit_gains_make_each_token_the_same_size(params, offset):
  config = dataclasses.replace(CONFIG, norm_gain_offset=offset)
  config, normed = qk_norm.add_qk_norm(config, params)
  q_NBSHD, k_NBSKD, *_ = transformer.attention_inputs(config, normed, TOKENS_BS)
  raw_q_NBSHD, _ = transformer.qk_projections(CONFIG, params, TOKENS_BS)
  for x in (q_NBSHD, k_NBSKD):
    # 1e-4: the norm's eps against a mean square above 0.1.
    np.testing.assert_allclose(np.mean(x**2, axis=(3, 4)), 1, atol=1e-4)
  assert np.ptp(np.mean(raw_q_NBSHD**2, axis=(3, 4))) > 1


@pytest.mark.parametrize("scope", ["joint", "head"])
def test_matched_gains_keep_second_moments(params, statistics, scope):
  config, normed = qk_norm.add_qk_norm(
    CONFIG, params, "qk", scope, "matched", statistics
  )
  q_NBSHD, k_NBSKD, *_ = transformer.attention_inputs(config, normed, TOKENS_BS)
  unit, plain = qk_norm.add_qk_norm(CONFIG, params, "qk", scope)
  unit_q, unit_k, *_ = transformer.attention_inputs(unit, plain, TOKENS_BS)
  raw_q, raw_k = transformer.qk_projections(CONFIG, params, TOKENS_BS)
  for got, ones, want in ((q_NBSHD, unit_q, raw_q), (k_NBSKD, unit_k, raw_k)):
    # Of layer 0 alone: the layers above read what its attention gave.
    got, ones, want = (_second_moment(x)[0] for x in (got, ones, want))
    if scope == "head":  # Heads share gains, so only their mean is kept.
      got, ones, want = got.mean(0), ones.mean(0), want.mean(0)
    # float32 sums over 96 tokens; unit gains are off by factors.
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert np.abs(np.log(ones / want)).max() > 1


def test_matched_gains_keep_them_where_eps_is_large(params):
  plain = dataclasses.replace(CONFIG, norm_eps=10.0)
  moments = qk_norm.measure(plain, params, TOKENS_BS)
  raw, _ = transformer.qk_projections(plain, params, TOKENS_BS)
  for scope in ("joint", "head"):
    config, normed = qk_norm.add_qk_norm(
      plain, params, "q", scope, "matched", moments
    )
    q_NBSHD, *_ = transformer.attention_inputs(config, normed, TOKENS_BS)
    got, want = (_second_moment(x)[0] for x in (q_NBSHD, raw))
    if scope == "head":  # As above.
      got, want = got.mean(0), want.mean(0)
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=scope)


def test_measure_averages_raw_projections_over_all_tokens(params, statistics):
  raw = transformer.qk_projections(CONFIG, params, TOKENS_BS)
  for name, x_NBSHD in zip("qk", raw, strict=True):
    got = statistics[name]
    x = np.asarray(x_NBSHD, np.float64)
    joint = x / np.sqrt((x**2).mean((3, 4), keepdims=True) + CONFIG.norm_eps)
    head = x / np.sqrt((x**2).mean(4, keepdims=True) + CONFIG.norm_eps)
    for moment, reference in zip(got, (x, joint, head), strict=True):
      np.testing.assert_allclose(moment, _second_moment(reference), rtol=1e-4)
    assert not np.allclose(got.joint_NHD, got.head_NHD, rtol=1e-2)


@pytest.mark.parametrize("scope", ["joint", "head"])
def test_a_channel_that_is_always_zero_gets_a_finite_gain(params, scope):
  attention = params["layers"]["attention"]
  q = jax.tree.map(lambda x: x.at[..., ::8].set(0), attention["q"])
  dead = params | {
    "layers": params["layers"] | {"attention": attention | {"q": q}}
  }
  moments = qk_norm.measure(CONFIG, dead, TOKENS_BS)
  _, normed = qk_norm.add_qk_norm(CONFIG, dead, "q", scope, "matched", moments)
  gain = normed["layers"]["attention"]["q_norm"]["gain"]
  assert np.isfinite(gain).all()
  np.testing.assert_array_equal(gain[:, 0], 1)


def test_a_second_norm_is_refused(params):
  config, normed = qk_norm.add_qk_norm(CONFIG, params, "q")
  with pytest.raises(ValueError, match="reset the trained gains"):
    qk_norm.add_qk_norm(config, normed, "k")


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    ({"which": "v"}, "'v'"),
    ({"which": "none"}, "'none'"),
    ({"scope": "heads"}, "'heads'"),
    ({"init": "learnt"}, "'learnt'"),
    ({"init": "matched"}, "without statistics"),
    ({"statistics": {}}, "'unit'"),
  ],
)
def test_arguments_that_make_no_norm_are_refused(params, arguments, named):
  with pytest.raises(ValueError, match=named):
    qk_norm.add_qk_norm(CONFIG, params, **arguments)


def test_gains_are_float32_for_bfloat16_weights(params, statistics):
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  for init, moments in (("unit", None), ("matched", statistics)):
    _, normed = qk_norm.add_qk_norm(CONFIG, half, init=init, statistics=moments)
    gain = normed["layers"]["attention"]["q_norm"]["gain"]
    assert gain.dtype == jnp.float32


def test_measuring_does_not_depend_on_how_sequences_are_grouped(
  params, statistics
):
  halves = [
    qk_norm.measure(CONFIG, params, rows) for rows in jnp.split(TOKENS_BS, 2)
  ]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
  for got, want in zip(
    jax.tree.leaves(mean), jax.tree.leaves(statistics), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_each_group_of_layers_gets_the_gains_of_its_own(params, statistics):
  grouped = dataclasses.replace(
    CONFIG, layer_groups=(LayerGroup(1), LayerGroup(1))
  )
  parts = {
    str(n): jax.tree.map(lambda x_N, n=n: x_N[n : n + 1], params["layers"])
    for n in range(2)
  }
  arguments = ("qk", "joint", "matched", statistics)
  _, whole = qk_norm.add_qk_norm(CONFIG, params, *arguments)
  config, normed = qk_norm.add_qk_norm(
    grouped, params | {"layers": parts}, *arguments
  )
  trees.require_same_leaves(transformer.param_shapes(config), normed, "it")
  for n, part in normed["layers"].items():
    for name in ("q_norm", "k_norm"):
      np.testing.assert_array_equal(
        part["attention"][name]["gain"][0],
        whole["layers"]["attention"][name]["gain"][int(n)],
      )
