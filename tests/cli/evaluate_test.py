"""`drope evaluate`: what the flags ask for, the table, and how it resumes."""

import dataclasses
import gc
import json
import re
import types
import weakref

import jax
import pytest
import rich.console

from drope_jax.checkpoint import model as models
from drope_jax.cli import configure, evaluate, readings
from drope_jax.data import corpus, lock
from drope_jax.evals import logit_scale, retrieval
from drope_jax.evals import suite as suites
from drope_jax.evals.interface import Part, Result
from drope_jax.inference import lm as lms
from drope_jax.model.config import ModelConfig
from drope_jax.positional import LearnedAbsolute, Nope

CONFIG = ModelConfig(64, 1, 16, 2, 1, 8, 16, context_tokens=32)


class Asked(types.SimpleNamespace):
  """What was asked of a model: suite, name, methods, text, steps' names."""


@pytest.fixture
def asked(monkeypatch):
  """Puts recorders in the place of the model and the suite.

  A checkpoint named "dropped" has no positions, "long" has another context,
  and "foreign" another tokenizer.
  """
  calls = []

  def inputs(suite, lm, material):
    return types.SimpleNamespace(
      suite=suite, text=material, digests={}, hashes={}, lengths=(32,)
    )

  def found(inputs, name, methods, variant, record):
    asked = {"suite": inputs.suite, "text": inputs.text}
    calls.append(Asked(name=name, methods=methods, **asked))
    return []

  def load(path, dtype="float32", mesh=None, shelf=None):
    context = 64 if path.name == "long" else 32
    config = dataclasses.replace(CONFIG, context_tokens=context)
    fingerprint = ("b" if path.name == "foreign" else "a") * 64
    tokenizer = types.SimpleNamespace(fingerprint=fingerprint)
    lm = lms.CheckpointLM(config, {}, tokenizer, 1.0)
    return lm.with_positions(Nope()) if path.name == "dropped" else lm

  monkeypatch.setattr(evaluate.CheckpointLM, "load", load)
  monkeypatch.setattr(evaluate.steps, "Inputs", inputs)
  monkeypatch.setattr(evaluate.steps, "steps", found)
  return calls


def test_without_flags_it_is_the_standard_suite_on_the_corpus(drope, asked):
  assert drope("evaluate", "runs/tiny").status == 0
  (call,) = asked
  assert call.name == "tiny"
  assert call.suite.factors == (1.0, 2.0, 4.0, 8.0)
  assert (len(call.text.test), len(call.text.fit)) == (18, 19)


