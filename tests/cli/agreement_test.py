"""Whatever processes must agree in is compared, and what differs is named."""

import dataclasses
import json
import pathlib

import pytest

from drope_jax.checkpoint import files, store
from drope_jax.cli import agreement, configure
from drope_jax.train.recipe import Recipe


def _describe(*bindings, out="run", data=None, from_step=None):
  recipe = configure.build("tiny.gin", Recipe, list(bindings))
  facts = agreement.describe(recipe, out, data, from_step)
  return json.loads(json.dumps(facts))  # As it comes to the first process.


def _of(*facts):
  return agreement.differences(dict(enumerate(facts)), host_names={})


def test_processes_alike_agree(here):
  assert _of(_describe(), _describe(), _describe()) is None


def test_any_field_of_the_recipe_may_differ(here):
  facts = _describe()
  fields = [field.name for field in dataclasses.fields(Recipe)]
  assert {*fields} == facts["recipe"].keys() - {"__class__"}
  for field in fields:
    other = facts | {"recipe": facts["recipe"] | {field: "another"}}
    assert f"but recipe.{field}" in _of(facts, other)


@pytest.mark.parametrize(
  ("binding", "told"),
  [
    (
      "TrainPhase.steps = 3",
      "recipe.phases[0].steps is 2 in process 0, 3 in process 1",
    ),
    (
      "TrainPhase.optimizer = @Muon()",
      "recipe.phases[0].optimizer is 'AdamW' in process 0, 'Muon' in process 1",
    ),
    (
      "DataConfig.weights = (1.0,)",
      "recipe.phases[0].data.weights is [] in process 0, absent in process 1",
    ),
    (
      "Recipe.save_every_steps = 7",
      "recipe.save_every_steps is 500 in process 0, 7 in process 1",
    ),
  ],
)
def test_the_first_field_that_differs_is_named(here, binding, told):
  line = _of(_describe(), _describe(binding))
  assert line == (
    f"The processes of a run must agree in all of this, but {told}. Start the "
    "same command, in the same environment, on each host."
  )


def test_each_item_is_named_once_with_who_has_what(here):
  a, b = _describe(), _describe(out="other", from_step=3)
  b["versions"] |= {"jax": "0.0.1", "grain": "0.0.1"}
  b["code"]["revision"] = "0+git.ab"
  line = _of(a, a, b, a, a)
  for told in (
    "--out is 'run' in processes 0-1, 3-4, 'other' in process 2",
    "--from-step is None in processes 0-1, 3-4, 3 in process 2",
    f"code.revision is '{a['code']['revision']}' in",
    "'0.0.1' in process 2",
  ):
    assert told in line
  assert line.count("versions.") == 1


def test_stores_tokenizer_and_saved_steps_are_compared_as_they_are(here, drope):
  before = _describe(out="run")
  assert before["saved steps"] == [2]
  assert _of(before, _describe(data=str(here))) is None
  (here / "text.txt").write_text("Other text. " * 500)
  (here / "text").rename(here / "aside")
  line = _of(before, _describe())
  assert "stores.text is '" in line and "which does not exist" in line
  tokenize = "tokenize text.txt --tokenizer tiny.model --out text --workers 1"
  assert drope(*tokenize.split()).status == 0
  after = _describe()
  assert "stores.text is" in _of(before, after)
  assert "start" not in _of(before, after)
  with (here / "tiny.model").open("ab") as file:
    file.write(b"x")
  assert "start.tiny.model is" in _of(after, _describe())
  assert "saved steps[0] is 2 in process 0" in _of(after, _describe(out="new"))


def test_the_text_of_evals_is_compared_as_it_is(here):
  (here / "held.txt").write_text("one")
  evals = (
    "TrainPhase.evals = @Periodic()",
    "Periodic.suite = @Suite()",
    "Periodic.text = ('held.txt',)",
  )
  facts = _describe(*evals)
  (here / "held.txt").write_text("two")
  assert "text of evals" in _of(facts, _describe(*evals))
  (here / "held.txt").write_text("one")
  assert _of(facts, _describe(*evals)) is None


def test_a_checkpoint_to_start_from_is_compared_with_its_sums(here):
  recipe = dataclasses.replace(
    configure.build("tiny.gin", Recipe, []),
    model=None,
    tokenizer=None,
    init_from="run",
  )

  def describe():
    return agreement.describe(recipe, "new", "stores", None)

  before = describe()
  assert _of(before, describe()) is None
  file = store.locate("run") / files.METADATA
  file.write_text(file.read_text().replace("params/", "params-"))
  assert "start.run is '" in _of(before, describe())
  file.unlink()
  line = _of(before, describe())
  assert "start.run is '" in line and "a finished step, is needed" in line


def test_the_source_is_the_same_in_whatever_order_a_disk_lists_it(monkeypatch):
  want, listed = agreement._source(), pathlib.Path.rglob
  monkeypatch.setattr(
    pathlib.Path, "rglob", lambda *args: reversed([*listed(*args)])
  )
  assert agreement._source() == want
