"""Which steps are taken: one that would spoil the model is skipped.

Part of the pure step: what it remembers lies in the training state, and is
saved with it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax.axes import Array

State = dict[str, Any]
"""losses_W and norms_W of the last steps taken, and int32 counts."""


@dataclasses.dataclass(frozen=True)
class Guard:
  """When a step is skipped, and when training stops.

  A step whose loss or gradient norm is not finite is always skipped: neither
  parameters nor moments change, its tokens count as read, and the learning
  rate goes on.

  Attributes:
    max_ratio: a step is skipped too where loss or gradient norm is above this
      multiple of its median over the window, once that is full; None: never.
    window_steps: W, steps taken that the medians are of.
    max_skips_in_a_row: that many stop the run.
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
    """Returns the state of a guard that has seen no step."""
    counts = ("taken", "skipped", "skipped_in_a_row", "longest_row")
    # Each an array of its own, for a step that is given its state to donate.
    return {
      "losses_W": jnp.zeros(self.window_steps),
      "norms_W": jnp.zeros(self.window_steps),
    } | {name: jnp.zeros((), jnp.int32) for name in counts}

  def judge(
    self, state: State, loss: Array, grad_norm: Array
  ) -> tuple[Array, State]:
    """Returns whether a step is taken, and the state after it."""
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
