"""The launcher's verbs, their mistakes in a line, and what they import."""

import dataclasses
from importlib import metadata
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import launch as package
from launch import bundle, cli, commands, order, slice

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "launch/slices/v5e-16-spot.toml"


@pytest.mark.parametrize("verb", cli._VERBS)
def test_every_verb_shows_its_commands_without_a_project(
  verb, launch, monkeypatch
):
  for name in slice._VARIABLES.values():
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("PATH", "")  # It runs none.
  words = ["recipes/tiny.gin"] if verb == "run" else []
  status, out, err = launch(verb, *words, "--config", CONFIG, "--dry-run")
  assert (status, err) == (0, "")
  shown = [json.loads(line) for line in out.splitlines() if line[:1] == "["]
  assert shown and all(command[0] == "gcloud" for command in shown)
  assert any("PROJECT" in word for command in shown for word in command) or (
    verb in ("logs", "stop")
  )


def test_what_render_prints_can_be_pasted_into_a_shell(launch, monkeypatch):
  monkeypatch.setenv("DROPE_LAUNCH_PROJECT", "my-project")
  monkeypatch.setenv("DROPE_LAUNCH_BUCKET", "gs://my-bucket/drope")
  status, out, _ = launch("render", "--config", CONFIG)
  shown = out.partition("# Once for a project\n")[2].partition("\n\n")[0]
  documented = (ROOT / "docs/tpu.md").read_text()
  assert status == 0 and shown.startswith("gcloud services enable")
  assert f"launch/slices/v5e-16-spot.toml\n{shown}\n```" in documented


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (("create", "--config", "none.toml"), "none.toml: No such file"),
    (("create",), "the following arguments are required: --config"),
    (("launch", "--config", CONFIG), "invalid choice: 'launch'"),
    (("create", "--config", CONFIG), "gcloud is needed, got none on PATH"),
    (("watch", "--conf", CONFIG), "the following arguments are required"),
    (("run", "no.gin", "--config", CONFIG), "A recipe is a file, or a shipped"),
    (
      ("run", "recipes/tiny.gin", "--config", CONFIG, "--data", "stores"),
      "--data must be gs://BUCKET/..., which all hosts can read, got stores",
    ),
    (("ssh", "--config", CONFIG, "--host", "4"), "must be 0 to 3, got 4"),
  ],
)
def test_a_mistake_is_one_line(words, told, launch, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PATH", "")
  monkeypatch.setenv("DROPE_LAUNCH_PROJECT", "p")
  monkeypatch.setenv("DROPE_LAUNCH_BUCKET", "gs://b")
  status, _, err = launch(*words)
  assert status == 2
  assert told in err and err.count("\n") == 1


def test_without_a_project_only_a_dry_run_goes_on(launch, monkeypatch):
  for name in slice._VARIABLES.values():
    monkeypatch.delenv(name, raising=False)
  status, _, err = launch("create", "--config", CONFIG)
  assert status == 2 and "DROPE_LAUNCH_PROJECT" in err


def test_delete_asks_first(launch, monkeypatch):
  monkeypatch.setenv("PATH", "")
  monkeypatch.setenv("DROPE_LAUNCH_PROJECT", "p")
  monkeypatch.setenv("DROPE_LAUNCH_BUCKET", "gs://b")
  monkeypatch.setattr("builtins.input", lambda prompt: "")
  status, out, err = launch("delete", "--config", CONFIG)
  assert (status, err) == (1, "") and "Nothing was deleted" in out

  def without_terminal(prompt):
    raise EOFError

  monkeypatch.setattr("builtins.input", without_terminal)
  status, _, err = launch("delete", "--config", CONFIG)
  assert status == 2 and "Pass --yes" in err


@pytest.mark.parametrize(
  "words",
  [
    ("watch", "--look-every-s", "-5"),
    ("watch", "--join-s", "x"),
    ("watch", "--retries", "-3"),
  ],
)
def test_times_and_counts_that_cannot_be_are_refused(launch, words):
  verb, flag, value = words
  status, _, err = launch(verb, "--config", CONFIG, f"{flag}={value}")
  assert status == 2 and f"got '{value}'" in err and err.count("\n") == 1


def test_a_clone_that_is_not_installed_is_said(monkeypatch):
  def missing(name):
    raise bundle.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(bundle.metadata, "requires", missing)
  with pytest.raises(ValueError, match="Run `pip install -e"):
    bundle.lock()


def test_a_log_that_begins_within_a_character_is_shown():
  code = r"import sys; sys.stdout.buffer.write(b'\x94 step 1')"
  said = commands.run(commands.Command((sys.executable, "-c", code)))
  assert said.endswith(" step 1")


def test_a_second_run_waits_for_the_first(bucket, google, launch, tmp_path):
  google.write_script(creates=[["waiting"] * 9])
  (tmp_path / "w.whl").write_bytes(b"wheel")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bundle, "build_wheel", lambda folder: tmp_path / "w.whl")
    run = ("run", "recipes/tiny.gin", "--config", CONFIG)
    assert launch(*run)[0] == 0
    status, _, err = launch(*run)
    assert status == 2 and "has one run at a time" in err
    assert launch("stop", "--config", CONFIG)[0] == 0
    assert launch(*run)[0] == 0
  rented = slice.read(CONFIG, {}, placeholders=True)
  found = bucket.get_file(
    "bucket", f"drope/launch/{rented.name}/{order.url(rented)[-8:]}"
  )
  given = order.Order(**json.loads(found))
  assert (given.attempt, given.stop) == (2, False)
  assert given.token not in str(google.commands())
  assert given.arguments[-2:] == ["--topology", "v5e-16"]
  assert launch("delete", "--yes", "--config", CONFIG)[0] == 0


