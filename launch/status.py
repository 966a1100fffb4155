"""The report of `status`."""

from collections.abc import Mapping
from typing import Any

from drope_jax.train.heartbeat import Heartbeat
from launch import order, prices, progress
from launch.commands import Run
from launch.slice import Slice
from launch.states import ENDS, Sight, State
from launch.watch import Memory, describe, look


def report(rented: Slice, do: Run, now: float) -> str:
  """Returns what is known of a run, in lines.

  Args:
    rented: the slices.
    do: runs a command.
    now: in seconds since 1970.

  Raises:
    ValueError: no run was ordered.
  """
  given = order.require(rented, do)
  state = Memory(rented, do).state
  sight = look(rented, given, state, do, now)
  beat = progress.first_heartbeat(given.out, do)
  lines = {
    rented.name: describe(state, sight),
    "slices": f"{sight.seen.standing} ({sight.seen.said or 'no reason'})",
    "hosts": _hosts(rented, sight),
    "run": given.out,
    **_progress(beat, now),
    **_speed(progress.last_metrics(given.out, do) or {}),
    "preemptions": f"{state.preemptions}",
    "crashes": f"{state.crashes}",
    "cost": _cost(rented, state, sight),
  }
  if beat is not None and (left := _left(beat, sight)) is not None:
    lines["time left"] = left
  width = max(map(len, lines))
  return "\n".join(f"{name:{width}}  {said}" for name, said in lines.items())


def _hosts(rented: Slice, sight: Sight) -> str:
  begun = sum(host.started for host in sight.hosts)
  failed = [f"{h.name}: {h.said}" for h in sight.hosts if not h.started]
  return "; ".join([f"{begun} of {rented.hosts} began", *failed])


def _progress(beat: Heartbeat | None, now: float) -> dict[str, str]:
  if beat is None:
    return {"step": "none yet"}
  step = "none yet" if beat.step is None else f"{beat.step:,}"
  lines = {
    "step": f"{step} of {beat.last_step:,}, {beat.doing} ({beat.phase})",
  }
  if beat.saved_step is not None:
    age = "by an earlier start"
    if beat.saved is not None:
      age = f"{progress.duration(now - beat.saved)} ago"
    lines["last save"] = f"step {beat.saved_step:,}, {age}"
  return lines


_SPEED = (
  ("loss", "loss", ".3f"),
  ("tokens/s/chip", "tokens_per_s_per_chip", ",.0f"),
  ("MFU", "mfu_causal", ".1%"),
  ("goodput", "goodput", ".1%"),
)


def _speed(metrics: Mapping[str, Any]) -> dict[str, str]:
  return {
    name: format(metrics[field], how)
    for name, field, how in _SPEED
    if metrics.get(field) is not None
  }


def _cost(rented: Slice, state: State, sight: Sight) -> str:
  held_s = state.active_s
  if state.active_since is not None and state.phase not in ENDS:
    held_s += sight.now - state.now
  chip_hours = rented.chips * held_s / 3600
  return (
    f"{prices.find(rented).of(chip_hours)} for {chip_hours:,.1f} chip-hours"
  )


def _left(beat: Heartbeat, sight: Sight) -> str | None:
  """Returns the time for the remaining steps, at the pace of this start."""
  done = (beat.step or 0) - (beat.saved_step or 0)
  if beat.step is None or beat.stepped is None or done <= 0:
    return None
  pace_s = (beat.stepped - (beat.saved or beat.started)) / done
  return progress.duration(pace_s * (beat.last_step - beat.step))
