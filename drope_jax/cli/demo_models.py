"""The demo's models, except the one that it trains live."""

import dataclasses
import pathlib

from drope_jax.analysis import records
from drope_jax.cli import configure, termination, train
from drope_jax.cli import console as consoles
from drope_jax.cli import progress as progress_lib
from drope_jax.data import paths
from drope_jax.train.recipe import Recipe

RECIPES = {
  "base": "demo_base",
  "continued": "demo_continued",
  "partial": "demo_partial",
  "full": "demo_drope",
}
"""The recipe of each model, which is also the name of its checkpoint."""


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained model.

  Attributes:
    checkpoint: its folder.
    log: metrics.jsonl of the run that trained it.
  """

  checkpoint: pathlib.Path
  log: pathlib.Path


def packaged() -> dict[str, Trained]:
  """Returns the packaged models by name."""
  found = {}
  for name, recipe in RECIPES.items():
    folder = paths.resolve(f"packaged:checkpoints/{recipe}")
    log = folder.with_name(f"{recipe}.{records.METRICS}")
    found[name] = Trained(pathlib.Path(folder), pathlib.Path(log))
  return found


def from_scratch(
  out: pathlib.Path, console: consoles.Console
) -> dict[str, Trained]:
  """Trains the models in folders of `out`, on the stores in out/data.

  The base comes first, because the others start from it.
  """
  found: dict[str, Trained] = {}
  for name, config in RECIPES.items():
    overrides = starting_from(found["base"].checkpoint) if found else ()
    recipe = configure.build(f"recipes/{config}.gin", Recipe, overrides)
    console.rule(f"training: {name}")
    with (
      termination.stop_request("demo") as request,
      progress_lib.TrainingProgress(recipe, console) as show,
    ):
      train.run_loop(
        request, recipe, out / name, base_dir=str(out / "data"), on_metrics=show
      )
    last = out / name / recipe.phases[-1].name
    found[name] = Trained(last, out / name / records.METRICS)
  return found


def starting_from(base: pathlib.Path) -> tuple[str, ...]:
  """Returns the overrides that start a recipe from a checkpoint."""
  return (f"Recipe.init_from = '{base.absolute()}'",)
