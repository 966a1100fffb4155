"""The agent on every host: trains what the bucket orders, and reports.

The order, run.json, names an attempt. For each new attempt the agent starts one
training, and reports in hosts/RUN/ATTEMPT/SLICE-WORKER.json, at the end with
the exit status. It never starts an attempt a second time, even after a reboot
or a crash of its own.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
from typing import Any

from drope_jax.exits import Exit
from launch.hosts import bootstrap, cloud_log, flags, place, training

_TICK_S = 0.5
_ASK_S = 2.0
_JOIN_S = 900
_LOG_BYTES = 1 << 20
_NOTICES = {
  "instance/preempted": "TRUE",
  "instance/maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE",
}
"""Metadata that announces the end of the machine, and its value then.

Source: docs.cloud.google.com/compute/docs/instances/create-use-spot;
cloud.google.com/compute/docs/gpus/gpu-host-maintenance.
"""


class Agent:
  """What the unit runs on one host."""

  def __init__(self, folder: str, wheel: str):
    """Takes what the command line names.

    Args:
      folder: of the run, in the bucket.
      wheel: the SHA-256 of the wheel that this agent comes from.
    """
    self._folder, self._wheel = folder, wheel
    self._order: dict[str, Any] = {}
    self._terminated = threading.Event()
    self._record: dict[str, Any] = {}

  def terminate(self, *_) -> None:
    """Notes SIGTERM, which comes before a machine or pod is taken back."""
    self._terminated.set()

  def run(self) -> int:
    """Trains each attempt that is ordered; returns after SIGTERM.

    An error that ends it is written where `watch` finds it.
    """
    try:
      self._order = self._read_order()
      self._place = place.find(
        self._order["slices"], self._order["hosts_of_slice"]
      )
      return self._obey()
    except Exception as error:
      bootstrap.report(error, self._folder, self._order)
      raise

  def _obey(self) -> int:
    done = 0
    while not self._terminated.is_set():
      attempt = self._order["attempt"]
      if self._order["wheel_sha256"] != self._wheel:
        command = bootstrap.agent(self._folder, self._order)
        os.execv(command[0], command)  # The agent of the revision ordered.
      if attempt > done:
        self._once(attempt)
        done = attempt
      self._terminated.wait(self._order["report_every_s"])
      with _going_on():
        self._order = self._read_order()
    return Exit.TERMINATED

  def _once(self, attempt: int) -> None:
    """Trains an attempt, unless this host has begun it before."""
    before = bootstrap.get(self._where(self._place.name))
    if before is not None:
      self._record = json.loads(before)
      if self._record["state"] == "running":  # The agent or machine crashed.
        self._tell_end(Exit.BUG, "its agent ended before it")
      return
    self._record = {"host": self._place.host, "address": self._place.address}
    self._record |= {"slice": self._place.slice, "worker": self._place.worker}
    self._tell(state="running", code=None, said="", notice=None)
    coordinator = self._await_coordinator(attempt)
    if coordinator is not None:
      self._train(attempt, coordinator)

  def _await_coordinator(self, attempt: int) -> str | None:
    """Returns the first host's address; None: the attempt is over before."""
    told = time.monotonic()
    deadline = told + _JOIN_S
    code, said, notice = Exit.HOST_LOST, "host 0-0 never came", None
    while time.monotonic() < deadline:
      with _going_on():
        if notice := self._notice(attempt):
          code, said = Exit.TERMINATED, "it had not begun"
          break
        found = bootstrap.get(self._where("0-0"))
        if found is not None:
          return json.loads(found)["address"]
        if time.monotonic() - told >= self._order["report_every_s"]:
          told = time.monotonic()
          self._tell()
      self._terminated.wait(_ASK_S)
    self._tell_end(code, said, notice=notice)
    return None

  def _train(self, attempt: int, coordinator: str) -> None:
    order = self._order
    root = bootstrap.root()
    (root / "logs").mkdir(exist_ok=True)
    log = root / "logs" / f"{attempt}-{self._place.name}.log"
    variables = flags.environment(
      self._place,
      coordinator,
      order["slices"],
      order["hosts_of_slice"],
      order["token"],
      str(root),
    )
    try:
      arguments = [self._recipe(attempt), *order["arguments"]]
    except ValueError as error:
      self._tell_end(Exit.MISTAKE, str(error))
      return
    work = root / "work"
    running = training.Training(arguments, variables, work, log)
    sender = _LogSender(self._folder, order["project"], self._place, attempt)
    told = time.monotonic()
    while (code := running.poll()) is None:
      time.sleep(_TICK_S)
      due = time.monotonic() - told >= order["report_every_s"]
      urgent = self._terminated.is_set() and not self._record["notice"]
      if not due and not urgent:
        continue
      told = time.monotonic()
      # The training goes on where the bucket does not answer for a while.
      with _going_on():
        if (notice := self._notice(attempt)) and not self._record["notice"]:
          running.end()
          self._record["notice"] = notice
        self._tell(said=running.last_line())
        sender.send(log)
    with _going_on():
      sender.send(log)
    self._tell_end(code, running.last_line())

  def _notice(self, attempt: int) -> str | None:
    """Returns why the training of an attempt has to end; None: it has not."""
    if self._terminated.is_set():
      return "shutdown"
    for path, word in _NOTICES.items():
      if not _in_pod() and bootstrap.metadata(path) == word:
        return path.rpartition("/")[2]
    order = self._read_order()
    if order["id"] != self._order["id"] or order["attempt"] > attempt:
      return "attempt"  # Another host failed, or another run began.
    return "stop" if order["stop"] else None

  def _recipe(self, attempt: int) -> str:
    """Returns the recipe's path on this host, or a shipped recipe's name.

    Raises:
      ValueError: the bucket lacks one of its files.
    """
    order = self._order
    folder = bootstrap.root() / f"recipe-{attempt}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in order["files"]:
      url = f"{self._folder}/recipe/{name}"
      content = bootstrap.get(url)
      if content is None:
        raise ValueError(
          f"The recipe needs {url}, got nothing there. `run` uploads it."
        )
      file = folder / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)
    return str(folder / order["recipe"]) if order["files"] else order["recipe"]

  def _read_order(self) -> dict[str, Any]:
    """Returns the order; the last one, where it was removed."""
    found = bootstrap.get(bootstrap.order_url(self._folder))
    return self._order if found is None else json.loads(found)

  def _where(self, name: str) -> str:
    """Returns the address of a host's record of the attempt."""
    order = self._order
    where = bootstrap.records(self._folder, order["id"], order["attempt"])
    return f"{where}/{name}.json"

  def _tell(self, **changes: Any) -> None:
    """Writes this host's record of the attempt, with changes."""
    self._record |= changes | {"updated": time.time()}
    content = json.dumps(self._record) + "\n"
    bootstrap.put(self._where(self._place.name), content.encode())

  def _tell_end(self, code: int, said: str, **changes: Any) -> None:
    """Writes how the attempt ended, for however long there is no answer."""
    while True:
      with _going_on():
        self._tell(state="exited", code=int(code), said=said, **changes)
        return
      time.sleep(_ASK_S)


