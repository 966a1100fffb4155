"""The state of a training: what a step replaces, and what is saved of it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from drope_jax import sharding, trees
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import tuning as tunings
from drope_jax.train.phases import TrainPhase

State = dict[str, Any]
"""`params` (what the phase trains, by default the whole model), `opt_state`,
`guard`, `average` (where the phase has `ema_decay`), and int32 `step` (the
run's)."""


def init(
  phase: TrainPhase, params: transformer.Params, step: int, seed: int = 0
) -> State:
  """Returns the state that a phase starts from.

  Args:
    phase: a training.
    params: the model's.
    step: the run's step at which the phase starts.
    seed: of the run; adapters are drawn from it and `step`.

  Raises:
    ValueError: the phase names parameters that the model does not have.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  trained = tunings.of(phase, params).start(params, key)
  state = {
    "params": trained,
    "opt_state": phase.optimizer.transform().init(trained),
    "guard": phase.guard.init(),
    "step": jnp.asarray(step, jnp.int32),
  }
  if phase.ema_decay is not None:
    state["average"] = averaging(phase).init(trained)
  return state


def start(
  phase: TrainPhase,
  config: ModelConfig,
  mesh: Mesh,
  params: transformer.Params,
  step: int,
  seed: int = 0,
) -> State:
  """Returns `init` of the model, sharded over the mesh as `abstract`.

  Parameters that are trained are donated: there is room for one copy of them.
  """
  like = abstract(phase, config, mesh)
  donated = tunings.of(phase, params).replaced(params)
  others = {
    path: x for path, x in trees.flatten(params).items() if path not in donated
  }

  def initialize(donated, others):
    return init(phase, trees.unflatten({**donated, **others}), step, seed)

  shardings = jax.tree.map(lambda x: x.sharding, like)
  started = jax.jit(initialize, donate_argnums=0, out_shardings=shardings)
  return started(donated, others)


def abstract(phase: TrainPhase, config: ModelConfig, mesh: Mesh) -> State:
  """Returns the phase's state as shapes with shardings."""
  shapes = transformer.param_shapes(config)
  state = jax.eval_shape(lambda params: init(phase, params, 0), shapes)
  shardings = sharding.like_params(mesh, state, state["params"])
  return sharding.abstract(state, shardings)


def abstract_base(
  phase: TrainPhase, config: ModelConfig, mesh: Mesh
) -> transformer.Params:
  """Returns what the phase does not train as shapes with shardings."""
  shapes = transformer.param_shapes(config)
  base = jax.eval_shape(tunings.of(phase, shapes).base, shapes)
  return sharding.abstract(base, sharding.param_shardings(mesh, base))


def abstract_saved(phase: TrainPhase, config: ModelConfig, mesh: Mesh) -> State:
  """Returns the phase's state as it is saved, as shapes with shardings."""
  state = abstract(phase, config, mesh)
  base = abstract_base(phase, config, mesh)
  tuning = tunings.of(phase, transformer.param_shapes(config))
  params = jax.eval_shape(tuning.model, base, state["params"])
  params = sharding.abstract(params, sharding.param_shardings(mesh, params))
  return to_save(phase, state, params)


def to_save(
  phase: TrainPhase, state: State, params: transformer.Params
) -> State:
  """Returns a state as it is saved: `params` is always the whole model.

  Where the phase trains something else than the checkpoint's parameters, that
  is saved too, as `trained`.

  Args:
    phase: a training.
    state: as a step returns it.
    params: of the checkpoint.
  """
  if phase.moves_the_model:
    return state
  return {**state, "params": params, "trained": state["params"]}


def averaged(phase: TrainPhase, state: State) -> transformer.Params:
  """Returns the trained parameters, or their average with `ema_decay`."""
  if phase.ema_decay is None:
    return state["params"]
  return _corrected(_decay(phase), state["average"], state["params"])


@functools.partial(jax.jit, static_argnums=0)
def _corrected(decay, average, params):
  # 1 - decay**count, without the rounding of a power that is close to 1.
  weight = -jnp.expm1(average.count * math.log(decay))
  mean = jax.tree.map(lambda x: x / weight, average.ema)
  # There is no average before the first step.
  return optax.tree.where(average.count > 0, mean, params)


def averaging(phase: TrainPhase) -> optax.GradientTransformation:
  """Returns the running average of a phase's parameters, not yet debiased."""
  return optax.ema(_decay(phase), debias=False)


def _decay(phase: TrainPhase) -> float:
  """Returns `ema_decay` as float32 has it, so that shares add up to 1."""
  return float(np.float32(phase.ema_decay))


def keep_moments(opt_state: Any, before: Any) -> Any:
  """Returns an earlier state's leaves in the place of a fresh `opt_state`'s.

  Raises:
    ValueError: the earlier one lacks a leaf, or has it in another shape.
  """
  kept = {path: x for path, x in jax.tree.leaves_with_path(before)}

  def choose(path, fresh):
    # Fresh moments beside Adam's old count would not be corrected for being
    # new: the first steps would be up to 6.5 times too long.
    found = kept.get(path)
    if found is None or found.shape != fresh.shape:
      raise ValueError(
        "Moments are kept by parameters of one shape, got "
        f"{'none' if found is None else found.shape} and then {fresh.shape} at "
        f"{jax.tree_util.keystr(path)}. Set TrainPhase.optimizer_start to "
        '"fresh".'
      )
    return found

  return jax.tree_util.tree_map_with_path(choose, opt_state)
