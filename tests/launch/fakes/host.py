"""Fake programs on a host's PATH: systemctl and uv."""

import fcntl
import os
import pathlib
import shutil
import sys
import zipfile

CHIPS = pathlib.Path(__file__).with_name("chips.py")
FOLDER = pathlib.Path(__file__).parents[3]
sys.path.insert(0, str(FOLDER))

from tests.launch.fakes import cloud  # noqa: E402


def systemctl(args: list[str]) -> None:
  """Starts a unit that does not run yet."""
  if args[0] == "daemon-reload":
    return
  host = pathlib.Path(os.environ["FAKE_HOST"])
  unit = pathlib.Path(os.environ["DROPE_UNITS"]) / args[1]
  fields = [line.partition("=")[::2] for line in unit.read_text().splitlines()]
  pid = host / "unit.pid"
  if pid.exists() and cloud.alive(int(pid.read_text())):
    return
  variables = dict(os.environ)
  for name, value in fields:
    if name == "Environment":
      variables.update([value.partition("=")[::2]])
  (command,) = (value for name, value in fields if name == "ExecStart")
  cloud.spawn(host, "unit", command.split(), variables)


def uv(args: list[str]) -> None:
  """Makes environments from this Python's packages and the wheel."""
  if (pathlib.Path(os.environ["FAKE_HOST"]) / "boot_fails").exists():
    sys.exit("error: no solution found")
  if args[0] == "venv":
    folder = pathlib.Path(args[-1])
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin/python"
    python.write_text(
      f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return
  folder = pathlib.Path(args[args.index("--python") + 1]).parents[1]
  wheel = pathlib.Path(args[-1].partition("file://")[2])
  (folder / "site").symlink_to(_unpacked(wheel))


def _unpacked(wheel: pathlib.Path) -> pathlib.Path:
  """Returns a folder with the wheel's files, the same for all hosts."""
  sites = pathlib.Path(os.environ["FAKE_CLOUD"]) / "sites"
  sites.mkdir(exist_ok=True)
  with (sites / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    folder = sites / wheel.name
    if not folder.exists():
      with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
      shutil.copy(CHIPS, folder / "sitecustomize.py")
  return folder


if __name__ == "__main__":
  {"systemctl": systemctl, "uv": uv}[sys.argv[1]](sys.argv[2:])
