"""Keeps a run going until it has finished: looks, decides, acts, remembers.

watch.json in the bucket holds what it knows, and is written before each action,
so another `watch`, on any machine, can go on from there.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import time
from typing import Any

from drope_jax.cli import terminal
from drope_jax.train import heartbeat
from launch import bucket, commands, machine, order, progress, ways
from launch.commands import Run
from launch.slice import Slice
from launch.states import ENDS, Action, Host, Phase, Policy, Sight, State
from launch.ways.way import REFUSED, Seen, Standing

LOOK_EVERY_S = 30.0
_ASK_S = 180.0
"""For a host to begin, before it is asked whether its start-up failed."""


def watch(
  rented: Slice,
  policy: Policy,
  do: Run,
  *,
  look_every_s: float = LOOK_EVERY_S,
  clock: Callable[[], float] = time.time,
  sleep: Callable[[float], None] = time.sleep,
) -> State:
  """Returns once the run has ended, and the chips that it used are freed.

  Args:
    rented: the slices.
    policy: how long it waits, and whether it keeps the slices.
    do: runs a command.
    look_every_s: seconds between looks.
    clock, sleep: those of `time`, except in tests.

  Raises:
    ValueError: there is no order; another `watch` looks after the run; Google
      Cloud refuses something that only its user can change.
  """
  given = order.require(rented, do)
  memory = Memory(rented, do)
  shown = None
  while True:
    try:
      sight = look(rented, given, memory.state, do, clock())
      state, action = machine.step(memory.state, sight, policy)
      memory.keep(state)
      news = (state.phase, state.reason, sight.step)
      if news != shown:
        terminal.say(describe(state, sight))
        shown = news
      if action is not Action.NOTHING:
        _act(action, rented, policy, memory, do, clock)
      elif state.phase in ENDS:
        return state
      sleep(look_every_s)
      found = order.read(rented, do)
      if found is None:
        return _deleted(memory.state)
      given = found
    except commands.Failed as failed:
      if failed.kind in commands.LASTING:
        raise
      terminal.say(f"looks again in {look_every_s} s: {failed}", stderr=True)
      sleep(look_every_s)


def _deleted(state: State) -> State:
  """Returns the end of a run that `delete` has removed, and says so."""
  if state.phase in ENDS:
    return state
  terminal.say(f"{Phase.GONE}; `delete` removed it")
  return dataclasses.replace(state, phase=Phase.GONE)


class Memory:
  """watch.json; a write is refused if somebody else has written."""

  def __init__(self, rented: Slice, do: Run):
    """Reads it."""
    self.url = f"{rented.folder}/watch.json"
    self._do = do
    self._generation = bucket.generation(self.url, do)
    text = None if self._generation == "0" else bucket.read(self.url, do)
    self.state = begin(1, 0.0) if text is None else parse(text)
    self._written = self.state
    self._sent: State | None = None

  def keep(self, state: State) -> None:
    """Writes what has changed; if only times have, once in five minutes.

    Raises:
      ValueError: somebody else has written.
    """
    self.state = state
    if self._sent is not None:
      self._confirm()
    before = self._written
    timeless = dataclasses.replace(
      state, now=before.now, active_s=before.active_s
    )
    same = timeless == before
    if same and state.now - before.now < 300:
      return
    self._sent = state
    content = dataclasses.asdict(state)
    try:
      self._do(bucket.write(self.url, content, self._generation))
    except commands.Failed as failed:
      if failed.kind != "changed":
        raise
    self._confirm()

  def _confirm(self) -> None:
    """Reads what was sent: a command can fail after it has written.

    Raises:
      ValueError: somebody else has written.
    """
    generation = bucket.generation(self.url, self._do)
    if generation != self._generation:
      text = bucket.read(self.url, self._do)
      if text is None or parse(text) != self._sent:
        raise ValueError(
          "One `watch` may look after a run, got another that writes "
          f"{self.url}. End one of them."
        )
      self._generation, self._written = generation, self._sent
    self._sent = None


def begin(attempt: int, now: float) -> State:
  """Returns what is known of an attempt that was just ordered."""
  return State(Phase.WAITING, since=now, attempt=attempt, now=now)


def parse(text: str) -> State:
  """Returns the state that watch.json holds.

  Raises:
    ValueError: another version wrote it.
  """
  try:
    found = json.loads(text)
    found["phase"] = Phase(found["phase"])
    found["unfinished"] = Action(found["unfinished"])
    return State(**found)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      "watch.json must be of this version of the launcher, got another's "
      f"({error}). `delete` removes it."
    ) from error


def look(
  rented: Slice, given: order.Order, state: State, do: Run, now: float
) -> Sight:
  """Returns what there is to see of a run.

  Raises:
    Failed: it could not be looked at.
  """
  seen = ways.of(rented).observe(do)
  beat = progress.first_heartbeat(given.out, do)
  found = _records(order.records(rented, given.id, state.attempt), do)
  hosts = [_host(record) for record in found]
  late = state.active_since is not None and now - state.active_since > _ASK_S
  if seen.standing is Standing.ACTIVE and late and len(found) < rented.hosts:
    begun = {record["host"] for record in found}
    hosts += map(_host, ways.of(rented).failed_starts(begun, do))
  return Sight(seen, hosts, _step(beat), now, given.stop)


def _records(folder: str, do: Run) -> list[Mapping[str, Any]]:
  """Returns what the hosts wrote in a folder, by slice and number.

  What the start-up script wrote of a failure is left out for a host that has
  begun since, after a reboot.
  """
  texts = bucket.read_all(f"{folder}/*.json", do)
  found = [json.loads(text) for text in texts]
  begun = {r["host"] for r in found if r["state"] != "failed"}
  found = [r for r in found if r["state"] != "failed" or r["host"] not in begun]
  return sorted(found, key=lambda r: (r.get("slice", -1), r.get("worker", -1)))


def _host(record: Mapping[str, Any]) -> Host:
  started = record["state"] != "failed"  # Else the start-up script wrote it.
  where = f"{record['slice']}-{record['worker']} " if started else ""
  return Host(
    name=f"host {where}({record['host']})",
    code=record["code"] if started else 1,
    said=record["said"],
    updated=record["updated"],
    notice=record.get("notice"),
    started=started,
  )


def _step(beat: heartbeat.Heartbeat | None) -> int | None:
  if beat is None:
    return None
  return beat.saved_step if beat.step is None else beat.step


def _act(action, rented, policy, memory, do, clock) -> None:
  """Does it, and notes that it was done.

  A refusal for want of quota or capacity is what the resources' state would say
  later. After any other failure the action is tried again at the next look,
  unless it is one that lasts.
  """
  try:
    perform(action, rented, memory.state, do)
  except commands.Failed as failed:
    standing = REFUSED.get(failed.kind)
    absent = action is Action.CREATE and failed.kind == "missing"
    if failed.kind in commands.LASTING or absent:
      raise ValueError(str(failed)) from failed
    if action is Action.DELETE or standing is None:
      terminal.say(f"{action} will be tried again: {failed}", stderr=True)
      return
    sight = Sight(Seen(standing, failed.said), (), None, clock())
    state, _ = machine.step(memory.state, sight, policy)
    memory.keep(state)
    return
  memory.keep(dataclasses.replace(memory.state, unfinished=Action.NOTHING))


def perform(action: Action, rented: Slice, state: State, do: Run) -> None:
  """Does what was decided.

  Raises:
    Failed: it was not done, or only in part.
    ValueError: the order was removed.
  """
  way = ways.of(rented)
  if action is Action.DELETE:
    commands.run_all(way.delete(), do)
    return
  # `stop` may write the order meanwhile, and must not be lost.
  generation = bucket.generation(order.url(rented), do)
  given = order.require(rented, do)
  if given.attempt != state.attempt:
    given = dataclasses.replace(given, attempt=state.attempt)
    do(order.write(rented, given, generation))
  if action is Action.CREATE:
    commands.run_all(way.create(), do)


def describe(state: State, sight: Sight) -> str:
  """Returns the state of a run, in a line."""
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
