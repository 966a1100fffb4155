#!/usr/bin/env python3
"""The start-up script of every host: makes its environment, and starts a unit.

A machine runs it as root at each boot, a pod as its command. It does not repeat
what an earlier boot has done. It is one file, and needs only the image's
Python, 3.8 or newer. The training gets a newer one.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import zipfile

METADATA = "drope-launch"
"""The instance attribute that names the folder in the bucket."""
FAILED = "failed"
"""The guest attribute, under METADATA, of a start-up script that failed."""
VARIABLE = "DROPE_LAUNCH"
"""The environment variable that names the folder in a pod."""
UNIT = "drope-train"
NO_ANSWER = (OSError, http.client.HTTPException)
"""What a request raises; the second if its answer is cut off."""
_UV = (
  "https://files.pythonhosted.org/packages/c5/32/"
  "52ee34636aea1ab3f8baeeae1c3599461b8cddfb379862cc72ac61b8d91c/"
  "uv-0.13.8-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
)
_UV_SHA256 = "e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984"
_UV_PROGRAM = "uv-0.13.8.data/scripts/uv"
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
  try:
    return _answer(_of_metadata(path)).decode()
  except urllib.error.HTTPError as error:
    if error.code == 404:
      return None
    raise


def _of_metadata(
  path: str, content: bytes | None = None
) -> urllib.request.Request:
  """Returns a request that reads a value of the metadata, or writes it."""
  host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
  return urllib.request.Request(
    f"http://{host}/computeMetadata/v1/{path}",
    data=content,
    headers={"Metadata-Flavor": "Google"},
    method="GET" if content is None else "PUT",
  )


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
  """Makes the environment and starts the unit; in a pod, becomes the agent.

  A failure is written where `watch` finds it.
  """
  folder = order = None
  try:
    folder = os.environ.get(VARIABLE) or metadata(
      f"instance/attributes/{METADATA}"
    )
    if not folder:
      raise ValueError(f"the instance's metadata has no {METADATA}")
    order = _await_order(folder)
    arguments = agent(folder, order)
    _prefer_large_pages()
    if os.environ.get(VARIABLE):
      os.execv(arguments[0], arguments)
    _start_unit(arguments)
  except Exception as error:
    traceback.print_exc()
    said = report(error, folder, order)
    # A pod's last line is what Kubernetes shows of it.
    raise SystemExit(f"the start-up script failed: {said}") from error


def order_url(folder: str) -> str:
  """Returns the address of the order in a folder."""
  return f"{folder}/run.json"


def records(folder: str, run: str, attempt: int) -> str:
  """Returns the folder of the hosts' records of an attempt of a run."""
  return f"{folder}/hosts/{run}/{attempt}"


def log_url(folder: str, attempt: int, place: str) -> str:
  """Returns the address of the log of a host, SLICE-WORKER, in an attempt."""
  return f"{folder}/logs/{attempt}/{place}.log"


def report(error: Exception, folder: str | None, order: dict | None) -> str:
  """Writes a failure to the bucket; else to the instance's guest attributes.

  Returns:
    What it said of the failure.

  Source: docs.cloud.google.com/compute/docs/metadata/manage-guest-attributes.
  """
  url = getattr(error, "url", None)  # An HTTPError does not print it.
  said = f"{error} for {url}"[-500:] if url else str(error)[-500:]
  in_pod = os.environ.get(VARIABLE)
  host = None if in_pod else metadata("instance/name")
  host = host or socket.gethostname()
  record = {"host": host, "state": "failed", "said": said}
  content = json.dumps({**record, "updated": time.time()}).encode() + b"\n"
  if folder and order:
    try:
      where = records(folder, order["id"], order["attempt"])
      put(f"{where}/startup-{host}.json", content)
      return said
    except NO_ANSWER:
      traceback.print_exc()
  if not in_pod:
    path = f"instance/guest-attributes/{METADATA}/{FAILED}"
    _answer(_of_metadata(path, content))
  return said


def _await_order(folder: str) -> dict:
  """Returns what `run` wrote, once it has."""
  url = order_url(folder)
  while True:
    found = get(url)
    if found is not None:
      return json.loads(found)
    print(f"waiting for {url}", flush=True)
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
  """Returns the installer, which brings a Python if none is new enough.

  It is taken from its wheel: images have no pip, and apt is locked for the
  first minutes after a boot.
  """
  if found := shutil.which("uv"):
    return found
  program = root() / "uv"
  if not program.exists():
    wheel = _answer(urllib.request.Request(_UV))
    if hashlib.sha256(wheel).hexdigest() != _UV_SHA256:
      raise ValueError(f"{_UV} is not the file that this version was tested on")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
      content = archive.read(_UV_PROGRAM)
    partial = root() / "uv.partial"
    partial.write_bytes(content)
    partial.chmod(0o755)
    partial.rename(program)
  return str(program)


def _prefer_large_pages() -> None:
  # JAX asks for it on v5e and later: the TPU runtime then starts faster.
  setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
  if os.access(str(setting), os.W_OK):
    setting.write_text("always")


def _start_unit(arguments: list) -> None:
  """Starts the unit, unless it runs.

  systemd restarts the agent if it crashes. SIGTERM goes to the agent alone,
  which passes it on to the training and waits for the save.
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
    program = pathlib.Path(arguments[0]).name
    raise ValueError(f"`{program} {arguments[1]}` failed: {said}")


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
    except NO_ANSWER as error:
      # Most of the server's refusals (4xx) are final.
      code = getattr(error, "code", 500)
      if not left or (400 <= code < 500 and code not in (408, 429)):
        raise
      time.sleep(2 ** (_TRIES - left) / 4)
  raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
  main()
