"""Compiled programs as files.

A file is a pickle: load only files of your own. The program runs on a slice of
the kind it was compiled for, with the same versions of jax and libtpu.
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
  """Returns a program, which is called like the function it was compiled from.

  Args:
    path: a file that `save` wrote.
    devices: to run on; all by default.
  """
  devices = jax.devices() if devices is None else devices
  with open(path, "rb") as file:
    payload, in_tree, out_tree = pickle.load(file)
  return serialize_executable.deserialize_and_load(
    payload, in_tree, out_tree, devices[0].client, devices
  )
