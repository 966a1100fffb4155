"""`drope recipes` lists the shipped configs, and prints one for copying."""

import subprocess
import sys

import pytest

from drope_jax.cli import configure, recipes, shipped
from drope_jax.evals.suite import Suite
from drope_jax.model.config import ModelConfig
from drope_jax.train.recipe import Recipe
from drope_jax.train.sweep import Sweep

ROOTS = {
  "recipes": Recipe,
  "models": ModelConfig,
  "evals": Suite,
  "sweeps": Sweep,
}
FILES = sorted(shipped.folder().rglob("*.gin"))


@pytest.mark.parametrize("columns", [60, 80])
def test_the_list_shows_each_config_and_its_purpose(
  columns, drope, monkeypatch
):
  monkeypatch.setenv("COLUMNS", str(columns))
  ran = drope("recipes")
  assert ran.status == 0
  lines = ran.out.splitlines()
  assert max(map(len, lines)) <= columns
  listed = [line.split()[0] for line in lines if line[2:3].strip()]
  kinds = {"recipes", "models", "evals", "sweeps"}
  assert sorted({*listed} - kinds) == sorted({file.stem for file in FILES})
  assert "Every phase of DroPE in seconds" in " ".join(ran.out.split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_header_begins_with_a_sentence(file):
  assert recipes.purpose(file).endswith((".", ":"))
  assert len(recipes.purpose(file)) < 240


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_copied_config_builds_the_same_from_any_folder(file, drope, tmp_path):
  name = f"{file.parent.name}/{file.stem}"
  copied = tmp_path / "mine.gin"
  copied.write_text(drope("recipes", name).out)
  root = ROOTS[file.parent.name]
  assert configure.build(str(copied), root) == configure.build(str(file), root)


def test_a_name_without_a_folder_means_a_recipe_first(drope):
  text = (shipped.folder() / "recipes" / "demo_live.gin").read_text()
  assert drope("recipes", "demo_live").out == text
  assert "phases = " in drope("recipes", "tiny").out
  assert "num_layers = " in drope("recipes", "models/tiny.gin").out


def test_the_error_for_an_unknown_name_suggests_similar_ones(drope):
  ran = drope("recipes", "lama2_7b_drop")
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "Did you mean llama2_7b_drope" in ran.err


def test_they_are_shown_without_jax():
  source = """
import sys
from drope_jax.cli import main
assert main.main(["recipes", "tiny"]) == 0
assert "jax" not in sys.modules
"""
  ran = subprocess.run(
    [sys.executable, "-c", source], capture_output=True, text=True
  )
  assert ran.returncode == 0, ran.stderr
