#!/usr/bin/env python3
"""The start-up script of every host: makes its environment, and starts a unit.

Each boot runs it as root, a pod as its command. It finds done what it did
before. It is one file for the Python that an image brings, 3.8 or newer, and
needs nothing but its standard library; the training gets a Python of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

METADATA = "drope-launch"
"""The attribute of an instance that has the folder in the bucket."""
VARIABLE = "DROPE_LAUNCH"
"""The variable of a pod that has it."""
UNIT = "drope-train"
_UV = "uv==0.13.8"
_PYTHON = "3.12"
_TRIES = 6
_ASK_AGAIN_S = 5


def root() -> pathlib.Path:
  """Returns where all lies on a host."""
  return pathlib.Path(os.environ.get("DROPE_ROOT", "/opt/drope"))


def metadata(path: str) -> str | None:
  """Returns a value of the instance's metadata; None: there is none.

  Source: docs.cloud.google.com/compute/docs/metadata/querying-metadata.
  """
  host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/{path}",
    headers={"Metadata-Flavor": "Google"},
  )
  try:
    return _answer(request).decode()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return None
    raise


def token() -> str:
  """Returns an access token of the host's service account."""
  found = metadata("instance/service-accounts/default/token") or "{}"
  return json.loads(found).get("access_token", "")


def get(url: str) -> bytes | None:
  """Returns an object of a bucket; None: there is none.

  Source: Cloud Storage JSON API, Objects: get.
  """
  bucket, name = _split(url)
  quoted = urllib.parse.quote(name, safe="")
  address = f"{_storage()}/storage/v1/b/{bucket}/o/{quoted}?alt=media"
  try:
    return _answer(_authorized(address))
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return None
    raise


def put(url: str, content: bytes) -> None:
  """Writes an object of a bucket, whole.

  Source: Cloud Storage JSON API, Objects: insert.
  """
  bucket, name = _split(url)
  query = urllib.parse.urlencode({"uploadType": "media", "name": name})
  address = f"{_storage()}/upload/storage/v1/b/{bucket}/o?{query}"
  request = _authorized(address, content)
  request.add_header("Content-Type", "application/octet-stream")
  _answer(request)


def main() -> None:
  """Makes the environment, and starts the unit; in a pod it becomes it.

  What goes wrong is told to `watch` by an object under the host's name.
  """
  folder = os.environ.get(VARIABLE) or metadata(
    f"instance/attributes/{METADATA}"
  )
  if not folder:
    raise SystemExit(f"no {METADATA} in the instance's metadata")
  order = _await_order(folder)
  try:
    arguments = agent(folder, order)
    _prefer_large_pages()
    if os.environ.get(VARIABLE):
      os.execv(arguments[0], arguments)
    _start_unit(arguments)
  except Exception as error:
    traceback.print_exc()
    host = socket.gethostname()
    record = {
      "host": host,
      "state": "failed",
      "said": f"the start-up script of {host}: {error}",
      "updated": time.time(),
    }
    where = f"{folder}/hosts/{order['attempt']}/startup-{host}.json"
    put(where, json.dumps(record).encode() + b"\n")
    raise SystemExit(1) from error


def _await_order(folder: str) -> dict:
  """Returns what `run` wrote, once it has."""
  while True:
    found = get(f"{folder}/run.json")
    if found is not None:
      return json.loads(found)
    print(f"waiting for {folder}/run.json", flush=True)
    time.sleep(_ASK_AGAIN_S)


def agent(folder: str, order: dict) -> list:
  """Returns the agent's command, in the environment of an order's wheel."""
  python = str(_environment(folder, order))
  digest = order["wheel_sha256"]
  return [python, "-m", "launch.hosts.agent", folder, digest]


