"""lm-evaluation-harness from `drope evaluate`, and our model in lm_eval."""

import json
import sys

import pytest

from drope_jax.cli import harness
from drope_jax.evals.harness import library

pytest.importorskip("lm_eval", reason="needs the extra eval")


@pytest.fixture
def task(tmp_path, monkeypatch):
  """The file of a task with two questions."""
  monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
  rows = [
    {"question": "The sea", "choices": ["is blue", "of"], "answer": 0},
    {"question": "A ship", "choices": ["a", "sails on and on"], "answer": 1},
  ]
  data = tmp_path / "choose.jsonl"
  data.write_text("\n".join(map(json.dumps, rows)))
  config = {
    "task": "choose",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(data)}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
  }
  file = tmp_path / "choose.yaml"
  file.write_text(json.dumps(config))
  return str(file)


@pytest.fixture
def registered():
  """Our model in lm_eval's registry, which is as it was afterwards."""
  registry = library.module("api.registry").model_registry
  before = dict(registry._objs)
  harness.register()
  yield
  registry._objs.clear()
  registry._objs.update(before)


def test_both_ways_to_a_task_have_the_same_answers(
  trained, drope, task, tmp_path, registered
):
  checkpoint = trained / "run"
  command = ("evaluate", checkpoint, "--eval", "harness", "--tasks", task)
  ran = drope(*command, "--out", tmp_path / "out")
  assert ran.status == 0, ran.err
  assert "choose: acc_norm" in ran.out and "1x" in ran.out
  results = json.loads((tmp_path / "out" / "results.json").read_text())
  assert results["settings"]["factors"] == [1.0]
  assert [m["name"] for m in results["metrics"]["choose"]][:2] == [
    "acc",
    "acc_norm",
  ]
  rows = {row["metric"]: row for row in results["rows"]}
  assert rows["acc"]["count"] == 2 and rows["acc"]["task"] == "choose"

  tasks = library.module("tasks")
  found = library.module("evaluator").simple_evaluate(
    "drope",
    model_args=f"checkpoint={checkpoint}",
    tasks=[task],
    task_manager=tasks.TaskManager(include_defaults=False),
    bootstrap_iters=0,
    torch_random_seed=None,
  )
  for metric in ("acc", "acc_norm"):
    outcomes = [sample[metric] for sample in found["samples"]["choose"]]
    assert rows[metric]["outcomes"] == outcomes


def test_model_arguments_are_lengths_and_bos(trained, registered):
  make = library.module("api.registry").get_model("drope")
  model = make.create_from_arg_string(
    f"checkpoint={trained / 'run'},context_tokens=64,begin_with_bos=True",
    {"batch_size": 4, "device": None},
  )
  assert model.max_length == 64
  assert model.tok_encode("sea")[0] == model.lm.bos_id
  assert model.tok_encode("sea", False) == model.lm.encode("sea")


@pytest.mark.parametrize(
  "asked", [[], ["--eval", "perplexity"], ["--eval", "harness,perplexity"]]
)
def test_tasks_are_of_the_harness(drope, asked):
  ran = drope("evaluate", "runs/tiny", "--tasks", "piqa", *asked)
  assert ran.status == 2
  assert "--tasks names tasks for --eval harness, got --eval" in ran.err


@pytest.mark.slow  # lm_eval reads the files of all of its tasks.
def test_lm_evals_own_command_has_our_model(trained, task, monkeypatch, capsys):
  command = ["drope-lm-eval", "run", "--model", "drope", "--tasks", task]
  arguments = ["--model_args", f"checkpoint={trained / 'run'}"]
  monkeypatch.setattr(sys, "argv", [*command, *arguments])
  assert harness.main() == 0
  assert "|choose|" in capsys.readouterr().out.replace(" ", "")


def test_a_mistake_is_one_line(monkeypatch, capsys):
  monkeypatch.delenv("DROPE_DEBUG", raising=False)
  monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
  assert harness.main() == 2
  err = capsys.readouterr().err
  assert err.count("\n") == 1
  assert err.startswith("drope-lm-eval: The eval harness needs the library")
