"""docs/data.md names settings that there are, with the defaults it says."""

import dataclasses
import pathlib
import re

from drope_jax.data.pipeline import DataConfig
from drope_jax.train.recipe import Recipe

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text()


def test_the_settings_are_fields_and_recipe_shows_its_defaults():
  (block,) = re.findall(r"^```gin\n(.*?)^```$", TEXT, re.S | re.M)
  data, recipe = (
    {field.name: field.default for field in dataclasses.fields(kind)}
    for kind in (DataConfig, Recipe)
  )
  indented = re.findall(r"^  (\w+) = ", block, re.M)
  assert set(indented) == data.keys()
  named = re.findall(r"^Recipe\.(\w+) = (\d+)$", block, re.M)
  assert len(named) == 2
  for name, value in named:
    assert recipe[name] == int(value)