def _environment(folder: str, order: dict) -> pathlib.Path:
  """Returns the Python that has the wheel; it is made once for each wheel."""
  wheel, digest = order["wheel"], order["wheel_sha256"]
  venv = root() / f"venv-{digest[:16]}"
  python = venv / "bin" / "python"
  done = venv / "whole"
  if done.exists():
    return python
  shutil.rmtree(venv, ignore_errors=True)
  bundle = root() / "bundle"
  bundle.mkdir(parents=True, exist_ok=True)
  for name in (wheel, "lock.txt"):
    content = get(f"{folder}/{name}")
    if content is None:
      raise ValueError(f"{folder}/{name} is missing")
    (bundle / name).write_bytes(content)
  found = hashlib.sha256((bundle / wheel).read_bytes()).hexdigest()
  if found != digest:
    raise ValueError(f"{wheel} is not the one that `run` built")
  uv = _uv()
  _run(uv, "venv", "--python", _PYTHON, str(venv))
  _run(
    *(uv, "pip", "install", "--python", str(python)),
    *("--constraint", str(bundle / "lock.txt")),
    f"drope_jax[{order['extras']}] @ {(bundle / wheel).as_uri()}",
  )
  done.touch()
  return python


def _uv() -> str:
  """Returns the installer, which brings a Python where none is new enough."""
  if found := shutil.which("uv"):
    return found
  target = root() / "uv"
  if not (target / "bin" / "uv").exists():
    if subprocess.call([sys.executable, "-m", "pip", "--version"]):
      _run("apt-get", "update")
      _run("apt-get", "install", "--yes", "python3-pip")
    _run(
      *(sys.executable, "-m", "pip", "install", "--quiet"),
      *("--target", str(target), _UV),
    )
  return str(target / "bin" / "uv")


def _prefer_large_pages() -> None:
  # JAX asks for it on v5e and later: the runtime starts much faster.
  setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
  if os.access(str(setting), os.W_OK):
    setting.write_text("always")


def _start_unit(arguments: list) -> None:
  """Starts the unit, or leaves it running.

  It goes on after a crash of the agent, not after a clean end. SIGTERM comes to
  the agent alone, which hands it on and waits for the save.
  """
  lines = [
    "[Unit]",
    "Description=Trains with drope_jax",
    "After=network-online.target",
    "Wants=network-online.target",
    "[Service]",
    f"ExecStart={' '.join(arguments)}",
    f"Environment=DROPE_ROOT={root()}",
    "Restart=on-failure",
    "RestartSec=10",
    "KillMode=mixed",
    "TimeoutStopSec=600",
    "[Install]",
    "WantedBy=multi-user.target",
    "",
  ]
  units = pathlib.Path(os.environ.get("DROPE_UNITS", "/etc/systemd/system"))
  (units / f"{UNIT}.service").write_text("\n".join(lines))
  _run("systemctl", "daemon-reload")
  _run("systemctl", "start", f"{UNIT}.service")


def _run(*arguments: str) -> None:
  print(" ".join(arguments), flush=True)
  ran = subprocess.run(
    arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  print(ran.stdout, flush=True)
  if ran.returncode:
    said = " ".join(ran.stdout.split())[-400:]
    raise ValueError(f"`{arguments[0]} {arguments[1]}` failed: {said}")


def _split(url: str) -> tuple:
  bucket, _, name = url[len("gs://") :].partition("/")
  return bucket, name


def _storage() -> str:
  return os.environ.get(
    "STORAGE_EMULATOR_HOST", "https://storage.googleapis.com"
  )


def _authorized(
  address: str, content: bytes | None = None
) -> urllib.request.Request:
  request = urllib.request.Request(address, data=content)
  request.add_header("Authorization", f"Bearer {token()}")
  return request


def _answer(request: urllib.request.Request) -> bytes:
  for left in reversed(range(_TRIES)):
    try:
      with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()
    except OSError as error:
      # What the server refuses for good stays refused.
      code = getattr(error, "code", 500)
      if not left or (400 <= code < 500 and code not in (408, 429)):
        raise
      time.sleep(2 ** (_TRIES - left) / 4)
  raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
  main()