def test_the_fitted_slopes_are_saved(monkeypatch, tmp_path):
  saved = {}
  monkeypatch.setattr(
    evaluate.store, "save_slope", lambda path, *rest: saved.update({path: rest})
  )
  fits = {
    name: {"model": logit_scale.Fit(4.0, c, 1.0, ((c, 2.0),))}
    for name, c in (("a", 0.3), ("b", -0.1))
  }
  paths = {name: tmp_path / name for name in fits}
  record = evaluate.steps.Record(fits=fits)
  evaluate.save_scales(paths, record)
  assert saved == {
    paths["a"]: (0.3, {"factor": 4.0, "losses": [[0.3, 2.0]]}),
    paths["b"]: (0.0, {"factor": 4.0, "losses": [[-0.1, 2.0]]}),
  }

  def refuse(*_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(evaluate.store, "save_slope", refuse)
  with pytest.raises(ValueError, match="may write to, got .* Copy it"):
    evaluate.save_scales(paths, record)


def test_a_scale_that_is_not_fitted_is_not_saved(drope, asked):
  for options in (
    ["--set", "Suite.fit_factor = None"],
    ["--positions", "yarn"],
    ["--set", "Suite.scale_by_query = True"],
  ):
    ran = drope("evaluate", "runs/tiny", "--save-scale", *options)
    assert ran.status == 2 and "--save-scale needs" in ran.err
    assert ran.err.count("\n") == 1
  assert not asked


def test_a_scale_beyond_the_end_of_a_table_is_not_saved(
  drope, asked, monkeypatch
):
  config = dataclasses.replace(CONFIG, positional=LearnedAbsolute(tokens=32))
  described = types.SimpleNamespace(model=config), None
  monkeypatch.setattr(evaluate.store, "describe", lambda path: described)
  ran = drope("evaluate", "m=c", "--save-scale")
  assert ran.status == 2 and not asked
  assert "fits a scale at 128 tokens, got m, which reads 32" in ran.err


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


def test_text_to_fit_on_is_needed_only_for_a_fit(drope, asked, tmp_path):
  (tmp_path / "test.txt").write_text("test")
  command = ("evaluate", "c", "--text", tmp_path / "test.txt")
  ran = drope(*command, "--factors", "1")
  assert ran.status == 0, ran.err
  assert asked[0].text == suites.Material(test=["test"], fit=[])
  assert "no --fit-text" in drope(*command, "--factors", "1,2").err


def test_factors_keep_the_suites_counts(drope, asked):
  drope("evaluate", "c", "--suite", "evals/demo.gin", "--factors", "8,1,3")
  shipped = configure.build("evals/demo.gin", suites.Suite)
  counts = dict(zip(shipped.factors, shipped.samples, strict=True))
  assert asked[0].suite.samples == (counts[8], counts[1], shipped.samples[0])
  assert asked[0].suite.methods == shipped.methods


@pytest.mark.parametrize(
  ("flags", "fit_factor"),
  [
    (("--factors", "1"), None),
    (("--factors", "1,2"), 4.0),
    (("--factors", "1", "--save-scale"), 4.0),
    (
      ("--set", "Suite.factors = (1.0,)", "--set", "Suite.samples = (9,)"),
      None,
    ),
  ],
)
def test_a_scale_is_fitted_only_where_it_is_used(
  drope, asked, monkeypatch, flags, fit_factor
):
  described = types.SimpleNamespace(model=CONFIG), None
  monkeypatch.setattr(evaluate.store, "describe", lambda path: described)
  monkeypatch.setattr(evaluate, "save_scales", lambda *_: None)
  ran = drope("evaluate", "m=c", *flags)
  assert ran.status == 0, ran.err
  (call,) = asked
  assert call.suite.fit_factor == fit_factor


def test_a_checkpoint_without_a_name_is_refused(drope):
  ran = drope("evaluate", "=packaged:checkpoints/demo_base")
  assert ran.status == 2 and "must not be empty, got =packaged" in ran.err


def test_a_negative_seed_is_refused_by_its_name(drope):
  ran = drope("evaluate", "packaged:checkpoints/demo_base", "--seed", "-1")
  assert ran.status == 2 and "Suite.seed must be at least 0, got -1" in ran.err


def test_checkpoints_are_named_and_read_by_the_methods_that_fit(drope, asked):
  ran = drope(
    *("evaluate", "base=runs/a", "runs/dropped", "--positions", "model,yarn")
  )
  assert ran.status == 0
  assert [(call.name, call.methods) for call in asked] == [
    ("base", ("model", "yarn")),
    ("dropped", ("model",)),
  ]


def test_a_path_may_have_an_equals_sign(drope, asked, tmp_path):
  ran = drope("evaluate", "m=runs/lr=1/dropped")
  assert ran.status == 0 and (asked[0].name, asked[0].methods[0]) == (
    "m",
    "model",
  )
  folder = tmp_path / "lr=1" / "dropped"
  folder.mkdir(parents=True)
  assert drope("evaluate", folder).status == 0
  assert [call.name for call in asked] == ["m", "dropped"]
  assert all("yarn" not in call.methods for call in asked)


def test_a_suites_methods_that_fit_no_model_are_left_out(drope, asked):
  methods = "Suite.methods = ('model', 'yarn')"
  ran = drope("evaluate", "runs/dropped", "--set", methods)
  assert ran.status == 0
  assert [call.methods for call in asked] == [("model",)]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["dropped", "--set", "Suite.methods = ('model', 'yarnn')"], "got 'yarnn'"),
    (["dropped", "--set", "Suite.methods = ('yarn',)"], "plain Rope"),
    (["a", "runs/a"], "got a twice. Write NAME=CKPT"),
    (["dropped", "a", "--positions", "model,yarnn"], "got 'yarnn'"),
    (["dropped", "--positions", "model,yarn"], "needs a model with plain Rope"),
    (
      ["a", "dropped", "--positions", "yarn"],
      "for dropped, which has no plain",
    ),
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
    outcomes=(),
  )


