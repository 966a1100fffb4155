"""What a training trains, and the model's weights as a function of it.

A step differentiates by what is trained alone: parameters, layers of them, and
adapters. The rest, the base, has neither gradients nor moments, and no step
copies it: it is what the training started from.
"""

from collections.abc import Mapping
import dataclasses
import fnmatch
import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import parameters, trees
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.train.lora import Lora
from drope_jax.train.phases import TrainPhase

_GROUP = re.compile(r"layers/(\d+)/")
_OF_LAYERS = re.compile(r"layers\[(-?\d+|-?\d*:-?\d*(?::-?\d*)?)\](/.+)?")


@dataclasses.dataclass(frozen=True)
class Tuning:
  """Which of a model's parameters a phase trains, and which it adapts.

  Attributes:
    chosen: the trained layers of each trained parameter, by its path; None:
      all of it.
    adapted: the same of kernels that have adapters.
    lora: the adapters; None: there are none.
    stacked: how many layers each adapted kernel has.
    frozen_dtype: of the base.
  """

  chosen: Mapping[str, tuple[int, ...] | None]
  adapted: Mapping[str, tuple[int, ...] | None]
  lora: Lora | None
  stacked: Mapping[str, int]
  frozen_dtype: str

  def start(self, params: transformer.Params, key: Array) -> transformer.Params:
    """Returns what is trained, in float32, as a tree like the model's.

    A parameter of which some layers are trained has these alone. Beside a
    kernel that is adapted there are lora_a and lora_b.

    Args:
      params: the model's.
      key: of the adapters.
    """
    flat = trees.flatten(params)
    trained = {
      path: _part(flat[path], layers).astype(jnp.float32)
      for path, layers in self.chosen.items()
    }
    for index, (path, layers) in enumerate(self.adapted.items()):
      assert self.lora is not None  # Something is adapted.
      N, in_size, out_size = flat[path].shape
      shape = (N if layers is None else len(layers), in_size, out_size)
      its_key = jax.random.fold_in(key, index)
      for name, x in self.lora.init(its_key, shape).items():
        trained[_beside(path, name)] = x
    return trees.unflatten(trained)

  def replaced(self, params: transformer.Params) -> dict[str, Array]:
    """Returns the arrays that `start` gives back as they are, by path."""
    return {
      path: x
      for path, x in trees.flatten(params).items()
      if self.chosen.get(path, ()) is None and x.dtype == jnp.float32
    }

  def base(self, params: transformer.Params) -> transformer.Params:
    """Returns what is not trained, or in some layers only, as it is kept."""
    return trees.unflatten(
      {
        path: x.astype(self.frozen_dtype)
        for path, x in trees.flatten(params).items()
        if self.chosen.get(path, ()) is not None
      }
    )

  def untouched(self, base: transformer.Params) -> transformer.Params:
    """Returns the base's leaves that a checkpoint holds unchanged."""
    return trees.unflatten(
      {
        path: x
        for path, x in trees.flatten(base).items()
        if path not in self.chosen and path not in self.adapted
      }
    )

  def weights(self, shapes: transformer.Params) -> dict[str, int]:
    """Returns how many weights of matrix products are frozen, and adapters'.

    By the names that `flops.of_token` has for them; shapes are the model's.
    """
    flat = trees.flatten(shapes)
    frozen = sum(
      flat[path].size
      - (_size(flat[path], self.chosen[path]) if path in self.chosen else 0)
      for path in parameters.multiplied(flat)
    )
    adapters = sum(
      (0 if self.lora is None else self.lora.rank)
      * sum(flat[path].shape[1:])
      * (self.stacked[path] if layers is None else len(layers))
      for path, layers in self.adapted.items()
    )
    return {"frozen": frozen, "adapters": adapters}

  def unmerged(
    self, base: transformer.Params, trained: transformer.Params
  ) -> transformer.Params:
    """Returns a model's parameters without what its adapters add.

    Args:
      base: as of `base`.
      trained: as of `start`, in whose dtypes its parameters come back.
    """
    flat, moved = trees.flatten(base), trees.flatten(trained)
    for path, layers in self.chosen.items():
      flat[path] = _replaced(flat.get(path), layers, moved[path])
    return trees.unflatten(flat)

  def adapters(self, trained: transformer.Params) -> transformer.Adapters:
    """Returns adapters as the model takes them: of all layers, and scaled."""
    moved, found = trees.flatten(trained), {}
    for path, layers in self.adapted.items():
      a, b = (moved[_beside(path, name)] for name in ("lora_a", "lora_b"))
      assert self.lora is not None  # Something is adapted.
      b *= self.lora.scale
      if layers is not None:
        of_all = ((self.stacked[path], *x.shape[1:]) for x in (a, b))
        a, b = (
          _replaced(jnp.zeros(shape), layers, x)
          for shape, x in zip(of_all, (a, b), strict=True)
        )
      projection, _, _ = path.rpartition(trees.SEPARATOR)
      found[projection] = transformer.Adapter(a, b)
    return found

  def model(
    self, base: transformer.Params, trained: transformer.Params
  ) -> transformer.Params:
    """Returns the parameters of a model without adapters, that computes alike.

    Args as of `unmerged`. Kernels keep their dtypes: where that is bfloat16,
    they are rounded to it.
    """
    flat = trees.flatten(self.unmerged(base, trained))
    moved = trees.flatten(trained)
    for path, layers in self.adapted.items():
      a, b = (moved[_beside(path, name)] for name in ("lora_a", "lora_b"))
      merged = _merged(self.lora, _part(flat[path], layers), a, b)
      flat[path] = _replaced(flat[path], layers, merged)
    return trees.unflatten(flat)


