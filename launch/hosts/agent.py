"""The unit on every host: trains what the bucket orders, and tells how it goes.

The order, run.json, names an attempt. For each new one the agent starts a
training; its record, hosts/ATTEMPT/SLICE-WORKER.json, has its exit status. What
has ended is never begun again in its attempt, whatever boots or crashes.
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
_JOIN_S = 900
_LOG_BYTES = 1 << 20
_NOTICES = {
  "instance/preempted": "TRUE",
  "instance/maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE",
}
"""Metadata that says that the machine is about to go, and its word for it.

Source: docs.cloud.google.com/compute/docs/instances/create-use-spot;
cloud.google.com/compute/docs/gpus/gpu-host-maintenance.
"""


class Agent:
  """What the unit does on one host."""

  def __init__(self, folder: str, wheel: str):
    """Reads the order.

    Args:
      folder: of the run, in the bucket.
      wheel: the SHA-256 of the one that this agent is from.
    """
    self._folder, self._wheel = folder, wheel
    self._order: dict[str, Any] = {}
    self._order = self._read_order()
    self._place = place.find(self._order["slices"])
    self._terminated = threading.Event()
    self._record: dict[str, Any] = {}

  def terminate(self, *_) -> None:
    """Notes SIGTERM, with which a machine or pod is taken back."""
    self._terminated.set()

  def run(self) -> int:
    """Returns once a training ended well, or SIGTERM came."""
    done = 0
    while not self._terminated.is_set():
      attempt = self._order["attempt"]
      if self._order["wheel_sha256"] != self._wheel:
        self._become_its_agent()
      if attempt > done:
        code = self._once(attempt)
        if code == 0:
          return 0
        done = attempt
      self._terminated.wait(self._order["report_every_s"])
      self._order = self._read_order()
    return Exit.TERMINATED

  def _become_its_agent(self) -> None:
    """Goes on as the agent of another revision, which `run` has brought."""
    command = bootstrap.agent(self._folder, self._order)
    os.execv(command[0], command)

  def _once(self, attempt: int) -> int:
    """Returns the exit status of an attempt's training, run here or before."""
    before = bootstrap.get(self._where(attempt))
    if before is not None:
      self._record = json.loads(before)
      if self._record["state"] == "running":  # The agent crashed, or a reboot.
        self._tell(
          state="exited", code=int(Exit.BUG), said="its agent ended before it"
        )
      return self._record["code"]
    self._record = {"host": self._place.host, "address": self._place.address}
    self._record |= {"slice": self._place.slice, "worker": self._place.worker}
    self._tell(state="running", code=None, said="", notice=None)
    if self._order["stop"]:
      self._tell(state="exited", code=int(Exit.TERMINATED), notice="stop")
      return self._record["code"]
    coordinator = self._await_coordinator(attempt)
    if coordinator is None:
      said = "host 0-0 never came"
      self._tell(state="exited", code=int(Exit.HOST_LOST), said=said)
      return Exit.HOST_LOST
    return self._train(attempt, coordinator)

  def _await_coordinator(self, attempt: int) -> str | None:
    """Returns the first host's address, once its record has it."""
    deadline = time.monotonic() + _JOIN_S
    while time.monotonic() < deadline and not self._terminated.is_set():
      found = bootstrap.get(f"{self._folder}/hosts/{attempt}/0-0.json")
      if found is not None:
        return json.loads(found)["address"]
      time.sleep(_TICK_S)
    return None

  def _train(self, attempt: int, coordinator: str) -> int:
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
    arguments = [self._recipe(attempt), *order["arguments"]]
    work = root / "work"
    running = training.Training(arguments, variables, work, log)
    sender = _LogSender(self._folder, order["project"], self._place, attempt)
    told = time.monotonic()
    while (code := running.poll()) is None:
      time.sleep(_TICK_S)
      # A bucket that does not answer for a while ends no training.
      with _going_on():
        if self._terminated.is_set():
          self._end(running, "shutdown")
        if time.monotonic() - told >= order["report_every_s"]:
          told = time.monotonic()
          self._look(running, attempt)
          self._tell(said=running.last_line())
          sender.send(log)
    with _going_on():
      sender.send(log)
    self._tell(state="exited", code=code, said=running.last_line())
    return code

  def _look(self, running: training.Training, attempt: int) -> None:
    """Ends the training where metadata or the order say so."""
    for path, word in _NOTICES.items():
      if not _in_pod() and bootstrap.metadata(path) == word:
        self._end(running, path.rpartition("/")[2])
    order = self._read_order()
    if order["attempt"] == attempt and order["stop"]:
      self._end(running, "stop")
    elif order["attempt"] > attempt:  # Another host failed; all begin anew.
      self._end(running, "attempt")

  def _end(self, running: training.Training, notice: str) -> None:
    running.end()
    if self._record["notice"] is None:
      self._tell(notice=notice)

  def _recipe(self, attempt: int) -> str:
    """Returns the recipe's path on this host, or a shipped one's name."""
    order = self._order
    folder = bootstrap.root() / f"recipe-{attempt}"
    shutil.rmtree(folder, ignore_errors=True)
    for name in order["files"]:
      file = folder / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(bootstrap.get(f"{self._folder}/recipe/{name}") or b"")
    return str(folder / order["recipe"]) if order["files"] else order["recipe"]

  def _read_order(self) -> dict[str, Any]:
    found = bootstrap.get(f"{self._folder}/run.json")
    return self._order if found is None else json.loads(found)

  def _where(self, attempt: int) -> str:
    return f"{self._folder}/hosts/{attempt}/{self._place.name}.json"

  def _tell(self, **changes: Any) -> None:
    self._record |= changes | {"updated": time.time()}
    attempt = self._order["attempt"]
    content = json.dumps(self._record) + "\n"
    bootstrap.put(self._where(attempt), content.encode())


class _LogSender:
  """Sends a log's end to the bucket, and what is new to Cloud Logging."""

  def __init__(
    self, folder: str, project: str, where: place.Place, attempt: int
  ):
    self._object = f"{folder}/logs/{attempt}/{where.name}.log"
    self._run = folder.rpartition("/")[2]
    self._project, self._place = project, where
    self._sent = 0

  def send(self, log: pathlib.Path) -> None:
    """Sends what a log has gained; in a pod, GKE's own agent reads it."""
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
  try:
    yield
  except OSError as error:
    print(f"Not told: {error}", flush=True)


def _in_pod() -> bool:
  return bool(os.environ.get(bootstrap.VARIABLE))


def main() -> int:
  """Runs the agent of the folder and wheel that the command line names."""
  agent = Agent(*sys.argv[1:])
  signal.signal(signal.SIGTERM, agent.terminate)
  return agent.run()


if __name__ == "__main__":
  sys.exit(main())