class _LogSender:
  """Sends the end of a log to the bucket, and new lines to Cloud Logging."""

  def __init__(
    self, folder: str, project: str, where: place.Place, attempt: int
  ):
    self._object = bootstrap.log_url(folder, attempt, where.name)
    self._run = folder.rpartition("/")[2]
    self._project, self._place = project, where
    self._sent = 0

  def send(self, log: pathlib.Path) -> None:
    """Sends what is new in a log; in a pod, prints it for GKE's own agent."""
    with log.open("rb") as file:
      file.seek(self._sent)
      new = file.read()
      if not new:
        return
      self._sent = file.tell()
      file.seek(max(0, self._sent - _LOG_BYTES))
      bootstrap.put(self._object, file.read())
    text = new.decode(errors="replace")
    if _in_pod():
      print(text, end="", flush=True)
      return
    problem = cloud_log.send(
      self._project, self._run, self._place, text.splitlines()
    )
    if problem:
      print(f"Cloud Logging: {problem}", flush=True)


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
  """Prints an error of the network or of the metadata server, and goes on."""
  try:
    yield
  except bootstrap.NO_ANSWER as error:
    print(f"no answer: {error}", flush=True)


def _in_pod() -> bool:
  return bool(os.environ.get(bootstrap.VARIABLE))


def main() -> int:
  """Runs the agent of the folder and wheel that the command line names."""
  agent = Agent(*sys.argv[1:])
  signal.signal(signal.SIGTERM, agent.terminate)
  return agent.run()


if __name__ == "__main__":
  sys.exit(main())
