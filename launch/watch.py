"""Keeps a run going until it has finished: looks, decides, acts, remembers.

What it knows lies in the bucket, watch.json, written before it acts: whoever
watches next, on whichever machine, goes on from there.
"""

from collections.abc import Callable
import dataclasses
import json
import time

from drope_jax.cli import terminal
from drope_jax.train import heartbeat
from launch import bucket, commands, machine, order, progress, ways
from launch.commands import Run
from launch.machine import Action, Phase
from launch.slice import Slice
from launch.ways.way import Seen, Standing

LOOK_EVERY_S = 30.0


def watch(
  rented: Slice,
  policy: machine.Policy,
  do: Run,
  *,
  look_every_s: float = LOOK_EVERY_S,
  clock: Callable[[], float] = time.time,
  sleep: Callable[[float], None] = time.sleep,
) -> machine.State:
  """Returns once the run has come to an end, and chips that it used are freed.

  Args:
    rented: the slices.
    policy: how patient it is, and whether chips are kept.
    do: runs a command.
    look_every_s: seconds between looks.
    clock, sleep: time's own, but for tests.

  Raises:
    ValueError: there is no order; another watch goes on; Google Cloud refuses
      what only its user can mend.
  """
  given = order.require(rented, do)
  memory = Memory(rented, do)
  shown = None
  while True:
    try:
      sight = look(rented, given, memory.state, do, clock())
      action = _decide(memory, sight, policy)
      news = (memory.state.phase, memory.state.reason, sight.step)
      if news != shown:
        terminal.say(describe(memory.state, sight))
        shown = news
      if action is not Action.NOTHING:
        _act(action, rented, policy, memory, do, clock)
      elif memory.state.phase in machine.ENDS:
        return memory.state
    except commands.Failed as failed:
      if failed.kind == "denied":
        raise
      terminal.say(f"looks again in {look_every_s} s: {failed}", stderr=True)
    sleep(look_every_s)


def _decide(
  memory: "Memory", sight: machine.Sight, policy: machine.Policy
) -> Action:
  """Returns what is to be done, which is written down before."""
  state, action = machine.step(memory.state, sight, policy)
  if action is Action.NOTHING:
    action = state.unfinished
  memory.keep(dataclasses.replace(state, unfinished=action))
  return action


class Memory:
  """watch.json, of which each write says what it goes on from."""

  def __init__(self, rented: Slice, do: Run):
    """Reads it."""
    self.url = f"{rented.folder}/watch.json"
    self._do = do
    self._generation = bucket.generation(self.url, do)
    text = None if self._generation == "0" else bucket.read(self.url, do)
    self.state = begin(1, 0.0) if text is None else parse(text)
    self._written = self.state

  def keep(self, state: machine.State) -> None:
    """Writes what changed; times alone are written once in five minutes.

    Raises:
      ValueError: somebody else has written.
    """
    before, self.state = self._written, state
    timeless = {"now": before.now, "active_s": before.active_s}
    same = dataclasses.replace(state, **timeless) == before
    if same and state.now - before.now < 300:
      return
    content = dataclasses.asdict(state)
    try:
      self._do(bucket.write(self.url, content, self._generation))
    except commands.Failed as failed:
      if failed.kind == "changed":
        raise ValueError(
          f"One `watch` may look after a run, got another that writes "
          f"{self.url}. End one of them."
        ) from failed
      raise
    self._generation = bucket.generation(self.url, self._do)
    self._written = state


def begin(attempt: int, now: float) -> machine.State:
  """Returns what is known of an attempt that was just ordered."""
  return machine.State(Phase.WAITING, since=now, attempt=attempt, now=now)


def parse(text: str) -> machine.State:
  """Returns the state that watch.json holds.

  Raises:
    ValueError: another version wrote it.
  """
  try:
    found = json.loads(text)
    found["phase"] = Phase(found["phase"])
    found["unfinished"] = Action(found["unfinished"])
    return machine.State(**found)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      "watch.json must be of this version of the launcher, got another's "
      f"({error}). `delete` removes it."
    ) from error


def look(
  rented: Slice,
  given: order.Order,
  state: machine.State,
  do: Run,
  now: float,
) -> machine.Sight:
  """Returns what there is to see of a run.

  Raises:
    Failed: it could not be looked at.
  """
  seen = ways.of(rented).observe(do)
  beat = progress.first_heartbeat(given.out, do)
  return machine.Sight(seen, hosts(rented, state.attempt, do), _step(beat), now)


def hosts(rented: Slice, attempt: int, do: Run) -> list[machine.Host]:
  """Returns the hosts' records of an attempt, by slice and number."""
  text = bucket.read(f"{rented.folder}/hosts/{attempt}/*.json", do) or ""
  found = [json.loads(line) for line in text.splitlines() if line.strip()]
  found.sort(key=lambda r: (r.get("slice", -1), r.get("worker", -1)))
  return [
    machine.Host(
      name=f"host {record['slice']}-{record['worker']} ({record['host']})"
      if "slice" in record
      else f"host {record['host']}",
      code=1 if record["state"] == "failed" else record["code"],
      said=record["said"],
      updated=record["updated"],
      notice=record.get("notice"),
      started=record["state"] != "failed",
    )
    for record in found
  ]


def _step(beat: heartbeat.Heartbeat | None) -> int | None:
  if beat is None:
    return None
  return beat.saved_step if beat.step is None else beat.step


def _act(action, rented, policy, memory, do, clock) -> None:
  """Does it, and notes that it was done.

  A refusal that says how the slices stand is seen as that; another is told, and
  the action tried again at the next look, unless only the user can mend it.
  """
  try:
    perform(action, rented, memory.state, do)
  except commands.Failed as failed:
    standings = {"quota": Standing.QUOTA, "stockout": Standing.STOCKOUT}
    if failed.kind == "denied":
      raise
    if action is Action.DELETE or failed.kind not in standings:
      terminal.say(f"{action} will be tried again: {failed}", stderr=True)
      return
    seen = Seen(standings[failed.kind], failed.said)
    sight = machine.Sight(seen, (), None, clock())
    state, action = machine.step(memory.state, sight, policy)
    memory.keep(dataclasses.replace(state, unfinished=action))
    return
  memory.keep(dataclasses.replace(memory.state, unfinished=Action.NOTHING))


def perform(
  action: Action, rented: Slice, state: machine.State, do: Run
) -> None:
  """Does what was decided."""
  way = ways.of(rented)
  if action is Action.DELETE:
    commands.run_all(way.delete(), do)
    return
  given = order.require(rented, do)
  if given.attempt != state.attempt:
    given = dataclasses.replace(given, attempt=state.attempt, stop=False)
    do(order.write(rented, given))
  if action is Action.CREATE:
    commands.run_all(way.create(), do)


def describe(state: machine.State, sight: machine.Sight) -> str:
  """Returns how a run stands, in a line."""
  waited = progress.duration(sight.now - state.since)
  parts = [f"{state.phase} for {waited}", state.reason]
  if state.phase is Phase.RUNNING and sight.step is not None:
    parts.append(f"step {sight.step:,}")
  if state.phase is Phase.RETRYING and state.again_at > sight.now:
    left = progress.duration(state.again_at - sight.now)
    parts.append(f"again in {left}")
  if state.attempt > 1:
    parts.append(f"attempt {state.attempt}")
  return "; ".join(part for part in parts if part)
