"""The version of the running code, which is stored in the files it writes."""

import pathlib
import subprocess

import drope_jax


def describe() -> str:
  """Returns e.g. "0.1.0+git.1a2b3c4d5e6f", with "-dirty" if files changed.

  Outside a git checkout of this project, it is the version alone.
  """
  version = drope_jax.__version__
  root = pathlib.Path(__file__).parents[1]
  # An enclosing repository is another project's.
  if not (root / ".git").exists():
    return version
  try:
    revision = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
      cwd=root, capture_output=True, text=True, timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return version
  return f"{version}+git.{revision}"