def test_a_recipe_brings_the_files_that_it_includes(tmp_path):
  folder = tmp_path / "mine"
  (folder / "parts").mkdir(parents=True)
  recipe = folder / "r.gin"
  recipe.write_text("include 'parts/a.gin'\ninclude 'models/tiny.gin'\n")
  (folder / "parts/a.gin").write_text("")
  assert bundle.recipe_files(str(recipe)).keys() == {"r.gin", "parts/a.gin"}
  assert bundle.recipe_files("recipes/tiny.gin") == {}
  (tmp_path / "b.gin").write_text("")
  recipe.write_text("include '../b.gin'\n")
  with pytest.raises(ValueError, match="must lie in its folder"):
    bundle.recipe_files(str(recipe))
  recipe.write_text("include 'none.gin'\n")
  with pytest.raises(FileNotFoundError, match="includes 'none.gin'"):
    bundle.recipe_files(str(recipe))


def test_the_lock_has_the_versions_that_are_installed():
  found = dict(line.split("==") for line in bundle.lock().splitlines())
  for name in ("jax", "jaxlib", "orbax-checkpoint", "gcsfs"):
    assert found[name] == metadata.version(name)
  assert "pytest" not in found and "torch" not in found


def test_a_shipped_recipes_own_includes_are_in_the_wheel():
  files = bundle.recipe_files(str(ROOT / "configs/evals/demo.gin"))
  assert list(files) == ["demo.gin"]


def test_importing_it_imports_no_jax():
  names = [
    module.name
    for module in pkgutil.walk_packages(package.__path__, "launch.")
    if module.name != "launch.__main__"
  ]
  assert "launch.hosts.agent" in names, "the walk found nothing"
  source = """
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
assert not {"jax", "flax", "numpy"} & set(sys.modules)
"""
  ran = subprocess.run(
    [sys.executable, "-c", source, *names], capture_output=True, text=True
  )
  assert ran.returncode == 0, ran.stderr


def test_an_order_of_another_version_is_told():
  rented = slice.read(CONFIG, {}, placeholders=True)
  fields = {field.name: 0 for field in dataclasses.fields(order.Order)}
  text = json.dumps(fields | {"more": 1})
  with pytest.raises(ValueError, match="must be of this version"):
    order.read(rented, lambda command: text)
