"""What the processes of a run must agree in, and where they differ.

A process that differs compiles another program or makes another call. Then all
wait for each other for ever, or train with what only one of them was told.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import platform
from typing import Any

from etils import epath
import jax

import drope_jax
from drope_jax import artifacts, revision
from drope_jax.checkpoint import files, store
from drope_jax.data import inputs, paths, sources
from drope_jax.data import store as data_store
from drope_jax.train import batches
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

PACKAGES = (
  "jax",
  "jaxlib",
  "libtpu",
  "flax",
  "optax",
  "orbax-checkpoint",
  "tensorstore",
  "grain",
  "numpy",
)
SETTINGS = (
  "jax_platforms",
  "jax_enable_x64",
  "jax_default_matmul_precision",
  "jax_default_prng_impl",
  "jax_threefry_partitionable",
)
_ABSENT = "absent"
_FEW = 4


def describe(
  recipe: Recipe, out: str, base_dir: str | None, from_step: int | None
) -> dict[str, Any]:
  """Returns what this process is about to do, in JSON types, by item.

  Stores, tokenizer and checkpoint are represented by their stored hashes, so no
  array is read. What cannot be read is represented by its error; either the
  processes differ in it, or all raise it later.

  Args:
    recipe: to be run.
    out: the run's folder.
    base_dir: where paths of stores and tokenizer start.
    from_step: the step to resume from; None: the newest.
  """

  def read(read_one, *names, base_dir=base_dir):
    resolved = {name: str(paths.resolve(name, base_dir)) for name in names}
    return {name: _or_error(read_one, at) for name, at in resolved.items()}

  if recipe.tokenizer is not None:
    start = read(_hash, recipe.tokenizer)
  else:
    start = read(_hash_checkpoint, recipe.init_from, base_dir=None)
  texts = {
    name: _or_error(_hash_input, name)
    for phase in recipe.phases
    if isinstance(phase, TrainPhase) and phase.evals is not None
    for name in (*phase.evals.text, *phase.evals.fit_text)
  }
  return {
    "recipe": artifacts.encode(recipe),
    "--out": out,
    "--from-step": from_step,
    "saved steps": _or_error(store.finished_steps, out),
    "stores": read(_fingerprint, *batches.store_paths(recipe)),
    "start": start,
    "text of evals": texts,
    "code": {"revision": revision.describe(), "source": _source()},
    "versions": {"Python": platform.python_version(), **_versions()},
    "settings": {name: getattr(jax.config, name) for name in SETTINGS},
  }


def differences(
  facts: Mapping[int, Mapping[str, Any]], host_names: Mapping[int, str]
) -> str | None:
  """Returns the items in which processes differ, each by its first field.

  Args:
    facts: what `describe` returned, by process.
    host_names: by process.

  Returns:
    One line; None: they agree.
  """
  found = []
  for item in dict.fromkeys(itertools.chain(*facts.values())):
    leaves = {
      index: dict(_leaves(said.get(item, _ABSENT), item))
      for index, said in facts.items()
    }
    for field in dict.fromkeys(itertools.chain(*leaves.values())):
      values = {index: of.get(field, _ABSENT) for index, of in leaves.items()}
      if len({repr(value) for value in values.values()}) > 1:
        found.append(f"{field} is {by_value(values, host_names)}")
        break
  if not found:
    return None
  return (
    "The processes of a run must agree in all of this, but "
    f"{'; '.join(found)}. Start the same command, in the same environment, on "
    "each host."
  )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
  """Yields each scalar of JSON data, with its path."""
  if isinstance(value, Mapping) and value:
    for key, item in value.items():
      # The name of a class is the value of its field.
      field = path if key == "__class__" else f"{path}.{key}"
      yield from _leaves(item, field)
  elif isinstance(value, (list, tuple)) and value:
    for index, item in enumerate(value):
      yield from _leaves(item, f"{path}[{index}]")
  else:
    yield path, value


def by_value(values: Mapping[int, Any], host_names: Mapping[int, str]) -> str:
  """Returns "300 in process 0 on w-0, 400 in processes 1-2 on w-1, w-2"."""
  who: dict[str, list[int]] = {}
  for index, value in values.items():
    who.setdefault(repr(value) if value != _ABSENT else value, []).append(index)
  return ", ".join(
    f"{value} in process{'es' * (len(indices) > 1)} {_ranges(indices)}"
    f"{_on(indices, host_names)}"
    for value, indices in who.items()
  )


def _on(indices: list[int], host_names: Mapping[int, str]) -> str:
  """Returns " on w-1, w-2"; nothing for more hosts than a few."""
  known = dict.fromkeys(host_names[i] for i in indices if i in host_names)
  return f" on {', '.join(known)}" if 0 < len(known) <= _FEW else ""


def _ranges(indices: list[int]) -> str:
  runs: list[list[int]] = []
  for index in indices:
    if runs and index == runs[-1][-1] + 1:
      runs[-1].append(index)
    else:
      runs.append([index])
  return ", ".join(
    f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs
  )


def _or_error(read: Callable[[str], Any], path: str) -> Any:
  try:
    return read(path)
  except (OSError, ValueError) as error:
    return str(error)


def _hash(path: str | os.PathLike) -> str:
  return hashlib.sha256(epath.Path(path).read_bytes()).hexdigest()


def _hash_input(name: str) -> str:
  """Returns a hash of the files that an input of text names."""
  found, _ = inputs.expand([name])
  files = [x.path for x in found if isinstance(x, sources.File)]
  return hashlib.sha256("".join(map(_hash, files)).encode()).hexdigest()


def _fingerprint(path: str) -> str:
  return data_store.read_metadata(path).fingerprint


def _hash_checkpoint(path: str) -> str:
  # It has the manifest and the checksums of the arrays.
  return _hash(store.locate(path) / files.METADATA)


def _source() -> str:
  """Returns a hash of the package's modules."""
  root = pathlib.Path(drope_jax.__file__).parent
  modules = sorted(root.rglob("*.py"))
  hashes = [(str(m.relative_to(root)), _hash(m)) for m in modules]
  return hashlib.sha256(repr(hashes).encode()).hexdigest()


def _versions() -> dict[str, str]:
  found = {}
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found
