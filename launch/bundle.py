"""What a run uploads: this revision as a wheel, locked versions, the recipe."""

from collections.abc import Iterator
import hashlib
from importlib import metadata
import pathlib
import re
import subprocess
import sys
import tempfile

from launch import bucket
from launch.commands import Command

EXTRAS = "tpu,gcs"
_ROOT = pathlib.Path(__file__).parents[1]
_INCLUDE = re.compile(r"""^\s*include\s+['"](.+)['"]""", re.M)


def build_wheel(folder: pathlib.Path) -> pathlib.Path:
  """Builds the wheel of the checkout that contains this file.

  Raises:
    ValueError: there is no checkout, or the build failed.
  """
  if not (_ROOT / "setup.py").exists():
    raise ValueError(
      "A wheel of this revision needs its sources, got an installed package in "
      f"{_ROOT}. Run `python -m launch` in a clone of the repository."
    )
  with tempfile.TemporaryDirectory() as build:
    ran = subprocess.run(
      [sys.executable, "-c", _BUILD, build, str(folder)],
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )
  if ran.returncode:
    said = " ".join(ran.stderr.split())[-400:]
    raise ValueError(
      f"The wheel could not be built ({said}). Install setuptools 77 or newer."
    )
  (wheel,) = folder.glob("*.whl")
  return wheel


# The build's own files go to a temporary folder, not into the checkout.
_BUILD = """
import runpy, sys
sys.argv = ["setup.py", "--quiet", "egg_info", "--egg-base", sys.argv[1],
            "build", "--build-base", sys.argv[1],
            "bdist_wheel", "--dist-dir", sys.argv[2]]
runpy.run_path("setup.py", run_name="__main__")
"""


def lock() -> str:
  """Returns the installed versions of the package's dependencies.

  A file of constraints for pip. It leaves out what is not installed here, such
  as libtpu, whose version jax[tpu] fixes.

  Raises:
    ValueError: the package itself is not installed.
  """
  found: dict[str, str] = {}
  try:
    waiting = list(_requirements("drope_jax", set(EXTRAS.split(","))))
  except metadata.PackageNotFoundError as error:
    raise ValueError(
      "A bundle pins the versions of an installed package, got a clone that is "
      "not installed. Run `pip install -e .` in it."
    ) from error
  while waiting:
    name, extras = waiting.pop()
    if name in found:
      continue
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
    waiting.extend(_requirements(name, extras))
  return "".join(f"{name}=={found[name]}\n" for name in sorted(found))


def _requirements(
  name: str, extras: set[str]
) -> Iterator[tuple[str, set[str]]]:
  for line in metadata.requires(name) or ():
    wanted, _, marker = line.partition(";")
    if (extra := re.search(r"extra == ['\"](.+?)['\"]", marker)) and (
      extra[1] not in extras
    ):
      continue
    named = re.match(r"([\w.-]+)(?:\[([\w,\s-]+)\])?", wanted.strip())
    assert named is not None, f"a requirement begins with a name: {wanted!r}"
    of = {part.strip() for part in (named[2] or "").split(",")} - {""}
    yield re.sub(r"[-_.]+", "-", named[1]).lower(), of


def recipe_files(recipe: str) -> dict[str, pathlib.Path]:
  """Returns the files of a recipe, by their path from its folder.

  Shipped recipes, and shipped files that a recipe includes, are left out: the
  wheel contains them.

  Raises:
    FileNotFoundError: a file is missing, and no shipped one has its name.
    ValueError: it includes a file outside its folder.
  """
  path = pathlib.Path(recipe)
  if not path.is_file():
    if not (_shipped() / recipe).is_file():
      raise FileNotFoundError(
        f"A recipe is a file, or a shipped one's name, got {recipe!r}. `drope "
        "recipes` lists those."
      )
    return {}
  found: dict[str, pathlib.Path] = {}
  waiting = [path]
  while waiting:
    file = waiting.pop()
    name = _relative(file, path.parent)
    if name in found:
      continue
    found[name] = file
    for included in _INCLUDE.findall(file.read_text("utf-8")):
      if (file.parent / included).is_file():
        waiting.append(file.parent / included)
      elif not (_shipped() / included).is_file():
        raise FileNotFoundError(
          f"{file} includes {included!r}, which is no file. Correct it."
        )
  return found


def _shipped() -> pathlib.Path:
  checkout = _ROOT / "configs"
  return checkout if checkout.is_dir() else _ROOT / "drope_jax" / "configs"


def _relative(file: pathlib.Path, folder: pathlib.Path) -> str:
  try:
    return file.resolve().relative_to(folder.resolve()).as_posix()
  except ValueError as error:
    raise ValueError(
      f"A recipe's files must lie in its folder, {folder}, got {file}. Name a "
      "shipped file by its name, such as models/tiny.gin, or move it there."
    ) from error


def digest(file: pathlib.Path) -> str:
  """Returns a file's SHA-256."""
  return hashlib.sha256(file.read_bytes()).hexdigest()


def uploads(
  folder: str,
  wheel: pathlib.Path,
  lock_file: pathlib.Path,
  files: dict[str, pathlib.Path],
) -> list[Command]:
  """Returns the commands that upload the bundle to a folder of the bucket."""
  return [
    bucket.copy(str(wheel), f"{folder}/{wheel.name}"),
    bucket.copy(str(lock_file), f"{folder}/lock.txt"),
    *(
      bucket.copy(str(file), f"{folder}/recipe/{name}")
      for name, file in sorted(files.items())
    ),
  ]
