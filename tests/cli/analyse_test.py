"""`drope analyse`: files, a table, and one clear line where it cannot."""

import json
import pathlib
import re
import shutil
import types

from matplotlib.figure import Figure
import numpy as np
import pytest

from drope_jax.analysis.studies import needle
from drope_jax.cli.analyses import bias as bias_command
from drope_jax.cli.analyses import heads as heads_command
from drope_jax.cli.analyses import recovery as command
from drope_jax.cli.analyses import subject
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizers
from drope_jax.model.config import ModelConfig
from drope_jax.positional import LogScaled, Nope, Pattern

CONFIG = """
ModelConfig:
  vocab_size = 340
  num_layers = 2
  width = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_width = 16
  context_tokens = 32
  positional = @Rope()
"""


@pytest.fixture
def config(here):
  """A config in the working directory."""
  (here / "model.gin").write_text(CONFIG)
  return "model.gin"


def _found(what):
  data = json.loads(pathlib.Path(f"out/{what}.json").read_text())
  assert data["analysis"] == what
  assert data["schema_version"] >= 1
  return data


def test_bias_of_random_weights_over_seeds_and_positions(drope, config):
  np.save("c.npy", np.tril(np.zeros((8, 8))))
  ran = drope(
    *("analyse", config, "bias", "--out", "out", "--seeds", 2),
    *("--positions", "model,rope,nope", "--tokens", 8, "--sequences", 1),
    *("--weights", "c.npy", "--set", "ModelConfig.num_layers = 1"),
  )
  assert ran.status == 0, ran.err
  data = _found("bias")
  assert data["model"]["config"] == config
  assert data["model"]["manifest"]["model"]["num_layers"] == 1
  measured = data["bias"]
  assert [*measured] == ["model", "nope"]  # The model's own are RoPE.
  first, second = measured["nope"]
  assert first != second  # Other weights, other text.
  given = [row for row in first if row["pattern"] == "given weights"]
  assert [row["value_H"] for row in given] == [[0, 0]]
  for name in ("gradients", "values", "spread"):
    assert pathlib.Path(f"out/{name}.svg").read_text().startswith("<?xml")
    assert f"out/{name}.svg" in ran.out
  assert "nope, current token" in ran.out


def test_bias_along_a_training(drope, here):
  (step,) = [p for p in (here / "run").iterdir() if p.name.isdecimal()]
  shutil.copytree(step, here / "run/1")
  ran = drope("analyse", "run", "bias", "--every-save", "--out", "out")
  assert ran.status == 0, ran.err
  points = _found("bias")["along_training"]
  assert [tokens for tokens, _ in points] == [512, 512]
  assert (here / "out/along_training.svg").exists()


def test_the_saves_of_a_growing_context_read_the_same_text(
  drope, here, monkeypatch
):
  changes = (
    "Recipe.phases = (@short/TrainPhase(), @TrainPhase())",
    "short/TrainPhase.name = 'short'",
    "short/TrainPhase.context_tokens = 16",
    "Recipe.save_every_steps = 2",
  )
  sets = [word for change in changes for word in ("--set", change)]
  trained = drope("train", "tiny.gin", *sets, "--out", "grown")
  assert trained.status == 0, trained.err
  read = []
  monkeypatch.setattr(
    bias_command.bias,
    "measure",
    lambda config, params, tokens_BS, given: read.append(tokens_BS),
  )
  monkeypatch.setattr(
    bias_command.bias_plots, "along_training", lambda *_: Figure()
  )
  monkeypatch.setattr(bias_command, "_show", lambda *_: None)
  ran = drope("analyse", "grown", "bias", "--every-save", "--out", "out")
  assert ran.status == 0, ran.err
  first, second = read
  assert first.shape == (4, 16)
  np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
  "positional",
  [Nope(), LogScaled(Nope(), 32), Pattern((Nope(), Nope()), (8, None))],
  ids=["nope", "scaled", "windows"],
)
def test_a_model_without_positions_has_none_to_leave_out(positional):
  config = ModelConfig(
    vocab_size=8,
    num_layers=2,
    width=4,
    num_heads=1,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=4,
    context_tokens=32,
    positional=positional,
  )
  tokenizer = tokenizers.load(corpus.tokenizer_path())
  model = subject.Subject(config, {}, tokenizer, {})
  assert subject.without_positions(model) is model


def test_heads_frequencies_and_crop_of_random_weights(drope, config):
  """All that read text and needles; the vocabulary becomes the packaged one."""
  sizes = ("--prompts", 2, "--set", "ModelConfig.context_tokens = 96")
  heads = drope(
    *("analyse", config, "heads", "--out", "out", *sizes, "--heads", 1),
    *("--factors", "1,2", "--sequences", 1),
  )
  assert heads.status == 0, heads.err
  data = _found("heads")
  assert data["model"]["manifest"]["model"]["vocab_size"] == 2048
  assert len(data["heads"]) == 4
  methods = {(row["factor"], row["method"]) for row in data["needle"]}
  assert methods == {(1, "rope")} | {
    (2, method) for method in ("rope", "pi", "ntk", "yarn")
  }
  page = pathlib.Path("out/heads.html").read_text()
  assert page.count("within_one") > len(data["needle"])
  frequencies = drope("analyse", config, "frequencies", "--out", "out", *sizes)
  assert frequencies.status == 0, frequencies.err
  data = _found("frequencies")
  assert len(data["pairs"]["pairs"]) == 4
  assert len(data["scalings"]) == 9
  crop = drope(
    *("analyse", config, "crop", "--out", "out", *sizes),
    *("--factors", "1,2", "--sequences", 2),
  )
  assert crop.status == 0, crop.err
  cropped = [r for r in _found("crop")["rows"] if r["method"] == "crop"]
  assert {row["factor"] for row in cropped} == {1, 2}


