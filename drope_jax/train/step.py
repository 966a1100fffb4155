"""The training step: one pure function of state and batch."""

from collections.abc import Callable, Mapping
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from drope_jax import attention, sharding
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import guard as guards
from drope_jax.train import loss as losses
from drope_jax.train import state as state_lib
from drope_jax.train import teacher as teachers
from drope_jax.train import tuning as tunings
from drope_jax.train.phases import TrainPhase
from drope_jax.train.state import State

COMPILER_OPTIONS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    # Without it, parameters and moments are copied before they are replaced.
    "cpu": {"xla_cpu_copy_insertion_use_region_analysis": True},
    # 32 MiB of the 128, not 16, so that matrix products need not be split along
    # the axis that they sum over.
    "tpu": {"xla_tpu_scoped_vmem_limit_kib": "32768"},
  }
)
"""XLA's options that a step is compiled with, by platform."""


def make_step(
  config: ModelConfig,
  phase: TrainPhase,
  schedule: optax.Schedule,
  backend: attention.Choice,
  mesh: Mesh,
  teacher: tuple[ModelConfig, attention.Choice] | None = None,
) -> Callable[..., tuple[State, dict[str, Array]]]:
  """Returns a pure step(state, batch, base, teacher_params), to be jitted.

  The step returns the next state and metrics. The loss is the mean over the
  weights of the whole batch, for any number of microbatches. A step that the
  phase's guard refuses does not change params, opt_state and average.

  Arguments of the step:
    state: see `state.State`.
    batch: inputs_BS, targets_BS, segments_BS (int32) and weights_BS (float32).
    base: what the phase does not train (`tuning.Tuning.base`); {} by default.
    teacher_params: of the phase's teacher, if it has one.

  Metrics of the step are scalars: loss (nats a token) and its perplexity;
  grad_norm; param_norm, of the trained parameters before the step; lr; weight,
  the tokens that counted; skipped, the skipped steps of the phase so far;
  skips_in_a_row, the most so far; and, where the phase asks for them, kl
  (teacher to model, nats a token), distance (see `teacher.distance`) and
  max_logit (the largest of attention).

  Args:
    config: of the model.
    phase: its optimizer, accumulation, precision and loss are used.
    schedule: the learning rate by the run's step.
    backend: of attention, on one device.
    mesh: over which state and batches are sharded.
    teacher: config and backend of the phase's teacher; None where it has none.
  """
  transform = phase.optimizer.transform()
  tuning = tunings.of(phase, transformer.param_shapes(config))
  read = functools.partial(_read, phase, phase.data, mesh)
  outputs_weight = phase.teacher.outputs_weight if phase.teacher else 0
  outputs = ("outputs",) if outputs_weight else ()
  max_logit = ("max_logit",) if phase.log_max_logit else ()

  def differentiate(params, base, batch, teacher_params):
    taught = taught_captured = None
    if phase.teacher is not None:
      taught, taught_captured = read(
        *teacher, teacher_params, batch, capture=outputs
      )

    def objective(params):
      parts = (_cast(phase, part) for part in (base, params))
      states, captured = read(
        config,
        backend,
        tuning.unmerged(*parts),
        batch,
        adapters=_cast(phase, tuning.adapters(params)),
        capture=outputs + max_logit,
      )
      total, *sums = _summed_loss(config, phase, mesh, states, batch, taught)
      apart = None
      if outputs_weight:
        apart = teachers.distance(
          captured["outputs"], taught_captured["outputs"], batch["weights_BS"]
        )
        total += outputs_weight * apart
      largest = captured["max_logit"].max() if max_logit else None
      return total, ((*sums, apart), largest)

    return jax.grad(objective, has_aux=True)(params)

  def summed_gradients(params, base, batch, teacher_params):
    if phase.accumulation == 1:
      return differentiate(params, base, batch, teacher_params)

    def add(total, microbatch):
      gradients, (sums, max_logit) = differentiate(
        params, base, microbatch, teacher_params
      )
      total_gradients, (total_sums, largest) = total
      return (
        jax.tree.map(jnp.add, total_gradients, gradients),
        (
          jax.tree.map(jnp.add, total_sums, sums),
          jax.tree.map(jnp.maximum, largest, max_logit),
        ),
      ), None

    zero = jax.tree.map(jnp.zeros_like, params)
    # Every microbatch takes rows from the whole batch, so that it is spread
    # over all devices.
    microbatches = {
      name: jnp.swapaxes(x.reshape(-1, phase.accumulation, x.shape[1]), 0, 1)
      for name, x in batch.items()
    }
    sums = tuple(
      jnp.zeros(()) if asked else None
      for asked in (True, phase.teacher is not None, outputs_weight > 0)
    )
    largest = jnp.asarray(-jnp.inf) if phase.log_max_logit else None
    return jax.lax.scan(add, (zero, (sums, largest)), microbatches)[0]

  def step(state, batch, base=None, teacher_params=None):
    params, opt_state = state["params"], state["opt_state"]
    weight = jnp.sum(batch["weights_BS"])
    # Weights that sum to 1 make sums means. To divide the gradients instead
    # would take another pass over all of them.
    shares_BS = batch["weights_BS"] / weight
    gradients, ((loss, kl, apart), max_logit) = summed_gradients(
      params, base or {}, {**batch, "weights_BS": shares_BS}, teacher_params
    )
    grad_norm = optax.tree.norm(gradients)
    takes, guard = phase.guard.judge(state["guard"], loss, grad_norm)
    updates, moved_state = transform.update(gradients, opt_state, params)
    rate = schedule(state["step"])
    updates = jax.tree.map(lambda u: rate * u, updates)
    moved = optax.apply_updates(params, updates)
    metrics = {
      "loss": loss,
      "perplexity": jnp.exp(loss),
      "grad_norm": grad_norm,
      "param_norm": optax.tree.norm(params),
      "lr": rate,
      "weight": weight,
      "skipped": guard["skipped"],
      "skips_in_a_row": guard["longest_row"],
    }
    if phase.teacher is not None:
      metrics["kl"] = kl
    if outputs_weight:
      metrics["distance"] = apart
    if phase.log_max_logit:
      metrics["max_logit"] = max_logit
    after = {
      "params": guards.choose(takes, moved, params),
      "opt_state": guards.choose(takes, moved_state, opt_state),
      "guard": guard,
      "step": state["step"] + 1,
    }
    if phase.ema_decay is not None:
      average = state["average"]
      _, further = state_lib.averaging(phase).update(moved, average)
      after["average"] = guards.choose(takes, further, average)
    return after, metrics

  return step


