"""The TPU's kernel is the reference, however it is cut up and transformed."""

import dataclasses
import functools

import jax
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from drope_jax import attention, sharding
from drope_jax.attention import Divided, Mask, Rotation, flash_tpu, rotate
from drope_jax.attention.flash_tpu import backward
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.grid import Inputs
from drope_jax.data import pipeline
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Alibi, Pattern, Rope, Yarn
from drope_jax.train import optimizer, step
from drope_jax.train import state as states
from drope_jax.train.phases import TrainPhase

SMALL = Blocks(q=128, k=128, unit_q=128, unit_k=128, ahead=1, behind=1)
SEGMENTS_BS = np.stack([np.arange(300) // 90, np.arange(300) // 170])
NO_WINDOW = 2**31 - 1


def _inputs(B=2, S=150, T=None, H=4, K=2, D=64, dtype=jnp.float32):
  """q_BSHD, k_BTKD, v_BTKD, and the cotangent of the output."""
  rng = np.random.default_rng(0)
  shapes = [(B, S, H, D), (B, T or S, K, D), (B, T or S, K, D), (B, S, H, D)]
  return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def _attend(
  q_BSHD, k_BTKD, v_BTKD, mask, slopes_H=None, blocks=SMALL, **options
):
  return flash_tpu.attend(
    q_BSHD,
    k_BTKD,
    v_BTKD,
    mask,
    q_BSHD.shape[-1] ** -0.5,
    slopes_H,
    forward_blocks=blocks,
    backward_blocks=blocks,
    **{"interpret": True} | options,
  )[0]


def _reference(q_BSHD, k_BTKD, v_BTKD, mask, slopes_H=None):
  return attention.attend(q_BSHD, k_BTKD, v_BTKD, mask=mask, slopes_H=slopes_H)


# Compiling takes longer than running.
@functools.partial(
  jax.jit,
  static_argnums=0,
  compiler_options={"xla_backend_optimization_level": 0},
)
def _results(attend, inputs, mask, slopes_H=None):
  """Returns the output, and the gradients of q, k and v."""
  *qkv, cotangent_BSHD = inputs
  out_BSHD, pull_back = jax.vjp(
    lambda q, k, v: attend(q, k, v, mask, slopes_H), *qkv
  )
  return out_BSHD, *pull_back(cotangent_BSHD)


def _assert_close(got, want, limit=1e-5):
  """Float32 sums of some hundred terms, by default."""
  for name, ours, theirs in zip(
    ("output", "q", "k", "v"), got, want, strict=True
  ):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    ours, theirs = (np.asarray(x, float) for x in (ours, theirs))
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < limit, name


@pytest.mark.parametrize("D", [64, 80, 128, 256])
def test_any_head_dim_is_the_reference(D):
  inputs, mask = _inputs(B=1, H=2, K=1, D=D), Mask()
  _assert_close(
    _results(_attend, inputs, mask), _results(_reference, inputs, mask)
  )


CUTS = {
  "a square tile of four units": Blocks(256, 256, 128, 128, 2, 1),
  "more queries than keys": Blocks(256, 128, 128, 128, 1, 0),
  "more keys than queries": Blocks(128, 256, 128, 128, 0, 1),
  "weights added up by a product": Blocks(256, 256, 128, 128, 1, 1, True),
  "tiles of four parts": Blocks(256, 256, 128, 128, 1, 1, part=128),
  "four parts if a mask cuts": Blocks(
    256, 256, 128, 128, 1, 1, part=128, undivided=True
  ),
}
MASKS = {
  "causal": Mask(),
  "documents and a window": Mask(
    None, jnp.int32(100), SEGMENTS_BS, SEGMENTS_BS
  ),
  "an offset": Mask(jnp.array([200, 13]), jnp.int32(NO_WINDOW)),
}


@functools.cache
def _want(mask):
  T = 500 if mask == "an offset" else 300
  inputs = _inputs(S=300, T=T, D=16)
  slopes_H = jnp.array([0.5, 0.1, 0.0, 0.01])
  return inputs, slopes_H, _results(_reference, inputs, MASKS[mask], slopes_H)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cut", CUTS)
def test_any_cut_is_the_reference(cut, mask):
  inputs, slopes_H, want = _want(mask)
  attend = functools.partial(_attend, blocks=CUTS[cut])
  _assert_close(_results(attend, inputs, MASKS[mask], slopes_H), want)


@pytest.mark.parametrize("mask", ["documents and a window", "an offset"])
def test_queries_in_chunks_have_the_same_gradients(mask, monkeypatch):
  inputs, slopes_H, want = _want(mask)
  group_bytes_of_a_query = 2 * 4 * 128
  monkeypatch.setattr(backward, "_SUM_BYTES", 128 * group_bytes_of_a_query)
  made, division = [], backward.division
  monkeypatch.setattr(
    backward,
    "division",
    lambda *args: made.append(division(*args)) or made[-1],
  )
  # A function of its own, or what was compiled above would serve.
  attend = functools.partial(_attend, blocks=SMALL)
  _assert_close(_results(attend, inputs, MASKS[mask], slopes_H), want)
  assert made == [(SMALL, 128)]


def test_a_tile_of_fewer_queries_has_the_same_gradients(monkeypatch):
  inputs, slopes_H, want = _want("documents and a window")
  monkeypatch.setattr(backward, "_SUM_BYTES", 128 * 2 * 4 * 128)
  large = dataclasses.replace(SMALL, q=256, unit_q=128)
  small, chunk = backward.division(
    Inputs(*(x.swapaxes(1, 2) for x in inputs[:3]), Mask(), None, None), large
  )
  assert (small.q, chunk) == (128, 128)
  attend = functools.partial(_attend, blocks=large)
  _assert_close(
    _results(attend, inputs, MASKS["documents and a window"], slopes_H), want
  )


@pytest.mark.parametrize("mask", ["documents and a window", "an offset"])
@pytest.mark.parametrize("D", [16, 80])
def test_what_the_kernel_rotates_is_as_if_rotated_before(D, mask, monkeypatch):
  S, T = 300, 500 if mask == "an offset" else 300
  inputs, slopes_H = _inputs(S=S, T=T, D=D), jnp.array([0.5, 0.1, 0.0, 0.01])
  yarn = Yarn(theta=100.0, factor=4.0)
  table_12TD = yarn.rotation(jnp.arange(T)[None], D)
  unrotated_12TD = jnp.zeros_like(table_12TD).at[:, 0].set(1.0)
  tables_N2TD = jnp.concatenate([unrotated_12TD, table_12TD])

  def rotated_before(q_BSHD, k_BTKD, *rest):
    cos_T1D, sin_T1D = table_12TD[0, :, :, None]
    q_BSHD = rotate(q_BSHD, cos_T1D[T - S :], sin_T1D[T - S :])
    return _reference(q_BSHD, rotate(k_BTKD, cos_T1D, sin_T1D), *rest)

  def rotates(*args):
    rotation = Rotation(tables_N2TD[:, :, T - S :], tables_N2TD, jnp.int32(1))
    return _attend(*args, rotation=rotation)

  group_bytes_of_a_query = 2 * 4 * 128
  monkeypatch.setattr(backward, "_SUM_BYTES", 256 * group_bytes_of_a_query)
  _assert_close(
    _results(rotates, inputs, MASKS[mask], slopes_H),
    _results(rotated_before, inputs, MASKS[mask], slopes_H),
  )


def test_no_two_steps_of_the_grid_race(capsys):
  """Two cores share the rows and heads; what is not yet written is NaN."""
  inputs, segments_BS = _inputs(H=2, K=1, D=16), SEGMENTS_BS[:, :150]
  mask = Mask(None, None, segments_BS, segments_BS)
  cores = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)
  attend = functools.partial(_attend, interpret=cores)
  _assert_close(
    _results(attend, inputs, mask), _results(_reference, inputs, mask)
  )
  assert "RACE" not in capsys.readouterr().out


# Transformed ------------------------------------------------------------------


def test_vmap_is_a_loop():
  *qkv, _ = _inputs(D=16)
  windows_n = jnp.array([20, 130])

  def attend(attend, scale, window):
    return attend(scale * qkv[0], *qkv[1:], Mask(window=window))

  scales_n = jnp.array([1.0, 3.0])
  got = jax.jit(jax.vmap(functools.partial(attend, _attend)))(
    scales_n, windows_n
  )
  for n in range(2):
    want_BSHD = attend(_reference, scales_n[n], windows_n[n])
    np.testing.assert_allclose(got[n], want_BSHD, atol=1e-5)


def test_a_scan_over_layers_with_remat_traces_the_window():
  inputs = _inputs(D=16)
  windows_N, slopes_NH = jnp.array([20, NO_WINDOW, 130]), jnp.eye(3, 4)

  def layers(attend, q_BSHD, k_BTKD, v_BTKD, mask, slopes_H):
    def body(x_BSHD, layer):
      window, slopes_H = layer
      out_BSHD = attend(
        x_BSHD, k_BTKD, v_BTKD, mask._replace(window=window), slopes_H
      )
      return x_BSHD + out_BSHD, None

    return jax.lax.scan(jax.checkpoint(body), q_BSHD, (windows_N, slopes_NH))[0]

  _assert_close(
    _results(functools.partial(layers, _attend), inputs, Mask()),
    _results(functools.partial(layers, _reference), inputs, Mask()),
  )


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("data,context,tensor", [(2, 1, 2), (1, 2, 2)])
def test_divided_over_a_mesh_it_is_one_device(mask, data, context, tensor):
  inputs, slopes_H, want = _want(mask)
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data, 1, tensor, context), jax.devices()[:4]
  )
  divided = attention.on_mesh("flash_tpu", mesh, **sharding.ATTENTION)
  assert isinstance(divided, Divided)

  def attend(q_BSHD, k_BTKD, v_BTKD, mask, slopes_H):
    return attention.attend(
      q_BSHD, k_BTKD, v_BTKD, mask=mask, slopes_H=slopes_H, backend=divided
    )

  got = _results(attend, inputs, MASKS[mask], slopes_H)
  assert got[0].sharding.is_equivalent_to(
    jax.NamedSharding(mesh, P(("data", "fsdp"), "context", "tensor")), 4
  )
  _assert_close(got, want)


