"""The installed package holds what its commands need."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("drope_jax", "launch", "configs", "setup.py", "pyproject.toml")
TEXTS = ("LICENSE", "MANIFEST.in", "README.md")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> pathlib.Path:
  """A copy of the sources, with bytecode as an import leaves it."""
  copy = tmp_path_factory.mktemp("copy")
  for name in SOURCES:
    if (ROOT / name).is_dir():
      ignored = shutil.ignore_patterns("__pycache__")
      shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    else:
      shutil.copy(ROOT / name, copy)
  for name in TEXTS:
    shutil.copy(ROOT / name, copy)
  for name in ("drope_jax", "launch", "launch/ways"):
    (copy / name / "__pycache__").mkdir()
    (copy / name / "__pycache__/x.cpython-312.pyc").touch()
  return copy


def _build(kind: str, sources: pathlib.Path) -> None:
  source = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
  ran = subprocess.run(
    [sys.executable, "-c", source], cwd=sources, capture_output=True, text=True
  )
  assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def installed(sources, tmp_path_factory) -> pathlib.Path:
  """A folder with the contents of the wheel."""
  _build("wheel", sources)
  (wheel,) = sources.glob("dist/*.whl")
  folder = tmp_path_factory.mktemp("site-packages")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder)
  return folder


def _files(folder: pathlib.Path) -> set[str]:
  return {
    str(path.relative_to(folder))
    for path in folder.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }


@pytest.mark.parametrize("folder", ["drope_jax", "launch", "configs"])
def test_every_file_of_the_package_is_installed(installed, folder):
  inside = "drope_jax/configs" if folder == "configs" else folder
  want = _files(ROOT / folder)
  assert want, "there is nothing to install"
  assert want <= _files(installed / inside)


def test_the_source_distribution_holds_no_bytecode(sources):
  _build("sdist", sources)
  (file,) = sources.glob("dist/*.tar.gz")
  with tarfile.open(file) as archive:
    names = archive.getnames()
  assert any(name.endswith("/launch/ways/way.py") for name in names)
  assert not [name for name in names if name.endswith(".pyc")]


def test_a_shipped_config_builds_from_the_installed_package(
  installed, tmp_path
):
  source = """
import drope_jax, pathlib, sys
assert pathlib.Path(drope_jax.__file__).parents[1] == pathlib.Path(sys.argv[1])
from drope_jax.cli import configure
from drope_jax.model import config
print(configure.build("models/tiny.gin", config.ModelConfig).width)
"""
  ran = subprocess.run(
    [sys.executable, "-c", source, str(installed)],
    cwd=tmp_path,
    env=os.environ | {"PYTHONPATH": str(installed)},
    capture_output=True,
    text=True,
  )
  assert ran.returncode == 0, ran.stderr
  assert ran.stdout == "48\n"


def test_the_console_commands_are_declared(installed):
  (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
  declared = entry_points.read_text()
  assert "drope = drope_jax.cli.main:main" in declared
  assert "drope-launch = launch.cli:main" in declared
  assert "drope-lm-eval = drope_jax.cli.harness:main" in declared
