"""Cross-entropy in chunks: that of all logits at once, in their memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import sharding
from drope_jax.train import loss

B, S, M, V = 4, 6, 16, 24


def _mesh(**axes):
  config = sharding.MeshConfig(**{"fsdp": 1} | axes)
  return sharding.make_mesh(config, jax.devices()[: math.prod(axes.values())])


@functools.cache
def _case():
  rng = np.random.default_rng(0)
  x_BSM = rng.normal(size=(B, S, M)).astype(np.float32)
  # Beyond what float32 exponentials hold.
  x_BSM[0, 0] *= 100
  kernel_MV = rng.normal(size=(M, V)).astype(np.float32)
  targets_BS = rng.integers(0, V, (B, S)).astype(np.int32)
  weights_BS = rng.integers(0, 2, (B, S)).astype(np.float32)
  weights_BS[0, 0] = 1
  return x_BSM, kernel_MV, targets_BS, weights_BS


def _wanted(z_loss):
  """Returns the objective, the nats and both gradients, in float64."""
  x_BSM, kernel_MV, targets_BS, weights_BS = (
    x.astype(np.float64) for x in _case()
  )
  logits_BSV = x_BSM @ kernel_MV
  top_BS1 = logits_BSV.max(-1, keepdims=True)
  lse_BS1 = top_BS1 + np.log(
    np.exp(logits_BSV - top_BS1).sum(-1, keepdims=True)
  )
  is_target_BSV = targets_BS[..., None] == np.arange(V)
  nats_BS = (lse_BS1 - logits_BSV)[is_target_BSV].reshape(B, S)
  objective_BS = nats_BS + z_loss * lse_BS1[..., 0] ** 2
  p_BSV = np.exp(logits_BSV - lse_BS1)
  d_BSV = p_BSV * (1 + 2 * z_loss * lse_BS1) - is_target_BSV
  d_BSV *= weights_BS[..., None]
  return (
    (weights_BS * objective_BS).sum(),
    (weights_BS * nats_BS).sum(),
    d_BSV @ kernel_MV.T,
    np.einsum("bsm,bsv->mv", x_BSM, d_BSV),
  )


def _got(mesh, teacher=None, **options):
  x_BSM, kernel_MV, *rest = _case()

  def objective(x_BSM, kernel_MV, teacher):
    total, *sums = loss.summed(
      mesh, x_BSM, kernel_MV, *rest, teacher, **options
    )
    return total, sums

  (total, sums), gradients = jax.jit(
    jax.value_and_grad(objective, (0, 1), has_aux=True)
  )(x_BSM, kernel_MV, teacher)
  without, _ = jax.jit(objective)(x_BSM, kernel_MV, teacher)
  assert without == total
  return total, *jax.tree.leaves(sums), *gradients


@pytest.mark.parametrize("chunk_tokens,z_loss", [(1000, 0.0), (7, 0.01)])
def test_chunks_sum_to_cross_entropy_and_its_gradient(chunk_tokens, z_loss):
  got = _got(_mesh(data=1), chunk_tokens=chunk_tokens, z_loss=z_loss)
  _assert_close(got, _wanted(z_loss))


@pytest.mark.parametrize(
  "axes",
  [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 2, "tensor": 2, "context": 2},
  ],
)
def test_devices_share_tokens_and_vocabulary(axes):
  # A device has three tokens or more, and takes two at once.
  _assert_close(_got(_mesh(**axes), chunk_tokens=2, z_loss=0.01), _wanted(0.01))


@functools.cache
def _teacher():
  """Of another width, and as far from the student as can be at one token."""
  rng = np.random.default_rng(1)
  x_BSM = rng.normal(size=(B, S, M // 2)).astype(np.float32)
  x_BSM[0, 0] *= 100
  return x_BSM, rng.normal(size=(M // 2, V)).astype(np.float32)


def _taught(teacher_weight, z_loss, soft_cap=math.inf):
  """Returns what `_got` does, by jax.grad of all logits in float64."""
  x_BSM, kernel_MV, targets_BS, weights_BS = _case()

  def capped(logits_BSV):
    if soft_cap == math.inf:
      return logits_BSV
    return soft_cap * jnp.tanh(logits_BSV / soft_cap)

  def objective(x_BSM, kernel_MV, teacher):
    logits_BSV = capped(x_BSM @ kernel_MV)
    log_p_BSV = jax.nn.log_softmax(logits_BSV)
    log_q_BSV = jax.nn.log_softmax(capped(jnp.matmul(*teacher)))
    kl_BS = jnp.sum(jnp.exp(log_q_BSV) * (log_q_BSV - log_p_BSV), -1)
    nats_BS = -jnp.take_along_axis(log_p_BSV, targets_BS[..., None], -1)[..., 0]
    objective_BS = (
      teacher_weight * kl_BS
      + (1 - teacher_weight) * nats_BS
      + z_loss * jax.nn.logsumexp(logits_BSV, -1) ** 2
    )
    total, *sums = (
      jnp.sum(weights_BS * x_BS) for x_BS in (objective_BS, nats_BS, kl_BS)
    )
    return total, sums

  with jax.enable_x64(True):
    arrays = jax.tree.map(np.float64, (x_BSM, kernel_MV, _teacher()))
    (total, sums), gradients = jax.value_and_grad(
      objective, (0, 1), has_aux=True
    )(*arrays)
    return jax.tree.map(np.asarray, (total, *sums, *gradients))


@pytest.mark.parametrize(
  "axes,teacher_weight",
  [
    ({"data": 1}, 1.0),
    ({"data": 2, "fsdp": 2, "tensor": 2}, 0.7),
    ({"fsdp": 2, "tensor": 2, "context": 2}, 0.3),
  ],
)
def test_a_teachers_distribution_is_learnt_in_the_same_chunks(
  axes, teacher_weight
):
  options = {"teacher_weight": teacher_weight, "z_loss": 0.01}
  got = _got(_mesh(**axes), _teacher(), chunk_tokens=2, **options)
  want = _taught(**options)
  assert want[2] > 10, "the teacher says the same"
  _assert_close(got, want)


def test_a_student_that_equals_its_teacher_learns_nothing():
  student, (_, weights_BS) = _case()[:2], _case()[2:]
  for axes in ({"data": 1}, {"tensor": 2}):
    total, nats, kl, *gradients = _got(_mesh(**axes), student, chunk_tokens=7)
    assert total == kl == 0 < nats
    # A rounding of a probability and its product with a weight of at most 1.
    limit = 2**-23 * weights_BS.sum() * np.abs(student[0]).max()
    assert max(np.abs(gradient).max() for gradient in gradients) < limit


@pytest.mark.parametrize("axes", [{"data": 1}, {"fsdp": 2, "tensor": 2}])
def test_a_cap_bounds_the_logits_of_both_models(axes):
  want = _taught(0.3, 0.01, soft_cap=5.0)
  assert want[0] < _taught(0.3, 0.01)[0] / 2, "the cap does nothing"
  options = {"teacher_weight": 0.3, "z_loss": 0.01, "soft_cap": 5.0}
  _assert_close(
    _got(_mesh(**axes), _teacher(), chunk_tokens=7, **options), want
  )


def _assert_close(got, want):
  for x, y in zip(got, want, strict=True):
    assert x.dtype == np.float32
    # Float32 rounding of logits of 1000.
    atol = 1e-6 * np.abs(y).max()
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol)


def test_gradients_have_the_dtype_of_what_they_are_of():
  x_BSM, kernel_MV, *rest = _case()
  low = [jnp.asarray(x, jnp.bfloat16) for x in (x_BSM[1:], kernel_MV)]
  rest = [x[1:] for x in rest]

  def objective(*arrays):
    return loss.summed(_mesh(data=1), *arrays, *rest, chunk_tokens=5)[0]

  gradient = jax.jit(jax.grad(objective, (0, 1)))
  got = gradient(*low)
  want = gradient(*(x.astype(jnp.float32) for x in low))
  for x, y in zip(got, want, strict=True):
    assert x.dtype == jnp.bfloat16
    # Logits' gradients, and their sums, rounded to 8 bits.
    error = np.linalg.norm(x.astype(jnp.float32) - y) / np.linalg.norm(y)
    assert 0 < error < 2**-7


def _plain(mesh, x_BSM, kernel_MV, targets_BS, weights_BS):
  log_p_BSV = jax.nn.log_softmax(x_BSM @ kernel_MV)
  target_BS1 = targets_BS[..., None]
  nats_BS = -jnp.take_along_axis(log_p_BSV, target_BS1, -1)[..., 0]
  return jnp.sum(weights_BS * nats_BS), None


@pytest.mark.parametrize("axes", [{"data": 1}, {"data": 2, "tensor": 2}])
def test_the_logits_never_exist_whole(axes):
  B, S, M, V, C = 4, 512, 8, 4096, 64
  mesh = _mesh(**axes)
  shapes = [(B, S, M), (M, V), (B, S), (B, S)]
  dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
  arrays = [*map(jax.ShapeDtypeStruct, shapes, dtypes)]

  def peak(summed):
    gradient = jax.grad(lambda *xs: summed(mesh, *xs)[0], (0, 1))
    compiled = jax.jit(gradient).lower(*arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  share = axes.get("tensor", 1)
  rows = B // axes["data"]
  in_chunks = peak(functools.partial(loss.summed, chunk_tokens=C))
  whole = 4 * rows * S * V // share
  # A chunk's logits, exponentials and gradient, the kernel's and the states'.
  few = 2 * M * V + 4 * rows * S * M
  assert in_chunks < 4 * (3 * C * V // share + few)
  assert in_chunks < whole / 2
  # The teacher's logits, exponentials and kernel too.
  taught = peak(
    lambda mesh, x_BSM, kernel_MV, *rest: loss.summed(
      mesh, x_BSM, kernel_MV, *rest, (x_BSM, kernel_MV), chunk_tokens=C
    )
  )
  assert in_chunks < taught < 4 * (5 * C * V // share + few + M * V)
  if share == 1:
    assert peak(_plain) > whole


@pytest.mark.parametrize(
  "axes,sums", [({"fsdp": 1}, False), ({"fsdp": 2}, True)]
)
def test_one_device_sums_over_no_others(axes, sums):
  """XLA's CPU backend copies what is summed over one device alone."""
  gradient = jax.grad(lambda *xs: loss.summed(_mesh(**axes), *xs)[0], (0, 1))
  program = jax.jit(gradient).lower(*_case()).as_text()
  collectives = ("all_reduce", "reduce_scatter")
  assert any(name in program for name in collectives) == sums
