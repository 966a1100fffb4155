"""The model that a recipe starts from, by its options."""

from drope_jax.cli import configure
from drope_jax.model.config import ModelConfig
from drope_jax.train import preflight
from drope_jax.train.recipe import Recipe


def start_config(recipe: Recipe, model: str | None) -> ModelConfig:
  """Returns the config that a recipe's first phase starts from.

  Args:
    recipe: to be started.
    model: --model.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the recipe has a model, and --model gives another.
  """
  if model is None:
    return preflight.start_config(recipe)
  if recipe.model is not None:
    raise ValueError(
      "--model is of a recipe that starts from a checkpoint, got one that has "
      "its own. Leave it out."
    )
  return configure.build(model, ModelConfig)
