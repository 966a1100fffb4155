"""A project on disk: its resources follow a script, its hosts are processes.

A resource takes its next state whenever a command reads it, so no test waits by
a clock. Once active, it boots hosts: local processes, each with an address of
127/8, a folder, and metadata in files.
"""

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

WAITING, PROVISIONING, ACTIVE = "waiting", "provisioning", "active"
PREEMPTED, STOCKOUT, QUOTA, FAILED = "preempted", "stockout", "quota", "failed"
DELETING = "deleting"
METADATA = "metadata/computeMetadata/v1"


class Cloud:
  """The project in a folder; many processes may open it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  @contextlib.contextmanager
  def state(self) -> Iterator[dict[str, Any]]:
    """Gives exclusive access to the state, and stores its changes."""
    with (self.folder / "lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      file = self.folder / "state.json"
      found = json.loads(file.read_text()) if file.exists() else {}
      for part in ("resources", "script"):
        found.setdefault(part, {})
      try:
        yield found
      finally:  # A refusal changes the script, too.
        file.write_text(json.dumps(found, indent=1))

  def write_script(self, **script: Any) -> None:
    """Sets what will happen.

    Args:
      script: `creates`: for each created resource its states in turn, by
        default active at once; `delete_fails`, `create_fails`: errors of the
        next deletions and creations; `absent`: hosts that never boot;
        `boot_fails`: hosts that cannot install the environment; `denied`: hosts
        that may not read the bucket.
    """
    with self.state() as state:
      state["script"].update(script)

  def names(self) -> list[str]:
    """Returns the existing resources, as KIND/NAME."""
    with self.state() as state:
      return sorted(state["resources"])

  def hosts(self) -> list[pathlib.Path]:
    """Returns the folders of the existing hosts."""
    return sorted(self.folder.glob("hosts/*"))

  def preempt(self, kind: str, name: str, warned: bool = False) -> None:
    """Takes the machines of a resource back.

    Args:
      kind, name: of the resource.
      warned: whether they are warned, and have time to save.
    """
    with self.state() as state:
      resource = state["resources"].get(f"{kind}/{name}")
      if resource is None or resource["standing"] != ACTIVE:
        return
      resource["standing"] = PREEMPTED
      resource["coming"] = []
    for host in self.hosts():
      if (host / "of").read_text() == f"{kind}/{name}":
        if warned:
          _warn(host)
        _kill(host)

  def boot(self, key: str, machine: Mapping[str, Any]) -> None:
    """Starts a host's process.

    Args:
      key: of the resource.
      machine: `name`, `worker`, `slice`; `command`, `variables` and `metadata`.
    """
    host = self.folder / "hosts" / machine["name"]
    shutil.rmtree(host, ignore_errors=True)
    for inner in ("units", "root"):
      (host / inner).mkdir(parents=True)
    (host / "of").write_text(key)
    with self.state() as state:
      number = state["script"]["next"] = state["script"].get("next", 1) + 1
      script = dict(state["script"])
    place = f"{machine['slice']}-{machine['worker']}"
    if place in script.get("absent", ()):
      return
    if place in script.get("boot_fails", ()):
      (host / "boot_fails").touch()
    net = script.get("net", 1)
    address = f"127.{net}.{number // 200}.{number % 200 + 1}"
    for name, value in {
      "instance/name": machine["name"],
      "instance/network-interfaces/0/ip": address,
      "instance/preempted": "FALSE",
      "instance/maintenance-event": "NONE",
      "instance/service-accounts/default/token": '{"access_token": "secret"}',
      **{f"instance/attributes/{k}": v for k, v in machine["metadata"].items()},
    }.items():
      file = host / METADATA / name
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_text(value)
    web = os.environ["FAKE_METADATA"]
    variables = os.environ | {
      "GCE_METADATA_HOST": f"{web}/hosts/{machine['name']}/metadata",
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": f"http://{web}/logging/",
      "DROPE_ROOT": str(host / "root"),
      "DROPE_UNITS": str(host / "units"),
      "FAKE_HOST": str(host),
      "PATH": f"{self.folder / 'host-bin'}:{os.environ['PATH']}",
    }
    if place in script.get("denied", ()):
      variables["STORAGE_EMULATOR_HOST"] = f"http://{web}/denied"
    variables |= machine["variables"] | {"POD_IP": address}
    command = [
      sys.executable if w == "python3" else w for w in machine["command"]
    ]
    spawn(host, "boot", command, variables)

  def forget(self, key: str) -> None:
    """Ends the hosts of a resource that is deleted."""
    for host in self.hosts():
      if (host / "of").read_text() == key:
        _kill(host)
        shutil.rmtree(host)


def spawn(
  host: pathlib.Path, name: str, command: list[str], variables: dict[str, str]
) -> None:
  """Starts a process of a host, in a group of its own."""
  with (host / f"{name}.log").open("ab") as log:
    process = subprocess.Popen(
      command,
      env=variables,
      cwd=host,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=log,
      start_new_session=True,
    )
  (host / f"{name}.pid").write_text(str(process.pid))


def alive(pid: int) -> bool:
  """Returns whether a process runs, and is no zombie."""
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
  except OSError:
    return False
  return stat.rpartition(")")[2].split()[0] != "Z"


def _warn(host: pathlib.Path) -> None:
  (host / METADATA / "instance/preempted").write_text("TRUE")
  unit = host / "unit.pid"
  file = unit if unit.exists() else host / "boot.pid"  # A pod has no unit.
  pid = int(file.read_text())
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, signal.SIGTERM)
  deadline = time.monotonic() + 60
  while alive(pid) and time.monotonic() < deadline:
    time.sleep(0.05)


def _kill(host: pathlib.Path) -> None:
  for file in host.glob("*.pid"):
    with contextlib.suppress(ProcessLookupError):
      os.killpg(int(file.read_text()), signal.SIGKILL)
