"""Decoding on a mesh leaves the cache where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import sharding
from drope_jax.inference import choice, decode
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import collectives
from drope_jax.positional import Nope, Pattern, Rope

NEW, SLOTS = 6, 512
SCHEMES = {
  "Rope": Rope(),
  "windowed Rope and Nope": Pattern((Rope(), Nope()), (8, None)),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_devices_that_share_the_slots_of_a_cache_exchange_sums_alone(name):
  config = ModelConfig(
    vocab_size=64,
    num_layers=2,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_width=64,
    context_tokens=32,
    positional=SCHEMES[name],
  )
  params = transformer.init(config, jax.random.key(0))
  tokens_BS = np.random.default_rng(0).integers(0, 64, (2, 16))
  mesh = sharding.make_mesh(
    sharding.MeshConfig(fsdp=1, context=4), jax.devices()[:4]
  )

  def generated(params, mesh):
    rows = decode.start(
      config,
      None,
      params,
      tokens_BS,
      jnp.array([9, 16]),
      jnp.ones(2),
      max_tokens=SLOTS,
      backend="blockwise",
      mesh=mesh,
    )
    shards = rows.cache.k_NBKDT.sharding.shard_shape(rows.cache.k_NBKDT.shape)
    arguments = (
      config,
      None,
      params,
      rows,
      jnp.ones(2),
      choice.GREEDY.arrays(),
      jax.random.split(jax.random.key(0), 2),
      jnp.int32(NEW),
    )
    options = dict(steps=NEW, end_ids=(-1,), backend="blockwise")
    lowered = decode.advance.lower(*arguments, **options)
    sent = collectives.read(lowered.compile().as_text())
    new_Bn = decode.advance(*arguments, **options)[1]
    return np.asarray(new_Bn), shards, sent

  placed = jax.device_put(params, sharding.param_shardings(mesh, params))
  got_Bn, shards, sent = generated(placed, mesh)
  want_Bn, whole, _ = generated(params, None)
  np.testing.assert_array_equal(got_Bn, want_Bn)
  assert len({*want_Bn.ravel().tolist()}) > 3, "it says the same throughout"
  assert (*whole[:-1], SLOTS // 4) == shards
  assert {*sent} == {"all-reduce"}