def of(phase: TrainPhase, shapes: transformer.Params) -> Tuning:
  """Returns what a phase trains of a model.

  Args:
    phase: a training.
    shapes: the model's parameters, or their shapes.

  Raises:
    ValueError: a pattern of the phase's names nothing.
  """
  flat = trees.flatten(shapes)
  kernels = {
    path: x
    for path, x in flat.items()
    if parameters.describe(path).role is parameters.Role.PROJECTION
  }
  lora = phase.lora
  if phase.trainable is not None:
    chosen = _choose(phase, phase.trainable, flat)
  else:
    chosen = {} if lora is not None else dict.fromkeys(flat)
  adapted = {} if lora is None else _choose(phase, lora.projections, kernels)
  if both := sorted(chosen.keys() & adapted.keys()):
    raise ValueError(
      f"{phase.name}: what has adapters is frozen, got {', '.join(both)} among "
      "TrainPhase.trainable and Lora.projections. Name it once."
    )
  stacked = {path: flat[path].shape[0] for path in adapted}
  return Tuning(chosen, adapted, lora, stacked, phase.frozen_dtype)


@functools.partial(jax.jit, static_argnums=0)
def _merged(lora, kernel, a, b):
  return lora.merged(kernel, a, b)


def _beside(path: str, name: str) -> str:
  return path.rpartition(trees.SEPARATOR)[0] + trees.SEPARATOR + name


def _part(x, layers):
  return x if layers is None else x[_index(layers)]


def _size(x, layers):
  return x.size if layers is None else x.size // x.shape[0] * len(layers)


def _replaced(whole, layers, x):
  """Returns an array whose layers are others, in the dtype of those."""
  if layers is None:
    return x
  return jnp.asarray(whole, x.dtype).at[_index(layers)].set(x)


def _choose(phase, patterns, flat):
  """Returns the layers of what patterns name, by path; None: all of it."""
  found: dict[str, set[int]] = {}
  for pattern in patterns:
    for path, layers in _named(phase, pattern, flat).items():
      found.setdefault(path, set()).update(layers)
  return {
    path: None if len(layers) == flat[path].shape[0] else tuple(sorted(layers))
    for path, layers in found.items()
    if layers
  }


def _named(phase, pattern, flat):
  """Returns places on the first axis of what a pattern names, by path.

  Where layers are of several groups, a pattern names them as if they were of
  one, and its index is among all layers.
  """
  match = _OF_LAYERS.fullmatch(pattern)
  glob = f"layers{match[2] or ''}" if match else pattern
  paths = [
    path
    for path in flat
    if _matches(glob, path) or _matches(glob, _GROUP.sub("layers/", path))
  ]
  if not paths:
    raise ValueError(
      f"{phase.name}: a pattern must name parameters by their paths, got "
      f"{pattern!r}, which names none of {', '.join(flat)}. Correct it."
    )
  part = _slice(match[1]) if match else slice(None)
  firsts, num_layers = _firsts(flat)
  named = {}
  for path in paths:
    places = range(flat[path].shape[0])
    group = _GROUP.match(path)
    if match and group:
      first = firsts[group[0]]
      named[path] = [n - first for n in range(num_layers)[part]]
      named[path] = [n for n in named[path] if n in places]
    else:
      named[path] = places[part]
  if not any(named.values()):
    raise ValueError(
      f"{phase.name}: a pattern must name layers that there are, got "
      f"{pattern!r} for {num_layers} of them, from 0 on. Correct it."
    )
  return named


def _firsts(flat):
  """Returns the first layer of each group, by its path, and how many there are.

  Without groups, there are as many as the stacked parameters lead with.
  """
  sizes = {}
  for path, x in flat.items():
    if group := _GROUP.match(path):
      sizes[int(group[1])] = x.shape[0]
    elif path.startswith("layers/"):
      return {}, x.shape[0]
  stops = [*itertools.accumulate(sizes[i] for i in sorted(sizes))]
  firsts = [0, *stops]
  return {f"layers/{i}/": firsts[i] for i in sizes}, stops[-1]


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
