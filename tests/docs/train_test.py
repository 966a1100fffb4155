"""docs/train.md: its recipe builds, and its table names what there is."""

import dataclasses
import pathlib
import re

from drope_jax import exits, sharding
from drope_jax.cli import configure
from drope_jax.model import remat
from drope_jax.train.phases import TrainPhase
from drope_jax.train.recipe import Recipe

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "train.md").read_text()


def test_its_recipe_is_one(tmp_path):
  (block,) = re.findall(r"^```gin\n(.*?)^```$", TEXT, re.S | re.M)
  (tmp_path / "r.gin").write_text(block)
  recipe = configure.build(str(tmp_path / "r.gin"), Recipe)
  assert recipe.phases[1].held_out.data.stores == ("held_out",)


def test_its_table_names_fields_and_every_remat_policy():
  rows = dict(re.findall(r"^\| (`.*`) \| (.*) \|$", TEXT, re.M))
  named = re.findall(r"`(\w+)`", " ".join(rows))
  assert {*named} <= {f.name for f in dataclasses.fields(TrainPhase)}
  assert {*re.findall(r"`(\w+)`", rows["`remat`"])} == {*remat.POLICIES}


def test_its_table_of_meshes_is_the_presets():
  table = TEXT.split("| preset |")[1].split("\n\n")[0]
  rows = dict(re.findall(r"^\| (\w+) \| (.*?) \|", table, re.M))
  assert list(rows) == list(sharding.PRESETS)
  for name, sizes in rows.items():
    sizes = dict(re.findall(r"`(\w+)` (-?\d+)", sizes))
    sizes = {"fsdp": 1} | {axis: int(size) for axis, size in sizes.items()}
    assert sharding.PRESETS[name] == sharding.MeshConfig(**sizes)


def test_its_table_of_statuses_is_the_commands():
  table = TEXT.split("| status |")[1].split("\n\n")[0]
  named = {
    int(n)
    for n in re.findall(
      r"\d+", " ".join(row.split("|")[1] for row in table.splitlines()[2:])
    )
  }
  told = {*exits.Exit} - {exits.Exit.DOES_NOT_FIT, exits.Exit.KILLED}
  assert named - {128} == told