def test_the_table_has_a_row_a_method_and_scale_and_a_column_a_factor():
  rows = [
    _row("model", 1.0, False, 0.5),
    _row("model", 8.0, False, 0.25),
    _row("model", 8.0, True, 0.375),
    dataclasses.replace(_row("yarn", 8.0, False, 0.75), low=None, high=None),
  ]
  console = rich.console.Console(width=80)
  with console.capture() as captured:
    console.print(evaluate.tables(rows))
  lines = captured.get().splitlines()
  (head,) = (line for line in lines if "1x" in line)
  assert head.index("1x") < head.index("8x")
  assert max(map(len, map(str.rstrip, lines))) <= 80
  for name, values, under, intervals in (
    ("tiny", ("0.500", "0.250"), "", ("0.38..0.62", "0.12..0.38")),
    ("tiny", ("0.375",), "+scale", ("0.25..0.50",)),
    ("tiny · YaRN", ("0.750",), "", ("n/a",)),
  ):
    (row,) = (i for i, x in enumerate(lines) if all(v in x for v in values))
    at, below = lines[row], lines[row + 1]
    assert at.split("  ")[1].strip() == name
    assert below.split("  ")[1].strip() == under
    assert all(interval in below for interval in intervals)


def test_what_was_cut_and_each_range_of_lengths_stand_in_the_table():
  parts = (
    Part("0-4k", 0.875, 0.75, 1.0, 3, 0.0),
    Part("4-8k", 0.125, None, None, 1, 1.0),
  )
  row = _row("model", 8.0, False, 0.5)
  row = dataclasses.replace(row, truncated=0.25, parts=parts)
  console = rich.console.Console(width=80)
  with console.capture() as captured:
    console.print(evaluate.tables([row]))
  whole, by_range = captured.get().split("by input length")
  assert "0.500" in whole and "25% cut" in whole
  assert "tiny 8x" in by_range
  lines = [line.split("  ") for line in by_range.splitlines()]
  words = [[word.strip() for word in line if word.strip()] for line in lines]
  assert ["0-4k", "4-8k"] in words
  assert ["tiny 8x", "0.875", "0.125"] in words
  assert ["0.75..1.00", "n/a"] in words and ["0% cut", "100% cut"] in words


def test_the_tasks_of_longbench_have_a_table_of_their_mean():
  rows = [
    dataclasses.replace(_row("model", 8.0, False, value), task=task)
    for task, value in (("qasper", 0.5), ("trec", 0.25))
  ]
  rows = [dataclasses.replace(row, truncated=0.5) for row in rows]
  console = rich.console.Console(width=80)
  with console.capture() as captured:
    console.print(evaluate.tables(rows))
  shown = " ".join(captured.get().split())
  _, mean = shown.split("longbench: mean of 2 tasks")
  assert "0.375" in mean and "50% cut" in mean


SUITE = """
Suite:
  evals = ('perplexity', 'passkey')
  methods = ('model', 'yarn')
  factors = (3.0, 4.0)
  samples = (2, 2)
  excerpts = 2
  max_new_tokens = 2
  fit_excerpts = 2
  fit_evaluations = 3
"""


@pytest.fixture
def command(trained, tmp_path):
  """An evaluation of a second, into tmp_path/out."""
  (tmp_path / "suite.gin").write_text(SUITE)
  texts = [text[:9_000] for text in corpus.documents("fit")]
  (tmp_path / "test.txt").write_text(texts[0])
  (tmp_path / "fit.txt").write_text(texts[1])
  return (
    *("evaluate", f"m={trained / 'run'}", "--suite", tmp_path / "suite.gin"),
    *("--text", tmp_path / "test.txt", "--fit-text", tmp_path / "fit.txt"),
    *("--out", tmp_path / "out"),
  )


@pytest.fixture
def stopped(drope, command, monkeypatch):
  """The command after Ctrl-C in its third reading, and what it left."""
  ran = []
  evaluation = retrieval.evaluate

  def interrupt(*args):
    if ran.append(args) or len(ran) == 3:
      raise KeyboardInterrupt
    return evaluation(*args)

  with monkeypatch.context() as patch:
    patch.setattr(retrieval, "evaluate", interrupt)
    said = drope(*command)
  return said, command


