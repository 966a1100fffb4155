"""What is planned for an evaluation is inference's own, over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import sharding
from drope_jax.inference import decode
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.plan import evaluation, placement, slices
from drope_jax.surgery.compose import Surgery
from drope_jax.train.phases import SurgeryPhase
from drope_jax.train.recipe import Recipe

CONFIG = ModelConfig(
  vocab_size=64,
  num_layers=2,
  width=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=64,
  context_tokens=32,
  qk_norm="qk",
)
RECIPE = Recipe(
  phases=(SurgeryPhase(Surgery()),),
  init_from="any",
  mesh=sharding.MeshConfig(fsdp=2, tensor=2, context=2),
  attention="splash",  # For training; evaluation chooses its own.
)
CONTEXT = 16


@pytest.fixture
def on_cpus(monkeypatch):
  monkeypatch.setattr(placement, "devices", lambda target: jax.devices())

  def plan(program):
    target = slices.parse("v5e-8")
    return evaluation.plan(program, RECIPE, CONFIG, CONTEXT, target)

  return plan


def test_both_programs_compute_what_one_device_does(on_cpus):
  params = transformer.init(CONFIG, jax.random.key(0))
  tokens_BS = jax.random.randint(jax.random.key(1), (2, CONTEXT), 0, 64)
  length_B, token_B = jnp.array([15, 9]), jnp.array([3, 4])
  scale = jnp.float32(1.5)
  (_, prefill), (_, extend) = map(on_cpus, evaluation.PROGRAMS)

  def placed(compiled, *arguments):
    return jax.device_put(arguments, compiled.input_shardings[0])

  options = {"backend": "blockwise"}
  want = decode.prefill(
    CONFIG,
    params,
    tokens_BS,
    length_B,
    scale,
    max_tokens=CONTEXT,
    **options,
  )
  got = prefill(*placed(prefill, params, tokens_BS, length_B, scale))
  close = dict(atol=2e-5, rtol=1e-5)  # Other orders of float32 sums.
  np.testing.assert_allclose(got[0], want[0], **close)
  want = decode.extend(CONFIG, params, token_B, want[1], scale, **options)
  got = extend(*placed(extend, params, token_B, got[1], scale))
  assert want[1].length_B.tolist() == [16, 10]
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **close), got, want
  )


def test_memory_and_work_are_those_of_the_slices_texts(on_cpus):
  prefill, extend = (on_cpus(program)[0] for program in evaluation.PROGRAMS)
  for plan in (prefill, extend):
    assert plan.fits and plan.temporaries > 0
    assert plan.texts == 2
    # Keys and values of two layers; a device has one text's half of the
    # tokens and of the heads, and the text's length.
    assert plan.cache == 2 * 2 * (CONTEXT // 2) * 1 * 8 * 4 + 4
    weights = sum(
      leaf.size
      for leaf in jax.tree.leaves(
        {**transformer.param_shapes(CONFIG), "embed": {}}
      )
    )
    assert plan.traffic == weights * 4 // 2 + plan.cache
  assert 0 < extend.flops < prefill.flops


def test_a_context_that_the_mesh_does_not_divide_is_refused(on_cpus):
  target = slices.parse("v5e-8")
  with pytest.raises(ValueError, match="must split evenly over the mesh"):
    evaluation.plan("prefill", RECIPE, CONFIG, 15, target)
