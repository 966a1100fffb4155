"""Importing does nothing, and costs nothing that was not asked for."""

import pkgutil
import subprocess
import sys

import drope_jax

_IMPORT_ALL = """
import importlib, os, sys
import jax  # Its own doing is not ours.
before = dict(os.environ)
names = sys.argv[1:]
commands = [name for name in names if name.startswith("drope_jax.cli")]
sys.modules["gin"] = None  # An import of it fails.
for name in {*names} - {*commands}:
  importlib.import_module(name)
del sys.modules["gin"]
for name in commands:
  importlib.import_module(name)
assert dict(os.environ) == before, "importing writes to the environment"
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a device was queried"
jax.devices()
assert xla_bridge.backends_are_initialized(), "the check proves nothing"
"""


def _library_modules() -> list[str]:
  return [
    module.name
    for module in pkgutil.walk_packages(drope_jax.__path__, "drope_jax.")
  ]


def _run(source: str, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-c", source, *arguments], capture_output=True, text=True
  )


def test_the_package_imports_only_itself():
  ran = _run("import sys, drope_jax; print(*sys.modules)")
  roots = {name.split(".")[0] for name in ran.stdout.split()}
  # What the environment's own start-up files import is not the package's.
  started = {*_run("import sys; print(*sys.modules)").stdout.split()}
  foreign = roots - {*sys.stdlib_module_names} - started
  assert foreign == {"drope_jax"}, ran.stderr


def test_imports_need_no_gin_and_touch_no_device_and_no_environment():
  """One process for all, as each takes seconds; gin is for `cli` alone."""
  names = _library_modules()
  assert "drope_jax.model.transformer" in names, "the walk found nothing"
  ran = _run(_IMPORT_ALL, *names)
  assert ran.returncode == 0, ran.stderr


def test_evals_import_no_jax():
  names = [n for n in _library_modules() if n.startswith("drope_jax.evals")]
  assert names, "the walk found nothing"
  source = """
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
assert "jax" not in sys.modules
"""
  ran = _run(source, *names)
  assert ran.returncode == 0, ran.stderr
