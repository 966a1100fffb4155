"""The folder of the shipped configs, which is found without jax."""

import pathlib

import drope_jax


def folder() -> pathlib.Path:
  """Returns the folder of the shipped configs."""
  package = pathlib.Path(drope_jax.__file__).parent
  # An installed package contains configs/; in a checkout it is beside it.
  inside = package / "configs"
  return inside if inside.is_dir() else package.parent / "configs"
