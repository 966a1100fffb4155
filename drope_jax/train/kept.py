"""What stays of a finished run without its checkpoints: its log and scores.

These two small files can be committed. They tell of which recipe they are, so a
sweep that finds them need not train again.
"""

from collections.abc import Mapping
import os
import pathlib
import shutil
from typing import Any

from drope_jax import artifacts
from drope_jax.analysis import records, runs
from drope_jax.checkpoint import manifest as manifests
from drope_jax.evals.suite import Suite
from drope_jax.train import claim, context, preflight
from drope_jax.train.phases import SurgeryPhase
from drope_jax.train.recipe import Recipe

RESULTS = "results.json"

_WRITER = artifacts.Writer(artifacts.VERSION)
"""`runs.load_results` returns a file in the form of this version."""


def copy(run: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies what is to stay of a run into a folder.

  Args:
    run: its folder, or that of an evaluation, which has no log.
    folder: new, or of an earlier copy.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for name in (records.METRICS, RESULTS):
    if (run / name).exists():
      # A copy that is cut short leaves no results.json.
      shutil.copy(run / name, folder / f"{name}.tmp")
      os.replace(folder / f"{name}.tmp", folder / name)


def has_results(folder: pathlib.Path, suite: Suite) -> bool:
  """Returns whether a folder has the finished results of a suite.

  Methods do not count, as models without RoPE have fewer; and a scale may have
  been fitted that the suite does not ask for.

  Raises:
    ValueError: it has those of another suite, or a damaged file.
  """
  file = folder / RESULTS
  if not file.exists():
    return False
  found = runs.load_results(file)
  if not found["finished"]:
    return False
  free = {"methods"}
  if suite.fit_factor is None:
    free |= {name for name in found["settings"] if name.startswith("fit_")}
  settings, wanted = (
    {name: value for name, value in fields.items() if name not in free}
    for fields in (found["settings"], artifacts.encode(suite, tagged=False))
  )
  changed = claim.differences(settings, wanted)
  if changed:
    raise ValueError(
      f"Kept results must be of the sweep's suite, got {file} with another "
      f"{', '.join(changed)}. Name another folder, or remove that file."
    )
  return True


def has_run(folder: pathlib.Path, suite: Suite, recipe: Recipe) -> bool:
  """Returns whether a folder has the log and results of a recipe's last model.

  Raises:
    FileNotFoundError: the checkpoint that the recipe starts from is missing.
    ValueError: the results are of another recipe or suite, or damaged.
  """
  if not (has_results(folder, suite) and (folder / records.METRICS).exists()):
    return False
  (model,) = runs.load_results(folder / RESULTS)["models"].values()
  changed = _differences(recipe, model["manifest"])
  if changed:
    raise ValueError(
      "Kept results must be of the sweep's own training, got "
      f"{folder / RESULTS} of another: {', '.join(changed)} differs. Name "
      "another folder, or remove that file."
    )
  return True


def _differences(recipe: Recipe, found: Mapping[str, Any]) -> list[str]:
  """Returns where a manifest differs from the recipe's last model."""
  start = context.start(recipe)
  past = [
    entry.time
    for entry in start.lineage
    if entry.operation != manifests.FITTED_SLOPE
  ]
  history = [
    entry
    for entry in found["lineage"]
    if entry["operation"] != manifests.FITTED_SLOPE
  ]
  first = len(history) - len(recipe.phases)
  own = history[max(first, 0) :]
  if [e["operation"] for e in own] != [phase.name for phase in recipe.phases]:
    return ["Recipe.phases"]
  changed = []
  if [entry["time"] for entry in history[:first]] != past:
    changed.append("Recipe.init_from" if past else "Recipe.model")
  ahead = [*preflight.phases(recipe, start.model)]
  for entry, (phase, _) in zip(own, ahead, strict=True):
    arguments = entry["arguments"]
    if isinstance(phase, SurgeryPhase):
      changed += _changes(phase.name, arguments["surgery"], phase.surgery)
      continue
    changed += [
      path
      for path in _changes(phase.name, arguments["phase"], phase)
      if path != f"{phase.name}.evals"
    ]
    if arguments["seed"] != recipe.seed:
      changed.append("Recipe.seed")
  return changed + _changes("ModelConfig", found["model"], ahead[-1][1])


def _changes(name: str, found: Any, value: Any) -> list[str]:
  filled = artifacts.fill_nested_defaults(found, value, _WRITER)
  return [*claim.differences(filled, artifacts.encode(value), name)]
