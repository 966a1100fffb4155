"""The settings and defaults in docs/data.md exist."""

import dataclasses
import pathlib
import re

from drope_jax.cli import configure, main
from drope_jax.data.pipeline import DataConfig
from drope_jax.train.recipe import Recipe

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```gin\n(.*?)^```$", TEXT, re.S | re.M)


def test_the_recipe_uses_only_the_sampled_store(tmp_path):
  (tmp_path / "own.gin").write_text(BLOCKS[0])
  recipe = configure.build(str(tmp_path / "own.gin"), Recipe)
  (line,) = re.findall(r"^drope (sample .*)$", TEXT, re.M)
  args = main.parser("sample").parse_args(line.split()[1:])
  assert recipe.init_from == args.checkpoint
  phase = recipe.phases[1]
  assert (f"stores/{phase.data.stores[0]}", phase.tokens) == (
    args.out,
    args.tokens,
  )


def test_the_settings_are_fields_and_show_their_defaults():
  *_, block = BLOCKS
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
