"""Rotary frequencies enter a program as arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Nope, PartialRope, Pattern, Rope, Yarn

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=32,
  num_heads=2,
  num_kv_heads=2,
  head_dim=16,
  mlp_width=64,
  context_tokens=16,
)
ROTARY = (Rope(), Nope(), PartialRope(Rope(), 3), Yarn(factor=2.0))


@pytest.mark.parametrize("scheme", ROTARY, ids=repr)
def test_a_program_given_the_arrays_computes_what_the_scheme_does(scheme):
  config = dataclasses.replace(CONFIG, positional=scheme)
  params = transformer.init(config, jax.random.key(0))
  tokens_BS = jnp.arange(24)[None] % 32
  compiled, rotation = rotations.split(CONFIG, scheme)

  def read(rotation):
    joined = rotations.join(compiled, rotation)
    return transformer.hidden(joined, params, tokens_BS)

  want_BSM = transformer.hidden(config, params, tokens_BS)
  np.testing.assert_allclose(jax.jit(read)(rotation), want_BSM, atol=1e-5)


def test_rotary_schemes_share_a_program():
  assert len({rotations.split(CONFIG, scheme)[0] for scheme in ROTARY}) == 1


@pytest.mark.parametrize(
  "positional", [Alibi(), Pattern((Rope(), Nope()))], ids=repr
)
def test_other_positions_stay_in_the_config(positional):
  config, rotation = rotations.split(CONFIG, positional)
  assert (config.positional, rotation) == (positional, None)
  assert rotations.join(config, rotation) == config