def jitted(
  config: ModelConfig,
  phase: TrainPhase,
  schedule: optax.Schedule,
  backend: attention.Choice,
  mesh: Mesh,
  teacher: tuple[ModelConfig, attention.Choice] | None = None,
  options: Mapping[str, Any] | None = None,
) -> jax.stages.Wrapped:
  """Returns `make_step` under `jax.jit`, which replaces the state in place.

  Args as of `make_step`, and

    options: of XLA's compiler, over `COMPILER_OPTIONS`.
  """
  state = state_lib.abstract(phase, config, mesh)
  platform = mesh.devices.flat[0].platform
  return jax.jit(
    make_step(config, phase, schedule, backend, mesh, teacher),
    donate_argnums=0,
    out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
    compiler_options={
      **COMPILER_OPTIONS.get(platform, {}),
      **({} if options is None else options),
    },
  )


def make_evaluation(
  config: ModelConfig,
  phase: TrainPhase,
  backend: attention.Choice,
  mesh: Mesh,
) -> Callable[[transformer.Params, Mapping[str, Array]], tuple[Array, Array]]:
  """Returns evaluate(params, batch) -> (nats, weight), to be jitted.

  Both are sums over a batch of the phase's held-out text; nats / weight is the
  loss. Args are as of `make_step`.
  """

  def evaluate(params, batch):
    cast, data = _cast(phase, params), phase.held_out.data
    states, _ = _read(phase, data, mesh, config, backend, cast, batch)
    _, nats, _ = _summed_loss(config, phase, mesh, states, batch)
    return nats, jnp.sum(batch["weights_BS"])

  return evaluate


def _cast(phase, params):
  return jax.tree.map(lambda x: x.astype(phase.compute_dtype), params)


def _read(
  phase,
  data,
  mesh,
  config,
  backend,
  params,
  batch,
  *,
  adapters=None,
  capture=(),
):
  """Returns the factors of the logits, and what was captured.

  Params and adapters are in the phase's compute_dtype.
  """
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  found = transformer.hidden(
    config,
    params,
    batch["inputs_BS"],
    segments_BS=batch["segments_BS"] if data.document_mask else None,
    adapters=adapters,
    backend=attention.on_mesh(backend, mesh, **sharding.ATTENTION),
    remat=phase.remat,
    unroll=on_cpu if phase.unroll is None else phase.unroll,
    join_sequences=on_cpu and mesh.size == 1,
    capture=capture,
  )
  x_BSM, captured = found if capture else (found, {})
  return transformer.head(config, params, x_BSM), captured


def _summed_loss(config, phase, mesh, states, batch, taught=None):
  """Returns the objective, nats and KL of what `_read` returned.

  `taught` is the same of the teacher, if there is one.
  """
  return losses.summed(
    mesh,
    *states,
    batch["targets_BS"],
    batch["weights_BS"],
    taught,
    chunk_tokens=phase.loss_chunk_tokens,
    z_loss=phase.z_loss,
    teacher_weight=0.0 if taught is None else phase.teacher.weight,
    soft_cap=config.final_logit_soft_cap,
  )
