"""Compiled programs as files.

A file is a pickle, so load only what you made. It runs on a slice as the one
that it was compiled for, by the same versions of jax and libtpu.
"""

from collections.abc import Sequence
import os
import pickle

import jax
from jax.experimental import serialize_executable


def save(compiled: jax.stages.Compiled, path: os.PathLike) -> None:
  """Writes a program."""
  with open(path, "wb") as file:
    pickle.dump(serialize_executable.serialize(compiled), file)


def load(
  path: os.PathLike, devices: Sequence[jax.Device] | None = None
) -> jax.stages.Compiled:
  """Returns a program, to be called as the function that it was made of.

  Args:
    path: what `save` wrote.
    devices: to run on, by default all.
  """
  devices = jax.devices() if devices is None else devices
  with open(path, "rb") as file:
    payload, in_tree, out_tree = pickle.load(file)
  return serialize_executable.deserialize_and_load(
    payload, in_tree, out_tree, devices[0].client, devices
  )
