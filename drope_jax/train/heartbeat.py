"""Heartbeats: each process of a run writes its state every few seconds.

RUN/heartbeats/N.json is that of process N, an object with the fields of
`Heartbeat`. Only process 0 writes which step is saved. This module imports no
jax.
"""

from collections.abc import Sequence
from concurrent import futures
import dataclasses
import enum
import json
import os

from etils import epath

from drope_jax.data import whole_file

FOLDER = "heartbeats"
EVERY_S = 10.0
_READERS = 16
_SILENT_S = 25.0
_START_S = 60.0
"""The processes of one start write their first heartbeats within this time."""


class Doing(enum.StrEnum):
  """What a process does."""

  PREPARING = "preparing"  # It loads, does surgery, or compiles a step.
  READING = "reading"  # It waits for its part of a batch.
  STEPPING = "stepping"  # It waits for its devices, and so for all processes.
  MEASURING = "measuring"
  SAVING = "saving"
  ENDED = "ended"


_WORDS = {
  Doing.PREPARING: "prepares its steps",
  Doing.READING: "waits for data",
  Doing.STEPPING: "waits for its devices",
  Doing.MEASURING: "measures",
  Doing.SAVING: "saves",
}


@dataclasses.dataclass(frozen=True)
class Heartbeat:
  """The state of one process. Times are in seconds since 1970.

  Attributes:
    process, processes: its number, from 0, and how many there are.
    host: the name of its machine.
    pid: its process id there.
    begun: when the first start of the run began.
    started: when this start of the run began.
    time: when this was written.
    doing: what it does.
    phase: its phase; None before the first.
    step: the last step of the run that it has begun; None before the first.
    stepped: when it began that step; None before the first.
    last_step: of the run, if no phase ends early.
    saved_step: the newest step that is saved completely; None: there is none.
    saved: when it was saved; None if an earlier start saved it.
    ended: why the process ended, in a line: "finished"; "saved step 12" if it
      was told to end; or an error. None while it runs, and after it was killed
      or took no step for too long.
  """

  process: int
  processes: int
  host: str
  pid: int
  begun: float
  started: float
  time: float
  doing: Doing
  phase: str | None
  step: int | None
  stepped: float | None
  last_step: int
  saved_step: int | None = None
  saved: float | None = None
  ended: str | None = None


def write(directory: epath.Path, beat: Heartbeat) -> None:
  """Replaces a process's heartbeat."""
  text = json.dumps(dataclasses.asdict(beat)) + "\n"
  whole_file.write(_file(directory, beat.process), text.encode())


def read(
  directory: str | os.PathLike, processes: int | None = None
) -> list[Heartbeat]:
  """Returns the newest heartbeat of each process of a run, in order.

  A process that has not written yet is left out, or has one of an earlier
  start: compare `started`.

  Args:
    directory: of the run; without heartbeats, the list is empty.
    processes: how many there are; None: as many as process 0 says.

  Raises:
    ValueError: a file is no heartbeat; the message names it.
  """
  directory = epath.Path(directory)
  if processes is None:
    first = _read(_file(directory, 0))
    processes = 0 if first is None else first.processes
  # By name: gcsfs caches a folder's listing, with sizes, and never renews it.
  files = [_file(directory, number) for number in range(processes)]
  with futures.ThreadPoolExecutor(_READERS) as pool:
    beats = [*pool.map(_read, files)]
  return [b for b in beats if b is not None and b.processes == processes]


def parse(text: str, where: os.PathLike | str) -> Heartbeat:
  """Returns the heartbeat that a file holds.

  Args:
    text: the file's content.
    where: its path or URL, for errors.

  Raises:
    ValueError: it is no heartbeat of this version.
  """
  try:
    fields = json.loads(text)
    return Heartbeat(**fields | {"doing": Doing(fields["doing"])})
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"A heartbeat of this version of drope_jax is needed, got {where} "
      f"({error}). Remove it; the run writes it anew."
    ) from error


def begun(directory: os.PathLike) -> float | None:
  """Returns when the first start of a run began; None: process 0 wrote none."""
  first = _read(_file(epath.Path(directory), 0))
  return None if first is None else first.begun


def blame(beats: Sequence[Heartbeat]) -> str:
  """Returns in a line which processes keep the others waiting.

  First those that are gone. Else those that have begun the fewest steps, and
  among these the ones that do not wait for their devices.

  Args:
    beats: of all processes, while nothing moves.
  """
  newest = max(beat.time for beat in beats)
  started = max(beat.started for beat in beats) - _START_S
  beats = sorted(
    (beat for beat in beats if beat.started >= started),
    key=lambda beat: beat.process,
  )
  absent = {*range(beats[0].processes)} - {beat.process for beat in beats}
  gone = [f"process {index} has not begun" for index in sorted(absent)]
  for beat in beats:
    if beat.ended is not None:
      gone.append(f"{_name(beat)} has ended ({beat.ended})")
    elif newest - beat.time > _SILENT_S:
      gone.append(f"{_name(beat)} is silent since step {beat.step}")
  if gone:
    return "; ".join(gone)
  least = min(beat.step or 0 for beat in beats)
  behind = [beat for beat in beats if (beat.step or 0) == least]
  waiting = [beat for beat in behind if beat.doing is Doing.STEPPING]
  if len(waiting) == len(beats) > 1:
    return f"all {len(beats)} processes wait for their devices in step {least}"
  named = [beat for beat in behind if beat not in waiting] or behind
  return "; ".join(map(state, named))


def state(beat: Heartbeat) -> str:
  """Returns what a running process does, in a few words."""
  return f"{_name(beat)} {_WORDS[beat.doing]} after step {beat.step or 0}"


def _name(beat: Heartbeat) -> str:
  return f"process {beat.process} on {beat.host}"


def _file(directory: epath.Path, process: int) -> epath.Path:
  return directory / FOLDER / f"{process}.json"


def _read(file: epath.Path) -> Heartbeat | None:
  """Returns the heartbeat in a file; None: there is no such file."""
  try:
    return parse(file.read_text(), file)
  except FileNotFoundError:
    return None
