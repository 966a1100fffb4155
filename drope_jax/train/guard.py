"""Skips steps that would spoil the model.

The guard is a part of the pure step. Its own state is a part of the training
state and is saved with it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax.axes import Array

State = dict[str, Any]
"""losses_W and norms_W of the last taken steps, and int32 counts."""


@dataclasses.dataclass(frozen=True)
class Guard:
  """When a step is skipped, and when training stops.

  A step with a loss or gradient norm that is not finite is always skipped. Its
  parameters and moments do not change, but its tokens count as read, and the
  schedule of the learning rate advances.

  Attributes:
    max_ratio: a step is also skipped if its loss or gradient norm is above this
      multiple of the median over the window, once the window is full. None: no
      step is skipped for that.
    window_steps: W, taken steps that the medians are computed over.
    max_skips_in_a_row: this many stop the run.
  """

  max_ratio: float | None = None
  window_steps: int = 100
  max_skips_in_a_row: int = 10

  def __post_init__(self):
    ratio_fits = self.max_ratio is None or 1 < self.max_ratio < math.inf
    if not ratio_fits or min(self.window_steps, self.max_skips_in_a_row) < 1:
      raise ValueError(
        "A Guard needs a max_ratio above 1 or None, a window and a number of "
        f"skips of at least 1, got {self}. Change it."
      )

  def init(self) -> State:
    """Returns the state before the first step."""
    counts = ("taken", "skipped", "skipped_in_a_row", "longest_row")
    # Each is an array of its own, since a step donates its state.
    return {
      "losses_W": jnp.zeros(self.window_steps),
      "norms_W": jnp.zeros(self.window_steps),
    } | {name: jnp.zeros((), jnp.int32) for name in counts}

  def judge(
    self, state: State, loss: Array, grad_norm: Array
  ) -> tuple[Array, State]:
    """Returns whether to take a step, and the state after it."""
    seen = {"losses_W": loss, "norms_W": grad_norm}
    takes = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if self.max_ratio is not None:
      is_full = state["taken"] >= self.window_steps
      for name, x in seen.items():
        limit = self.max_ratio * jnp.median(state[name])
        takes &= ~is_full | (x <= limit)
    place = state["taken"] % self.window_steps
    in_a_row = jnp.where(takes, 0, state["skipped_in_a_row"] + 1)
    after = {
      name: jnp.where(takes, state[name].at[place].set(x), state[name])
      for name, x in seen.items()
    } | {
      "taken": state["taken"] + takes,
      "skipped": state["skipped"] + ~takes,
      "skipped_in_a_row": in_a_row,
      "longest_row": jnp.maximum(state["longest_row"], in_a_row),
    }
    return takes, after


def choose(takes: Array, after: Any, before: Any) -> Any:
  """Returns one of two trees of arrays, leaf by leaf."""
  return jax.tree.map(lambda a, b: jnp.where(takes, a, b), after, before)