def test_results_land_as_they_are_made_and_the_same_command_resumes(
  drope, stopped, tmp_path, monkeypatch
):
  said, command = stopped
  assert said.status == 130
  assert said.err.endswith("interrupted; the same command resumes\n")
  path = tmp_path / "out/results.json"
  half = json.loads(path.read_text())
  assert not half["finished"]
  assert list(half["fits"]["m"]) == ["model", "yarn"]
  counts = {length: len(x) for length, x in half["hashes"]["passkey"].items()}
  assert counts == {"96": 2, "128": 2}
  # Passes that a fitted scale of 1 would repeat are not among the calls.
  done = {(r["task"], r["method"], r["factor"]) for r in half["rows"]}
  assert ("passkey", "model", 3.0) in done
  assert ("passkey", "yarn", 4.0) not in done
  assert drope("report", tmp_path / "out", "--out", tmp_path / "r").status == 0
  assert "is not finished" in (tmp_path / "r").read_text()

  with monkeypatch.context() as patch:
    patch.setattr(logit_scale, "fit", lambda *_, **__: pytest.fail("again"))
    ran = drope(*command)
  assert ran.status == 0, ran.err
  whole = json.loads(path.read_text())
  assert whole["finished"]
  assert whole["rows"][: len(half["rows"])] == half["rows"]
  assert (whole["fits"], whole["created"]) == (half["fits"], half["created"])
  assert len(whole["rows"]) == 2 * 2 * 2 * (3 + 2)

  # A resumed evaluation is an uninterrupted one.
  assert drope(*command[:-1], tmp_path / "other").status == 0
  other = json.loads((tmp_path / "other/results.json").read_text())
  assert other["rows"] == whole["rows"]

  # And one that is finished is shown again, without reading a model.
  with monkeypatch.context() as patch:
    patch.setattr(
      lms.CheckpointLM, "load", lambda *_, **__: pytest.fail("read")
    )
    again = drope(*command)
  assert again.status == 0 and again.out == ran.out


def test_one_checkpoints_weights_are_in_memory_at_a_time(
  drope, command, trained, monkeypatch
):
  own = models.load
  held = []

  def load(path, **options):
    gc.collect()
    assert not [array for array in held if array() is not None]
    model = own(path, **options)
    held[:] = [weakref.ref(x) for x in jax.tree.leaves(model.params)]
    return model

  monkeypatch.setattr(models, "load", load)
  again = f"again={trained / 'run'}"
  ran = drope(*command[:2], again, *command[2:])
  assert ran.status == 0, ran.err
  assert held


def test_a_cut_within_a_step_loses_a_batch_at_most(
  drope, command, tmp_path, monkeypatch
):
  read = []
  generate = lms.CheckpointLM.generate

  def one_by_one(self, prompts, *args, **more):
    read.extend(map(tuple, prompts))
    if len(read) == 4:
      raise KeyboardInterrupt
    return generate(self, prompts, *args, **more)

  monkeypatch.setattr(lms.CheckpointLM, "generate", one_by_one)
  monkeypatch.setattr(lms.CheckpointLM, "batch_size", lambda self, tokens: 1)
  only = ("--eval", "passkey", "--positions", "model", "--factors", "4")
  only += ("--samples", 6, "--set", "Suite.fit_factor = None")
  assert drope(*command, *only).status == 130
  kept = tmp_path / "out/samples.jsonl"
  assert len(kept.read_text().splitlines()) == 3
  kept.write_text(kept.read_text() + '{"key": "cut sh')
  ran = drope(*command, *only)
  assert ran.status == 0, ran.err
  # The fourth was cut off; the first three are not read again.
  assert len(read) == 7 and len(set(read)) == 6 and read[3] == read[4]
  assert not kept.exists()

  # And it is an evaluation that was not cut; here all outputs are kept.
  monkeypatch.undo()
  whole = (*command[:-1], tmp_path / "whole", *only, "--keep-outputs")
  assert drope(*whole).status == 0
  results = [
    json.loads((tmp_path / name / "results.json").read_text())
    for name in ("out", "whole")
  ]
  assert results[0]["rows"] == results[1]["rows"]
  assert results[0]["samples"] == results[1]["samples"]
  assert list(results[1]["seconds"]) == ["m by model at 4x: passkey"]
  assert "jax" in results[1]["versions"][0]
  lines = (tmp_path / "whole/samples.jsonl").read_text().splitlines()
  samples = [json.loads(line) for line in lines]
  assert len(samples) == 6
  for sample in samples:
    assert "Magic word" in sample["prompt"] and "output" in sample
    assert (sample["task"], sample["model"]) == ("passkey", "m")


def test_what_one_model_has_read_is_not_anothers(tmp_path):
  """A checkpoint may be replaced, and results.json be removed."""

  def opened(evaluation):
    memory = readings.Readings(tmp_path, keep=True, evaluation=evaluation)
    memory.load()
    return memory

  opened("old").add({"key": [1]}, [{}])
  assert opened("new").recall("key") is None
  opened("new").add({"key": [2]}, [{}])
  assert opened("new").recall("key") == [2]
  assert opened("old").recall("key") == [1]


