"""Writes heartbeats, and reports when a run takes no steps any more.

In a run of several processes each step waits for all of them. If one process
stalls, all soon wait, and the watchdog of each notices. Only then does it read
the heartbeats of the others, to find the process that stalled first.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import math
import os
import socket
import statistics
import threading
import time
from types import TracebackType

from etils import epath
import jax

from drope_jax.checkpoint import store
from drope_jax.data import paths
from drope_jax.train import heartbeat
from drope_jax.train.heartbeat import Doing, Heartbeat
from drope_jax.train.recipe import Recipe

OnStall = Callable[[str, bool], None]
"""Takes a line that names the stalled processes, and whether to end the run."""

_TICK_S = 5.0
_OBJECT_S = 1.0
"""A bucket takes about one write of an object a second."""
_ANSWER_S = 10.0
"""For a bucket to answer."""
_NAMED_S, _NAMED_STEPS = 30, 3
"""A stall is reported after so many seconds, or the time of so many steps."""
_STEPS = 10
"""A stall ends no run before the time of so many steps, however slow."""
_OTHERS = 6
"""Saving, measuring and preparing may take so many times as long."""


class Watchdog:
  """Writes this process's heartbeats, and notices a stall.

  A context manager. It uses two threads, as the stall may be a bucket that does
  not answer. The training calls methods that only set fields.
  """

  def __init__(
    self,
    directory: epath.Path,
    recipe: Recipe,
    begun: float,
    saved_step: int,
    on_stall: OnStall,
  ):
    """Prepares to watch.

    Args:
      directory: of the run.
      recipe: has `stall_minutes` and the number of steps.
      begun: when the first start of the run began, in seconds since 1970.
      saved_step: the step that this start resumes from; 0: none.
      on_stall: called in a thread, at most twice for each stall.
    """
    self._directory, self._begun = directory, begun
    self._last_step = recipe.end_steps()[-1]
    minutes = recipe.stall_minutes
    self._stall_s = math.inf if minutes is None else 60 * minutes
    self._tick_s = min(_TICK_S, self._stall_s / 4)
    self._on_stall = on_stall
    self._started = time.time()
    self._doing = Doing.PREPARING
    self._phase: str | None = None
    self._step: int | None = None
    self._stepped: float | None = None
    self._saved: tuple[int | None, float | None] = saved_step or None, None
    self._saving: int | None = None
    self._ended: str | None = None
    self._beaten = -math.inf
    self._moves = 0
    self._took_s: collections.deque[float] = collections.deque(maxlen=32)
    self._over, self._beat_is_due = threading.Event(), threading.Event()
    self._threads = [
      threading.Thread(target=work, daemon=True)
      for work in (self._keep_beating, self._watch)
    ]

  def move(self, what: Doing) -> None:
    """Notes what the process does from now on."""
    self._doing = what
    self._moves += 1

  def prepare(self, phase: str) -> None:
    """Notes that a phase begins."""
    self._phase = phase
    self._took_s.clear()
    self.move(Doing.PREPARING)

  def step(self, step: int, compiles: bool) -> None:
    """Notes that a step begins, and whether it is compiled first."""
    now = time.time()
    if self._doing is Doing.STEPPING and self._stepped is not None:
      self._took_s.append(now - self._stepped)
    self._step, self._stepped = step, now
    self.move(Doing.PREPARING if compiles else Doing.STEPPING)

  @contextlib.contextmanager
  def doing(self, what: Doing) -> Iterator[None]:
    """Notes what the process does within the context."""
    before = self._doing
    self.move(what)
    yield
    self.move(before)

  def saving(self, step: int) -> None:
    """Notes that a save begins; the watchdog itself looks for its end."""
    self._saving = step

  def __enter__(self) -> "Watchdog":
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self._ended = "finished" if error is None else _line(error)
    self._doing = Doing.ENDED
    self._over.set()
    self._beat_is_due.set()
    for thread in self._threads:
      thread.join(_ANSWER_S)

  def _keep_beating(self) -> None:
    if not paths.in_bucket(self._directory):
      with contextlib.suppress(OSError):
        (self._directory / heartbeat.FOLDER).mkdir(exist_ok=True)
    while not self._over.is_set():
      self._beat()
      self._beat_is_due.wait(heartbeat.EVERY_S)
      self._beat_is_due.clear()
    self._beat()

  def _watch(self) -> None:
    tick_s = self._tick_s
    last, still_s, moves, told = time.monotonic(), 0.0, self._moves, 0
    while not self._over.wait(tick_s):
      now = time.monotonic()
      # Time for which the process or machine was suspended does not count.
      still_s += min(now - last, 2 * tick_s)
      last = now
      if moves != self._moves:
        moves, still_s, told = self._moves, 0.0, 0
      limits = self._limits()
      if told < len(limits) and still_s >= limits[told]:
        told += 1
        self._tell(still_s, too_long=told == 2)

  def _limits(self) -> tuple[float, ...]:
    """Returns after how many seconds a stall is reported, and ends the run."""
    took_s = [*self._took_s]
    step_s = statistics.median(took_s) if took_s else 0.0
    limit_s = max(self._stall_s, _STEPS * step_s)
    if self._doing not in (Doing.READING, Doing.STEPPING):
      return _OTHERS * limit_s / 2, _OTHERS * limit_s
    named_s = max(_NAMED_S, _NAMED_STEPS * step_s)
    return min(named_s, limit_s / 2), limit_s

  def _tell(self, still_s: float, too_long: bool) -> None:
    self._beat_is_due.set()
    moves = self._moves
    # The others notice and write their heartbeats in this time.
    if self._over.wait(self._tick_s) or self._moves != moves:
      return
    own, others = self._heartbeat(), []

    def look() -> None:
      with contextlib.suppress(Exception):  # The network's.
        others.extend(heartbeat.read(self._directory, own.processes))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_ANSWER_S)
    beats = [own, *(beat for beat in others if beat.process != own.process)]
    if len(beats) == 1 < own.processes:
      who = f"{heartbeat.state(own)}; nothing is heard of the others"
    else:
      who = heartbeat.blame(beats)
    self._on_stall(f"nothing has moved for {still_s:.0f} s: {who}", too_long)

  def _beat(self) -> None:
    if paths.in_bucket(self._directory):
      time.sleep(max(0.0, self._beaten + _OBJECT_S - time.monotonic()))
    # The network's, or a full disk's: the next may be written.
    with contextlib.suppress(Exception):
      self._look_for_save()
      heartbeat.write(self._directory, self._heartbeat())
    self._beaten = time.monotonic()

  def _look_for_save(self) -> None:
    step = self._saving
    if step is None or jax.process_index() != 0:
      return
    if store.is_finished(self._directory / str(step)):
      self._saved = step, time.time()
      if self._saving == step:
        self._saving = None

  def _heartbeat(self) -> Heartbeat:
    saved_step, saved = self._saved
    return Heartbeat(
      process=jax.process_index(),
      processes=jax.process_count(),
      host=socket.gethostname(),
      pid=os.getpid(),
      begun=self._begun,
      started=self._started,
      time=time.time(),
      doing=self._doing,
      phase=self._phase,
      step=self._step,
      stepped=self._stepped,
      last_step=self._last_step,
      saved_step=saved_step,
      saved=saved,
      ended=self._ended,
    )


def _line(error: BaseException) -> str:
  return " ".join((str(error) or type(error).__name__).split())[:500]
