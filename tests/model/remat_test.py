"""Remat policies: what each saves, and that the kernel is not run again."""

import collections
import functools

import jax
from jax.extend import core
import numpy as np
import pytest

from drope_jax import attention, sharding, trees
from drope_jax.model import remat, transformer
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=24,
  context_tokens=128,
)
SMALL = attention.Blocks(128, 128, 128, 128, 1, 1)
FLASH = attention.FlashTpu(SMALL, SMALL)
TOKENS_BS = np.random.default_rng(0).integers(0, 32, (2, 128))


def _loss(backend, policy, params):
  x_BSM = transformer.hidden(
    CONFIG, params, TOKENS_BS, backend=backend, remat=policy
  )
  return x_BSM.var()


def _operations(jaxpr):
  """Yields each primitive's name, however nested, and each kernel's."""
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == "pallas_call":
      yield equation.params["name"]
      continue
    yield name
    for inner in core.jaxprs_in_params(equation.params):
      yield from _operations(inner)


@functools.cache
def _gradient_counts(backend, policy):
  loss = functools.partial(_loss, backend, policy)
  jaxpr = jax.make_jaxpr(jax.grad(loss))(transformer.param_shapes(CONFIG))
  return collections.Counter(_operations(jaxpr.jaxpr))


@pytest.mark.parametrize(
  "policy,forward_calls",
  [
    ("none", 1),
    ("minimal_with_context", 1),
    ("save_dot_with_context_except_mlp", 1),
    ("save_context", 1),
    ("minimal", 2),
    ("save_qkv_proj", 2),
    ("save_out_proj", 2),
    ("full", 2),
  ],
)
def test_with_context_saved_the_forward_kernel_runs_once(policy, forward_calls):
  counts = _gradient_counts(FLASH, policy)
  assert counts["flash_forward"] == forward_calls
  assert counts["flash_backward"] == 1


def test_so_it_does_on_each_device_of_a_mesh():
  mesh = sharding.make_mesh(
    sharding.MeshConfig(fsdp=2, tensor=2, context=2), jax.devices()
  )
  divided = attention.on_mesh(FLASH, mesh, **sharding.ATTENTION)
  for policy, forward_calls in (("full", 2), ("save_context", 1)):
    counts = _gradient_counts(divided, policy)
    # A device has two runs of queries, see `Divided`.
    assert counts["flash_forward"] == 2 * forward_calls
    assert counts["flash_backward"] == 2


@pytest.mark.parametrize(
  "policy,again",
  [
    ("none", 0),
    ("minimal_with_context", 0),
    ("minimal", 0),
    # Gate and up: no gradient needs what down returns.
    ("save_dot_with_context_except_mlp", 2),
    ("save_qkv_proj", 3),
    ("save_out_proj", 5),
    ("save_context", 6),
    ("full", 6),
  ],
)
def test_what_is_not_saved_is_computed_again(policy, again):
  counts = _gradient_counts(FLASH, policy)
  # Seven projections, each two products backward; the kernel's row sums.
  assert counts["dot_general"] == 3 * 7 + 1 + again


@pytest.mark.parametrize("in_loop", [True, False])
@pytest.mark.parametrize("policy", ["full", "minimal", "minimal_offloaded"])
def test_only_a_loops_bounds_replace_the_barrier_to_merging(policy, in_loop):
  layer = remat.apply(policy, jax.numpy.sin, in_loop)
  (equation,) = jax.make_jaxpr(layer)(1.0).eqns
  assert equation.params["prevent_cse"] == (not in_loop)


@pytest.mark.parametrize("unroll", [True, False])
def test_layers_say_whether_a_loop_runs_them(unroll):
  def loss(params):
    x_BSM = transformer.hidden(
      CONFIG, params, TOKENS_BS, remat="full", unroll=unroll
    )
    return x_BSM.var()

  text = str(jax.make_jaxpr(jax.grad(loss))(transformer.param_shapes(CONFIG)))
  assert f"prevent_cse={unroll}" in text
  assert f"prevent_cse={not unroll}" not in text


def _gradients(policy):
  params = transformer.init(CONFIG, jax.random.key(0))
  loss = functools.partial(_loss, "reference", policy)
  return trees.flatten(jax.jit(jax.grad(loss))(params))


def test_offloading_changes_no_gradient():
  want, got = map(_gradients, ("none", "qkv_proj_offloaded"))
  for path, gradient in want.items():
    # The same sums, fused in another way.
    atol = 1e-5 * np.abs(gradient).max()
    np.testing.assert_allclose(got[path], gradient, atol=atol, err_msg=path)


def test_offloaded_activations_lie_on_the_host():
  loss = functools.partial(_loss, "reference", "qkv_proj_offloaded")
  text = str(jax.make_jaxpr(jax.grad(loss))(transformer.param_shapes(CONFIG)))
  # All layers' queries, and their keys or values.
  assert "f32<host>[2,2,128,32]" in text and "f32<host>[2,2,128,16]" in text


def test_another_name_is_refused():
  with pytest.raises(ValueError, match="one of none, full, .*, got 'some'"):
    remat.apply("some", lambda x: x, in_loop=True)
