"""recipe.json: a run's folder belongs to the recipe that began it."""

from collections.abc import Mapping
import json
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils

from drope_jax import artifacts
from drope_jax.checkpoint import checksums, store
from drope_jax.data import lock, paths, whole_file
from drope_jax.train.recipe import Recipe

# Fields of a Recipe that change no number of the run, or by rounding alone, as
# the mesh does.
_WITHOUT_EFFECT = (
  "mesh",
  "compiler_options",
  "save_every_steps",
  "save_every_minutes",
  "keep_saves",
  "keep_every_steps",
  "log_every_steps",
  "stall_minutes",
  "profile_steps",
  "dump_xla",
  "read_workers",
  "prefetch_batches",
)

_OF_A_PHASE_WITHOUT_EFFECT = (
  "evals",
  "remat",
  "unroll",
  "loss_chunk_tokens",
)

_UNKNOWN_STARTS = (None, checksums.of_json({}))
"""What earlier versions wrote for a start from weights without checksums."""


def folder(
  recipe: Recipe, stores: Mapping[str, str], directory: epath.Path
) -> None:
  """Writes recipe.json, or checks that the folder belongs to this recipe.

  Every process of the run calls it. The first one writes, and the others wait.

  Args:
    recipe: to be run.
    stores: the fingerprints of `preflight.Checked`.
    directory: the run's.

  Raises:
    ValueError: the folder belongs to another recipe, was begun with other
      tokens in a store or from other weights, or holds other files.
  """
  file = directory / "recipe.json"
  encoded = _with_effect(artifacts.encode(recipe)) | {
    "stores": dict(stores),
    "start": _start(recipe),
  }
  if file.exists():
    _require_same(_begun(file, recipe), encoded, directory)
  elif directory.exists() and any(
    p.suffix != ".tmp" and p.name != lock.FILENAME for p in directory.iterdir()
  ):
    raise ValueError(
      f"A run needs a new folder, or its own, got {directory}, which holds "
      "other files. Choose another folder."
    )
  # No process writes before all have looked, so that all decide the same.
  multihost_utils.sync_global_devices("looked for recipe.json")
  if jax.process_index() == 0 and not file.exists():
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(artifacts.stamp(encoded), indent=1) + "\n"
    whole_file.write(file, content.encode())
  multihost_utils.sync_global_devices("recipe.json is there")


def _begun(file: epath.Path, recipe: Recipe) -> dict[str, Any]:
  """Returns the content of recipe.json in the form of this version."""
  data = _parse(file)
  try:
    fields, writer = artifacts.migrate(Recipe.__name__, data)
    stores = fields.pop("stores", None)
    start = fields.pop("start", None)
    if start in _UNKNOWN_STARTS:
      start = _start(recipe)
    filled = artifacts.fill_nested_defaults(fields, recipe, writer)
    return _with_effect(filled) | {"stores": stores, "start": start}
  except ValueError as error:
    raise ValueError(f"{file}: {error}") from error


def _start(recipe: Recipe) -> str | None:
  """Returns a hash of the weights that a run starts from, if they are saved."""
  if recipe.init_from is None:
    return None
  return store.weights_fingerprint(paths.resolve(recipe.init_from))


def _with_effect(encoded: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields that may not change between two starts of a run."""
  kept = {k: v for k, v in encoded.items() if k not in _WITHOUT_EFFECT}
  kept["phases"] = [
    {k: v for k, v in phase.items() if k not in _OF_A_PHASE_WITHOUT_EFFECT}
    for phase in encoded["phases"]
  ]
  return kept


def _require_same(begun: Any, encoded: Any, directory: epath.Path) -> None:
  changed = differences(begun, encoded)
  if [*changed] == ["start"]:
    raise ValueError(
      "A run goes on from the weights that it began with, got others in its "
      f"Recipe.init_from than {directory} was begun with. Put the old "
      "checkpoint back, or choose another folder."
    )
  fields = [
    _change(path, *values)
    for path, values in changed.items()
    if not path.startswith("stores")
  ]
  if fields:
    raise ValueError(
      f"A run continues with the recipe that began it, but {directory} was "
      f"begun with another: {', '.join(fields)}. Choose another folder, or "
      "remove that one."
    )
  if changed:
    names = ", ".join(path.removeprefix("stores.") for path in changed)
    raise ValueError(
      "A run reads on in the stores that it began with, got other tokens in "
      f"{names} than {directory} was begun with. Put the old store back, or "
      "choose another folder."
    )


def _change(path: str, before: Any, now: Any) -> str:
  if isinstance(before, dict | list) or isinstance(now, dict | list):
    return f"{path or 'its form'} differs"
  return f"{path} was {before!r} and is {now!r}"


def differences(a: Any, b: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
  """Returns where two JSON values differ: both values, by their path."""
  pairs: list[tuple[str, Any, Any]] | None = None
  if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
    pairs = [(f"{path}.{key}", a[key], b[key]) for key in a]
  elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
    both = enumerate(zip(a, b, strict=True))
    pairs = [(f"{path}[{i}]", x, y) for i, (x, y) in both]
  if pairs is None:
    return {} if a == b else {path.lstrip("."): (a, b)}
  found: dict[str, tuple[Any, Any]] = {}
  for inner, x, y in pairs:
    found |= differences(x, y, inner)
  return found


def _parse(file: epath.Path) -> Any:
  try:
    return json.loads(file.read_text())
  except ValueError as error:
    raise ValueError(
      f"A run's recipe.json must be whole JSON, got {file} ({error}). Copy it "
      "again, or start in another folder."
    ) from error
