"""A compiled program survives its file."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from drope_jax import sharding
from drope_jax.plan import saved


def test_a_program_computes_from_its_file_what_it_did(tmp_path):
  mesh = sharding.make_mesh(sharding.MeshConfig())
  split = jax.NamedSharding(mesh, jax.P("fsdp"))
  transform = optax.adam(0.1)
  params = {"w": jax.device_put(jnp.arange(16.0), split)}

  @jax.jit
  def step(state, x):
    params, moments = state
    updates, moments = transform.update({"w": x * params["w"]}, moments)
    return optax.apply_updates(params, updates), moments

  state = params, transform.init(params)
  x = jax.device_put(jnp.ones(16), split)
  compiled = step.lower(state, x).compile()
  saved.save(compiled, tmp_path / "step.pkl")
  loaded = saved.load(tmp_path / "step.pkl")
  want, got = compiled(state, x), loaded(state, x)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  assert got[0]["w"].sharding == split
