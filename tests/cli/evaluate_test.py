"""`drope evaluate`: what the flags ask for, and the table."""

import dataclasses
import types

import pytest
import rich.console

from drope_jax.cli import configure, evaluate
from drope_jax.evals import suite as suites
from drope_jax.evals.interface import Result
from drope_jax.inference import lm as lms
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Nope,
  NtkAware,
  PositionInterpolation,
  Rope,
  Yarn,
)

CONFIG = ModelConfig(64, 1, 16, 2, 1, 8, 16, context_tokens=32)


@pytest.fixture
def asked(monkeypatch):
  """Puts recorders in the place of the model and the suite.

  A checkpoint named "dropped" has no positions, "long" has another context,
  and "foreign" another tokenizer.
  """
  calls = []

  def run(suite, name, variant, material, show):
    calls.append(types.SimpleNamespace(suite=suite, name=name, text=material))
    return [], {}

  def load(path, mesh=None):
    context = 64 if path.name == "long" else 32
    config = dataclasses.replace(CONFIG, context_tokens=context)
    fingerprint = ("b" if path.name == "foreign" else "a") * 64
    tokenizer = types.SimpleNamespace(fingerprint=fingerprint)
    lm = lms.CheckpointLM(config, {}, tokenizer, 1.0)
    return lm.with_positions(Nope()) if path.name == "dropped" else lm

  monkeypatch.setattr(evaluate.lms.CheckpointLM, "load", load)
  monkeypatch.setattr(evaluate.suites, "run", run)
  return calls


def test_without_flags_it_is_the_standard_suite_on_the_corpus(drope, asked):
  assert drope("evaluate", "runs/tiny").status == 0
  (call,) = asked
  assert call.name == "tiny"
  assert call.suite.factors == (1.0, 2.0, 4.0, 8.0)
  assert (len(call.text.test), len(call.text.fit)) == (18, 19)


def test_flags_override_the_suite(drope, asked, tmp_path):
  for name in ("test", "fit"):
    (tmp_path / f"{name}.txt").write_text(name)
  drope(
    *("evaluate", "c", "--eval", "niah,perplexity,passkey", "--factors"),
    *("1,16", "--positions", "model,yarn", "--samples", 9, "--seed", 4),
    *("--excerpts", 3),
    *("--text", tmp_path / "test.txt", "--fit-text", tmp_path / "fit.txt"),
  )
  (call,) = asked
  got = dataclasses.asdict(call.suite)
  assert got["evals"] == (
    *("passkey", "multi_key", "multi_value", "multi_query", "perplexity"),
  )
  assert got["factors"] == (1.0, 16.0)
  assert got["methods"] == ("model", "yarn")
  assert (got["samples"], got["seed"]) == ((9, 9), 4)
  assert got["excerpts"] == 3
  assert call.text == suites.Material(test=["test"], fit=["fit"])


def test_fewer_factors_keep_the_suites_first_count(drope, asked):
  drope("evaluate", "c", "--suite", "evals/demo.gin", "--factors", "1,2")
  shipped = configure.build("evals/demo.gin", suites.Suite)
  assert asked[0].suite.samples == shipped.samples[:1] * 2
  assert asked[0].suite.methods == shipped.methods


def test_checkpoints_are_named_and_read_by_the_methods_that_fit(drope, asked):
  ran = drope(
    *("evaluate", "base=runs/a", "runs/dropped", "--positions", "model,yarn")
  )
  assert ran.status == 0
  assert [(call.name, call.suite.methods) for call in asked] == [
    ("base", ("model", "yarn")),
    ("dropped", ("model",)),
  ]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["a", "runs/a"], "got a twice. Write NAME=CKPT"),
    (["dropped", "a", "--positions", "model,yarnn"], "got 'yarnn'"),
    (["dropped", "--positions", "model,yarn"], "needs a model with plain Rope"),
    (
      ["a", "long"],
      "same context_tokens to be compared on the same samples, "
      "got a: 32, long: 64. Evaluate them one by one.",
    ),
    (
      ["a", "dropped", "foreign"],
      "same tokenizer to be compared on the same "
      "samples, got a: SHA-256 aaaaaaaaaaaa, dropped: SHA-256 aaaaaaaaaaaa, "
      "foreign: SHA-256 bbbbbbbbbbbb. Evaluate",
    ),
  ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(
  drope, asked, arguments, message
):
  ran = drope("evaluate", *arguments)
  assert ran.status == 2 and message in ran.err
  assert not asked


def test_a_method_reads_the_same_weights_under_its_positions():
  lm = lms.CheckpointLM(CONFIG, {"embed": 1}, None, 1.0)
  variant = evaluate.variants(lm)
  assert variant("model", 4.0) is lm
  schemes = {
    "rope": Rope(),
    "pi": PositionInterpolation(factor=4.0),
    "ntk": NtkAware(factor=4.0),
    "yarn": Yarn(factor=4.0, trained_tokens=32),
  }
  for method, scheme in schemes.items():
    read = variant(method, 4.0)
    assert read.config.positional == scheme
    assert read.params is lm.params
    assert read.context_tokens == 32, "the base of the factors has moved"


def _row(method, factor, fitted, value):
  return Result(
    task="passkey",
    metric="accuracy",
    model="tiny",
    method=method,
    factor=factor,
    context_tokens=32,
    logit_scale=1.0,
    scale_fitted=fitted,
    value=value,
    low=value - 0.125,
    high=value + 0.125,
    count=8,
    seed=0,
    mean_tokens=30.0,
  )


def test_the_table_has_a_row_a_method_and_scale_and_a_column_a_factor():
  rows = [
    _row("model", 1.0, False, 0.5),
    _row("model", 8.0, False, 0.25),
    _row("model", 8.0, True, 0.375),
    _row("yarn", 8.0, False, 0.75),
  ]
  console = rich.console.Console(width=80)
  with console.capture() as captured:
    console.print(evaluate.tables(rows))
  lines = captured.get().splitlines()
  assert "1x" in "".join(lines) and "8x" in "".join(lines)
  assert max(map(len, map(str.rstrip, lines))) <= 80
  for values, name, intervals in (
    (("tiny", "0.500", "0.250"), "model", ("0.38..0.62", "0.12..0.38")),
    (("tiny", "0.375"), "model +scale", ("0.25..0.50",)),
    (("tiny", "0.750"), "yarn", ("0.62..0.88",)),
  ):
    (row,) = (i for i, x in enumerate(lines) if all(v in x for v in values))
    below = lines[row + 1]
    assert below.split("  ")[1].strip() == name
    assert all(interval in below for interval in intervals)
