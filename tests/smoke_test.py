"""A tiny recipe through every command, as a user would type them."""

import io
import json
import pathlib

import numpy as np
import pytest

from drope_jax.analysis import records
from drope_jax.checkpoint import store
from drope_jax.cli import main, progress
from drope_jax.data import corpus
from drope_jax.data import store as data_store
from drope_jax.positional import Nope, Rope

SUITE = """
Suite:
  evals = ('perplexity', 'passkey', 'multi_key')
  factors = (4.0,)
  samples = (3,)
  excerpts = 2
  max_new_tokens = 2
  fit_excerpts = 2
  fit_evaluations = 3
"""


def _drope(command: str) -> None:
  assert main.main(command.split()) == 0


def _operations(path) -> list[str]:
  return [entry.operation for entry in store.describe(path)[0].lineage]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Text files for training, testing, and fitting the softmax scale."""
  folder = tmp_path_factory.mktemp("smoke")
  texts = [text[:15_000] for text in list(corpus.documents("fit"))[:4]]
  (folder / "texts").mkdir()
  for i, text in enumerate(texts[:2]):
    (folder / f"texts/{i}.txt").write_text(text)
  (folder / "test.txt").write_text(texts[2])
  (folder / "fit.txt").write_text(texts[3])
  (folder / "suite.gin").write_text(SUITE)
  return folder


@pytest.fixture(scope="module")
def data(folder) -> pathlib.Path:
  """The folder with the tokenizer and token store of recipes/tiny.gin."""
  _drope(
    f"tokenize {folder}/texts --tokenizer {folder}/data/tiny.model "
    f"--train-vocab 512 --out {folder}/data/text --workers 1"
  )
  return folder / "data"


@pytest.fixture(scope="module")
def interrupted(folder, data):
  """The recipe's command and run after Ctrl-C, with its output."""
  out = folder / "run"
  command = f"train recipes/tiny.gin --data {data} --out {out}"
  show = progress.TrainingProgress.__call__

  def interrupt(self, line):
    if line["step"] == 6:
      raise KeyboardInterrupt
    show(self, line)

  said = io.StringIO()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(progress.TrainingProgress, "__call__", interrupt)
    patch.setattr("sys.stderr", said)
    status = main.main(command.split())
  return command, out, status, said.getvalue(), store.finished_steps(out)


@pytest.fixture(scope="module")
def run(interrupted) -> pathlib.Path:
  """The recipe's run, resumed to its end."""
  command, out, *_ = interrupted
  _drope(command)
  return out


def test_tokenize_writes_the_store_of_its_own_tokenizer(data):
  made = data_store.Store.open(str(data / "text"))
  made.verify()
  assert made.num_documents == 2
  assert made.vocab_size == 512
  assert made.num_tokens > 100 * 65, "too little text to train on"


def test_an_interrupted_training_keeps_its_saves_and_says_how_to_resume(
  interrupted,
):
  _, _, status, said, steps = interrupted
  assert status == 130
  assert said.endswith("\ndrope train: interrupted; the same command resumes\n")
  assert steps == [4]


def test_train_runs_every_phase_once(run):
  lines = records.read_metrics(run)
  assert [line["step"] for line in lines] == [*range(2, 19, 2)]
  phases = ["pretrain"] * 6 + ["recalibrate"] * 3
  assert [line["phase"] for line in lines] == phases
  assert [line["tokens"] for line in lines] == [512 * s["step"] for s in lines]
  losses = [line["loss"] for line in lines]
  # A new model's logits have variance at most 1.
  assert losses[0] == pytest.approx(np.log(512), rel=0.15)
  assert losses[5] < losses[0] - 0.5, "it learnt nothing"
  assert _operations(run) == ["pretrain", "surgery", "recalibrate"]
  manifest, _ = store.describe(run / "recalibrate")
  assert [(e.steps, e.tokens) for e in manifest.lineage] == [
    (12, 6144),
    (12, 6144),
    (18, 9216),
  ]
  assert (manifest.model.positional, manifest.model.qk_norm) == (Nope(), "qk")


def test_surgery_repeats_the_recipes_own(run, folder):
  out = folder / "operated"
  _drope(
    f"surgery {run}/pretrain --out {out} --qk-norm qk --qk-norm-init matched "
    f"--text {folder}/texts"
  )
  assert _operations(out) == ["pretrain", "surgery"]
  got, want = store.describe(out)[0], store.describe(run / "surgery")[0]
  assert got.model == want.model
  assert got.tokenizer == want.tokenizer
  before = store.describe(run / "pretrain")[0].model
  assert (before.positional, before.qk_norm) == (Rope(), "none")


def test_evaluate_and_report_show_every_method(run, folder, capsys):
  _drope(
    f"evaluate {run}/pretrain --suite {folder}/suite.gin --positions "
    f"model,yarn --text {folder}/test.txt --fit-text {folder}/fit.txt "
    f"--seed 7 --out {folder}/results"
  )
  assert "YaRN" in capsys.readouterr().out
  found = json.loads((folder / "results/results.json").read_text())
  assert found.keys() == {
    *("schema_version", "finished", "created", "code", "models", "text"),
    *("settings", "metrics", "fits", "rows", "samples", "hashes"),
    *("dtype", "keep_outputs", "versions", "seconds"),
  }
  assert found["settings"]["samples"] == [3]
  lineage = found["models"]["pretrain"]["manifest"]["lineage"]
  assert [entry["operation"] for entry in lineage] == ["pretrain"]
  assert found["fits"]["pretrain"].keys() == {"model", "yarn"}
  rows = found["rows"]
  # Perplexity has three metrics, two evals have two; for each method, with and
  # without its scale.
  cells = {
    (r["task"], r["metric"], r["method"], r["scale_fitted"]) for r in rows
  }
  assert len(cells) == len(rows) == (3 + 2 + 2) * 2 * 2
  for row in rows:
    assert (row["seed"], row["factor"], row["context_tokens"]) == (7, 4.0, 64)
    assert row["count"] == (2 if row["task"] == "perplexity" else 3)
    assert len(row["outcomes"]) == row["count"]
    if row["task"] == "perplexity":  # Of two texts.
      assert row["low"] is row["high"] is None
    else:
      assert row["low"] <= row["value"] <= row["high"]

  _drope(f"report {run} {folder}/results --out {folder}/report.html")
  page = (folder / "report.html").read_text("utf-8")
  for words in ("Training loss", "multi_key", "yarn", "drope report", "<svg"):
    assert words in page


def test_generate_continues_the_prompt(run, capsys):
  _drope(f"generate {run} --prompt America --max-new-tokens 4")
  text = capsys.readouterr().out
  assert text.startswith("America") and len(text) > len("America\n")


def test_inspect_shows_the_lineage_and_every_parameter(run, capsys):
  _drope(f"inspect {run}/recalibrate --json")
  shown = json.loads(capsys.readouterr().out)
  _, shapes = store.describe(run / "recalibrate")
  assert shown["model"]["context_tokens"] == 64
  names = {row["name"] for row in shown["parameters"]}
  assert "layers/attention/q_norm/gain" in names
  assert shown["total"]["count"] == sum(
    row["count"] for row in shown["parameters"]
  )
  assert len(shapes["layers"]["attention"]) == 6
  _drope(f"inspect {run}")
  text = capsys.readouterr().out
  for operation in ("pretrain", "surgery", "recalibrate"):
    assert operation in text