def test_shares_of_several_hosts_are_gathered(
  drope, command, tmp_path, monkeypatch
):
  flags = ("--eval", "passkey", "--set", "Suite.fit_evaluations = 3")
  assert drope(*command[:-1], tmp_path / "whole", *flags).status == 0
  for share in ("1/3", "3/3"):
    assert drope(*command, *flags, "--share", share).status == 0
  # The second share is missing, and is evaluated by who gathers.
  names = []
  run = evaluate.progress.EvaluationProgress.__call__

  def noting(self, step):
    names.append(step.name)
    return run(self, step)

  monkeypatch.setattr(evaluate.progress.EvaluationProgress, "__call__", noting)
  ran = drope(*command, *flags)
  assert ran.status == 0, ran.err
  gathered, whole = (
    json.loads((tmp_path / name / "results.json").read_text())
    for name in ("out", "whole")
  )
  assert gathered["rows"] == whole["rows"]
  assert gathered["fits"] == whole["fits"] and gathered["finished"]
  assert gathered["seconds"].keys() == whole["seconds"].keys()
  assert 0 < len(names) < len(whole["seconds"])


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b"])
def test_a_share_that_there_is_not_is_refused(drope, command, share):
  ran = drope(*command, "--share", share)
  assert ran.status == 2 and f"1 <= K <= N, got '{share}'" in ran.err


def test_samples_of_another_version_are_refused(
  drope, stopped, tmp_path, monkeypatch
):
  _, command = stopped
  monkeypatch.setattr(
    evaluate.steps.Inputs,
    "digests",
    {"passkey": {"96": "another"}, "perplexity": {}},
  )
  ran = drope(*command)
  assert ran.status == 2
  assert "got others in perplexity, passkey: this version" in ran.err


def test_outputs_need_a_folder(drope, command):
  ran = drope(*command[:-2], "--keep-outputs")
  assert ran.status == 2 and "--keep-outputs keeps results in" in ran.err


@pytest.mark.parametrize(
  ("flags", "text", "says"),
  [
    (
      ["--seed", 5, "--samples", 3],
      "",
      ["its Suite.seed is 0, not 5", "its Suite.samples is [2, 2], not [3, 3]"],
    ),
    ([], "Another text. " * 999, ["its text to fit on is another"]),
  ],
)
def test_a_folder_holds_one_evaluation(
  drope, stopped, tmp_path, flags, text, says
):
  _, command = stopped
  if text:
    (tmp_path / "fit.txt").write_text(text)
  before = (tmp_path / "out/results.json").read_bytes()
  ran = drope(*command, *flags)
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert all(words in ran.err for words in says)
  assert "Choose another --out" in ran.err
  assert (tmp_path / "out/results.json").read_bytes() == before


def test_other_weights_under_the_same_name_are_another_evaluation(
  drope, stopped, tmp_path, trained
):
  _, command = stopped
  assert (
    drope(*("surgery", trained / "run", "--out", tmp_path / "dropped")).status
    == 0
  )
  other = f"m={tmp_path / 'dropped'}"
  ran = drope("evaluate", other, *command[2:], "--positions", "model")
  assert ran.status == 2
  assert "its checkpoint m has other weights or another lineage" in ran.err
  ran = drope("evaluate", f"n={trained / 'run'}", *command[2:])
  assert "its checkpoints are m, not n" in ran.err


def test_a_folder_has_one_writer(drope, stopped, tmp_path):
  _, command = stopped
  with lock.held(tmp_path / "out"):
    ran = drope(*command)
  assert ran.status == 2 and "one writer at a time" in ran.err


def test_without_out_it_says_that_nothing_is_kept(drope, command, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(retrieval, "evaluate", interrupt)
  ran = drope(*command[:-2])
  assert ran.status == 130
  assert "nothing is kept; with --out, the same command would" in ran.err


def test_progress_counts_what_was_there(stopped, drope):
  _, command = stopped
  err = drope(*command).err
  # Two fits and sixteen evaluations, of which seven or more are there.
  assert 8 <= int(re.search(r"evaluate (\d+)/18", err)[1]) < 18
  assert "evaluate 18/18: m by yarn at 4x, scaled: passkey" in err


def test_ids_without_a_piece_are_wrong_answers(drope, command, monkeypatch):
  # As a model whose vocabulary is padded may write them.
  monkeypatch.setattr(
    lms.CheckpointLM,
    "generate",
    lambda self, prompts, count, stop: [[10**6 + count, 5]] * len(prompts),
  )
  ran = drope(
    *(*command, "--eval", "passkey", "--positions", "model", "--factors", 3)
  )
  assert ran.status == 0, ran.err
  assert "passkey: accuracy" in ran.out and "0.000" in ran.out
