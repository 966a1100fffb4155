"""A model's shape is a frozen value, and an impossible one is refused."""

import dataclasses

import pytest

from drope_jax.model.config import LayerGroup
from drope_jax.positional import (
  Alibi,
  Dynamic,
  Nope,
  Pattern,
  Rope,
  Yarn,
)

SIZES = [
  "vocab_size",
  "num_layers",
  "width",
  "num_heads",
  "num_kv_heads",
  "head_dim",
  "mlp_width",
  "context_tokens",
]


def test_is_a_frozen_hashable_value(config):
  assert config == dataclasses.replace(config)
  assert hash(config) == hash(dataclasses.replace(config))
  assert config != dataclasses.replace(config, positional=Nope())
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.width = 1


@pytest.mark.parametrize(
  ("qk_norm", "q", "k"),
  [("none", 0, 0), ("q", 1, 0), ("k", 0, 1), ("qk", 1, 1)],
)
def test_qk_norm_names_what_it_norms(config, qk_norm, q, k):
  config = dataclasses.replace(config, qk_norm=qk_norm)
  assert (config.norms_q, config.norms_k) == (q, k)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_below_one_is_refused(config, name):
  message = rf"{name} must be at least 1, got 0\. Set it"
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **{name: 0})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"num_heads": 6, "num_kv_heads": 4},
      r"must divide num_heads.*got 6 heads and 4 key/value heads\. Change one",
    ),
    ({"num_layers": 10**9}, r"num_layers must be at most 10000, got 10000000"),
    ({"vocab_size": 2**31}, r"vocab_size must be at most 2147483647, got 2147"),
    ({"norm_eps": 0.0}, r"norm_eps must be finite and above 0, got 0\.0"),
    ({"logit_scale": float("nan")}, r"logit_scale must be finite.*got nan"),
    ({"norm_gain_offset": float("nan")}, "offset must be finite, got nan"),
    ({"logit_soft_cap": 0.0}, r"soft_cap must be finite and above 0, got 0\.0"),
    (
      {"final_logit_soft_cap": -1.0},
      "logit_soft_cap must be .* above 0, got -",
    ),
    ({"logit_scale_slope": -0.1}, r"slope must be finite.*got -0\.1\. Set"),
    ({"qk_norm": "v"}, r"one of none, q, k, qk, got 'v'\. Name one"),
    ({"qk_norm_scope": "all"}, r"one of joint, head, got 'all'\. Name one"),
    ({"norm_kind": "l2"}, r"one of rms, layer, got 'l2'\. Name one"),
    ({"norm_placement": "mid"}, r"one of pre, post, both, got 'mid'\. Name"),
    ({"mlp_activation": "relu"}, r"one of silu, .*gelu, got 'relu'\. Name"),
    ({"residual_scale": 0.0}, r"residual_scale must be finite and above 0"),
    ({"final_logit_scale": 0.0}, r"final_logit_scale must be finite and above"),
    ({"embedding_scale": 0.0}, r"embedding_scale must be finite and above 0"),
    (
      {"layer_groups": (LayerGroup(2),)},
      r"two or more that add up to num_layers, got \[2\] for 2\. Change",
    ),
    (
      {"layer_groups": (LayerGroup(1), LayerGroup(2))},
      r"add up to num_layers, got \[1, 2\] for 2\. Change one",
    ),
    ({"head_dim": 7}, r"even head_dim.*got 7\. Change ModelConfig\.head_dim"),
    (
      {"head_dim": 7, "positional": Pattern((Nope(), Yarn()))},
      r"even head_dim.*got 7\. Change",
    ),
    (
      {"head_dim": 7, "positional": Dynamic()},
      r"even head_dim.*got 7\. Change",
    ),
    (
      {"positional": Pattern((Rope(), Rope(), Nope()))},
      r"divide the layers, got 3 schemes for 2 layers\. Name a scheme",
    ),
  ],
)
def test_an_impossible_model_is_refused_with_what_to_do(
  config, change, message
):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(config, **change)


@pytest.mark.parametrize("scheme", [Nope(), Alibi()])
def test_an_odd_head_dim_suits_schemes_that_pair_nothing(config, scheme):
  dataclasses.replace(config, head_dim=7, positional=scheme)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"num_layers": 0}, r"num_layers must be at least 1.*got 0\. Set it"),
    ({"mlp_width": 0}, r"mlp_width must be at least 1.*got 0\. Set it"),
    ({"norm_placement": "mid"}, r"one of pre, post, both, got 'mid'\. Name"),
    ({"mlp_activation": "relu"}, r"one of silu, .*gelu, got 'relu'\. Name"),
  ],
)
def test_an_impossible_group_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    LayerGroup(**{"num_layers": 1} | fields)


def test_a_group_has_the_models_own_where_it_says_nothing(config):
  (whole,) = config.groups
  assert whole == LayerGroup(config.num_layers, config.mlp_width, "pre", "silu")
  config = dataclasses.replace(
    config,
    norm_placement="post",
    layer_groups=(
      LayerGroup(1, mlp_width=8),
      LayerGroup(1, norm_placement="pre", mlp_activation="gelu_tanh"),
    ),
  )
  assert config.groups == (
    LayerGroup(1, 8, "post", "silu"),
    LayerGroup(1, config.mlp_width, "pre", "gelu_tanh"),
  )