def test_what_jit_divides_stays_as_it_is_on_a_mesh():
  mesh = sharding.make_mesh(sharding.MeshConfig())
  one = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  kernel = attention.FlashTpu()
  for backend, on in (("blockwise", mesh), ("flash_tpu", one), (kernel, one)):
    assert attention.on_mesh(backend, on, **sharding.ATTENTION) == backend


def test_a_mesh_that_does_not_divide_the_heads_is_refused():
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=4))
  divided = attention.on_mesh("flash_tpu", mesh, **sharding.ATTENTION)
  *qkv, _ = _inputs(H=4, K=2)
  with pytest.raises(ValueError, match="got 4 and 2 for 4 parts. Change Mesh"):
    attention.attend(*qkv, mask=Mask(), backend=divided)


@pytest.mark.slow
def test_training_follows_the_reference_for_fifty_steps():
  config = ModelConfig(
    vocab_size=32,
    num_layers=2,
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_width=16,
    context_tokens=32,
    positional=Pattern((Rope(), Alibi()), (None, 9)),
  )
  phase = TrainPhase(
    name="p",
    data=pipeline.DataConfig(("store",), document_mask=True),
    batch_size=2,
    context_tokens=32,
    optimizer=optimizer.AdamW(),
    schedule=optimizer.Constant(3e-3),
    steps=50,
  )
  tokens_nBS = np.random.default_rng(0).integers(0, 32, (50, 2, 33))
  tokens_nBS[..., 1::2] = tokens_nBS[..., :-1:2]  # So there is much to learn.
  batches = {
    "inputs_BS": jnp.asarray(tokens_nBS[..., :-1]),
    "targets_BS": jnp.asarray(tokens_nBS[..., 1:]),
    "segments_BS": jnp.broadcast_to(jnp.arange(32) // 20, (50, 2, 32)),
    "weights_BS": jnp.ones((50, 2, 32)),
  }

  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])

  def losses(backend):
    params = transformer.init(config, jax.random.key(0))
    take = step.make_step(config, phase, lambda step: 3e-3, backend, mesh)
    _, metrics = jax.jit(functools.partial(jax.lax.scan, take))(
      states.init(phase, params, 0), batches
    )
    return metrics["loss"]

  want = losses("reference")
  assert want[-5:].mean() < want[:5].mean() - 0.3, "nothing was learned"
  np.testing.assert_allclose(losses("flash_tpu"), want, atol=1e-4)
