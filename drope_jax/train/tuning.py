"""What a training trains, and the model's weights as a function of it.

A step differentiates by what is trained alone. The rest, the base, has neither
gradients nor moments, and no step copies it: it is what the training started
from.
"""

from collections.abc import Mapping
import dataclasses
import fnmatch
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from drope_jax import trees
from drope_jax.model import transformer
from drope_jax.train.recipe import TrainPhase

_OF_LAYERS = re.compile(r"layers\[(-?\d+|-?\d*:-?\d*(?::-?\d*)?)\](/.+)?")


@dataclasses.dataclass(frozen=True)
class Tuning:
  """Which of a model's parameters a phase trains.

  Attributes:
    chosen: the trained layers of each trained parameter, by its path; None:
      all of it.
    frozen_dtype: of the base.
  """

  chosen: Mapping[str, tuple[int, ...] | None]
  frozen_dtype: str

  def start(self, params: transformer.Params) -> transformer.Params:
    """Returns what is trained of a model, in float32, as a tree like its own.

    A parameter of which some layers are trained has these alone.
    """
    flat = trees.flatten(params)
    return trees.unflatten(
      {
        path: (
          flat[path] if layers is None else flat[path][_index(layers)]
        ).astype(jnp.float32)
        for path, layers in self.chosen.items()
      }
    )

  def base(self, params: transformer.Params) -> transformer.Params:
    """Returns what is not trained, or in some layers only, as it is kept."""
    return trees.unflatten(
      {
        path: x.astype(self.frozen_dtype)
        for path, x in trees.flatten(params).items()
        if self.chosen.get(path, ()) is not None
      }
    )

  def model(
    self, base: transformer.Params, trained: transformer.Params
  ) -> transformer.Params:
    """Returns a model's parameters.

    Args:
      base: as of `base`.
      trained: as of `start`, in whose dtypes its parameters come back.
    """
    flat = trees.flatten(base)
    for path, x in trees.flatten(trained).items():
      layers = self.chosen[path]
      if layers is not None:
        x = jnp.asarray(flat[path], x.dtype).at[_index(layers)].set(x)
      flat[path] = x
    return trees.unflatten(flat)


def of(phase: TrainPhase, shapes: transformer.Params) -> Tuning:
  """Returns what a phase trains of a model.

  Args:
    phase: a training.
    shapes: the model's parameters, or their shapes.

  Raises:
    ValueError: a pattern of the phase's names nothing.
  """
  return Tuning(_choose(phase, shapes), phase.frozen_dtype)


def _choose(phase, shapes):
  flat = trees.flatten(shapes)
  if phase.trainable is None:
    return dict.fromkeys(flat)
  found: dict[str, set[int]] = {}
  for pattern in phase.trainable:
    for path, layers in _named(phase, pattern, flat).items():
      found.setdefault(path, set()).update(layers)
  return {
    path: None if len(layers) == flat[path].shape[0] else tuple(sorted(layers))
    for path, layers in found.items()
  }


def _named(phase, pattern, flat):
  """Returns places on the first axis of what a pattern names, by path."""
  match = _OF_LAYERS.fullmatch(pattern)
  glob = f"layers{match[2] or ''}" if match else pattern
  paths = [path for path in flat if _matches(glob, path)]
  if not paths:
    raise ValueError(
      f"{phase.name}: a pattern must name parameters by their paths, got "
      f"{pattern!r}, which names none of {', '.join(flat)}. Correct it."
    )
  part = _slice(match[1]) if match else slice(None)
  named = {path: range(flat[path].shape[0])[part] for path in paths}
  if not all(named.values()):
    raise ValueError(
      f"{phase.name}: a pattern must name layers that there are, got "
      f"{pattern!r} for {flat[paths[0]].shape[0]} of them, from 0 on. Correct "
      "it."
    )
  return named


def _matches(glob: str, path: str) -> bool:
  below = glob + trees.SEPARATOR + "*"
  return any(fnmatch.fnmatchcase(path, pattern) for pattern in (glob, below))


def _slice(text: str) -> slice:
  if ":" not in text:
    return slice(int(text), int(text) + 1 or None)
  return slice(*(int(part) if part else None for part in text.split(":")))


def _index(layers: tuple[int, ...]) -> Any:
  first, last = layers[0], layers[-1]
  if last - first + 1 == len(layers):
    return slice(first, last + 1)
  return np.array(layers)
