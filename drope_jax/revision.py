"""The code revision that goes into what it writes."""

import pathlib
import subprocess

import drope_jax


def describe() -> str:
  """Returns "0.1.0+git.1a2b3c4d5e6f", "-dirty" after it if files changed.

  Only the version where the package does not lie in its own git checkout.
  """
  version = drope_jax.__version__
  root = pathlib.Path(__file__).parents[1]
  if not (root / ".git").exists():  # An outer repository is not this code's.
    return version
  try:
    revision = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
      cwd=root, capture_output=True, text=True, timeout=10, check=True,
    ).stdout.strip()  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return version
  return f"{version}+git.{revision}"
