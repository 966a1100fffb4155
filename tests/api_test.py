"""`import drope_jax as dj`: its names, and the code that documents it."""

import ast
import pathlib
import re

import jax
import numpy as np
import pytest

import drope_jax
from drope_jax import api
from drope_jax.checkpoint import store
from drope_jax.positional import PartialRope, Rope
from drope_jax.surgery import compose

ROOT = pathlib.Path(__file__).parents[1]


def _code(page: str) -> list[str]:
  """Returns the Python blocks of a page that are said to run."""
  text = (ROOT / page).read_text()
  return re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """The folder where the page's code has run, and its variables."""
  folder = tmp_path_factory.mktemp("library")
  names = {}
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for block in _code("docs/library.md"):
      exec(block, names)
  return folder, names


def test_the_pages_code_goes_from_a_checkpoint_to_an_export(ran):
  folder, names = ran
  base, dropped, model = (names[n] for n in ("base", "dropped", "model"))
  assert isinstance(base.config.positional, Rope)
  assert isinstance(dropped.config.positional, PartialRope)
  assert [e.operation for e in model.manifest.lineage][-2:] == [
    "surgery",
    "recalibrate",
  ]
  assert model.path == folder / "run/recalibrate"
  losses = {
    (row.model, row.factor): row.value
    for row in names["results"]
    if row.metric == "loss"
  }
  assert losses["base", 4.0] > losses["base", 1.0] + 0.3
  assert losses["recalibrated", 4.0] < losses["base", 4.0] - 0.3
  assert (folder / "hf/model.safetensors").exists()


def test_a_surgery_in_memory_is_the_recipes_own(ran):
  base, dropped = ran[1]["base"], ran[1]["dropped"]
  config, params = compose.apply(
    drope_jax.Surgery(drop="all", keep_rotations=1), base.config, base.params
  )
  assert dropped.config == config
  jax.tree.map(np.testing.assert_array_equal, dropped.params, params)
  assert dropped.path is None, "it is on no disk yet"
  entry = dropped.manifest.lineage[-1]
  assert entry.parent == str(base.path)


def test_what_is_saved_is_loaded_to_the_bit(ran):
  folder, names = ran
  loaded = drope_jax.load(folder / "dropped")
  assert loaded.manifest == names["dropped"].manifest
  jax.tree.map(
    np.testing.assert_array_equal, loaded.params, names["dropped"].params
  )
  assert store.fingerprint(folder / "dropped") == store.fingerprint(loaded.path)


def test_an_export_is_converted_back_to_the_bit(ran):
  folder, names = ran
  back = drope_jax.convert(str(folder / "hf"), folder / "back")
  assert back.config.positional == names["model"].config.positional
  jax.tree.map(
    np.testing.assert_array_equal, back.params, names["model"].params
  )


def test_the_readme_shows_the_pages_first_block():
  assert _code("docs/library.md")[0] in _code("README.md")


def test_every_name_of_the_package_is_the_apis():
  assert drope_jax.__all__ == api.__all__
  for name in api.__all__:
    assert getattr(drope_jax, name) is getattr(api, name)
  assert set(api.__all__) <= set(dir(drope_jax))
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    drope_jax.lod  # noqa: B018


def test_type_checkers_see_the_names_that_are_imported_late():
  tree = ast.parse((ROOT / "drope_jax/__init__.py").read_text())
  (late,) = [node for node in tree.body if isinstance(node, ast.If)]
  assert [alias.name for alias in late.body[0].names] == drope_jax.__all__