def test_texts_and_questions_begin_with_bos_if_asked():
  tokenizer = tokenizers.load(str(corpus.tokenizer_path()))
  documents = list(corpus.documents("test"))
  config = ModelConfig(2048, 1, 16, 2, 1, 8, 16, context_tokens=96)
  plain, begun = (
    subject.Subject(config, {}, tokenizer, {}, begin=begin)
    for begin in ((), (tokenizer.bos_id,))
  )
  text, of_text = (
    subject.excerpts(model, None, 2, 20, seed=0) for model in (plain, begun)
  )
  assert of_text.shape == text.shape == (2, 20)
  assert (of_text[:, 0] == tokenizer.bos_id).all()
  assert not (text == tokenizer.bos_id).any()
  for model in (plain, begun):
    (sample,) = subject.prompts(model, documents, 1, tokens=96)
    prompt = needle.prompt(sample, subject.NEEDLES, tokenizer.encode)
    assert prompt.tokens[: len(model.begin)] == model.begin
    value = prompt.tokens[prompt.start : prompt.stop]
    assert tokenizer.decode(value).strip() == sample.answers[0]


def test_another_model_after_is_refused_before_anything_is_read(
  drope, config, monkeypatch
):
  monkeypatch.setattr(heads_command, "_Look", None)
  ran = drope("analyse", config, "heads", "--after", "run", "--out", "out")
  assert ran.status == 2
  assert "--after must be the model after its drop, got run" in ran.err


def test_recovery_of_a_run_with_saves(drope, here):
  (step,) = [p for p in (here / "run").iterdir() if p.name.isdecimal()]
  ran = drope("analyse", "run", "recovery", "--out", "out")
  assert ran.status == 0, ran.err
  data = _found("recovery")
  assert (data["laws"], data["saves"]) == ([], [])  # Too few records, one save.
  assert "no law: it needs 16 records" in ran.err
  assert [record["step"] for record in data["log"]] == [2]
  assert pathlib.Path("out/recovery.svg").exists()


def test_saves_of_a_run_from_a_checkpoint_count_its_own_tokens(
  drope, here, monkeypatch
):
  changes = (
    "Recipe.init_from = 'run/pretrain'",
    "Recipe.model = None",
    "Recipe.tokenizer = None",
    "Recipe.save_every_steps = 2",
    "Recipe.log_every_steps = 1",
    "TrainPhase.steps = 4",
  )
  sets = [word for change in changes for word in ("--set", change)]
  trained = drope("train", "tiny.gin", *sets, "--out", "more")
  assert trained.status == 0, trained.err
  scores = types.SimpleNamespace(loss_B=np.ones(1), recalled_P=np.ones(1, bool))
  monkeypatch.setattr(command.subject, "prompts", lambda *_: ["?"])
  monkeypatch.setattr(command.pairs, "questions", lambda *_: None)
  monkeypatch.setattr(command.pairs, "scores", lambda *_: scores)
  ran = drope("analyse", "more", "recovery", "--out", "out")
  assert ran.status == 0, ran.err
  data = _found("recovery")
  logged = {line["step"]: line["tokens"] for line in data["log"]}
  saved = {save["step"]: save["tokens"] for save in data["saves"]}
  assert saved == {step: logged[step] for step in (2, 4)}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("bias --seeds 0", "--seeds must be at least 1, got 0"),
    ("bias --tokens 33", "must lie in 2..32, the trained context, got 33"),
    ("bias --sequences 0", "--sequences must be at least 1, got 0"),
    ("bias --positions rope,pi", "--positions takes model, .*, got 'pi'"),
    ("bias --every-save", "needs a run with two saved steps or more"),
    ("bias --weights model.gin", "array that numpy.save wrote, got model.gin"),
    ("bias --weights many.npz", "array that numpy.save wrote, got many.npz"),
    ("bias --set Rope.theta=5", "model.gin"),
    ("heads --factors 1,x", "--factors takes numbers of at least 1"),
    ("heads --heads 0", "--heads must be at least 1, got 0"),
    ("frequencies --prompts 0", "--prompts must be at least 1, got 0"),
    ("recovery", "needs a run's folder, got model.gin, which was not trained"),
    ("nothing", "invalid choice: 'nothing'"),
  ],
)
def test_a_mistake_is_one_line(drope, config, arguments, message):
  if "theta" in arguments:  # A checkpoint has its own.
    config, message = "run", "--set changes a CONFIG.gin, got a checkpoint"
  np.savez("many.npz", a=np.ones(2), b=np.ones(2))
  ran = drope("analyse", config, *arguments.split(), "--out", "out")
  assert ran.status == 2
  assert len(ran.err.splitlines()) == 1, ran.err
  assert re.search(message, ran.err), ran.err
