"""Writes the artifacts of this version of the code; see README.md.

python tests/artifacts/write.py tests/artifacts/schema_N
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np

from drope_jax.analysis import damage
from drope_jax.checkpoint import store
from drope_jax.cli import main
from drope_jax.data import sources, tokenizer, writer
from drope_jax.data.pipeline import DataConfig
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope
from drope_jax.surgery.compose import Surgery
from drope_jax.train import loop, optimizer, training
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe

MODEL = ModelConfig(
  vocab_size=288,
  num_layers=2,
  width=8,
  num_heads=2,
  num_kv_heads=1,
  head_dim=4,
  mlp_width=16,
  context_tokens=8,
)
PRETRAIN = TrainPhase(
  name="pretrain",
  data=DataConfig(("store",)),
  batch_size=4,
  context_tokens=8,
  optimizer=optimizer.Muon(),
  schedule=optimizer.Constant(0.02),
  steps=4,
)
RECIPE = Recipe(
  phases=(
    PRETRAIN,
    SurgeryPhase(Surgery(qk_norm="qk", qk_norm_init="matched")),
    dataclasses.replace(
      PRETRAIN,
      name="recalibrate",
      optimizer=optimizer.AdamW(),
      schedule=optimizer.Cosine(0.02, 1),
    ),
  ),
  model=MODEL,
  tokenizer="tiny.model",
  mesh="single",
  attention="reference",
  save_every_steps=2,
  keep_saves=1,
  log_every_steps=1,
)
"""The steps of run/, which stops at step 6 of 8."""
LEFT_AT = 6

TEXT = "The white whale swims in the sea, and the ship sails after it. "
SUITE = """Suite:
  evals = ('perplexity',)
  methods = ('model', 'yarn')
  factors = (1.0, 2.0)
  samples = (2, 2)
  excerpts = 2
  fit_factor = 2.0
  fit_excerpts = 2
  fit_evaluations = 3
"""


def write(folder: pathlib.Path) -> None:
  folder.mkdir(parents=True)
  os.chdir(folder)  # So that no path of this machine is stored.
  tokenizer.train_sentencepiece([TEXT * 9], 280, "tiny.model")
  _write_store()
  run = functools.partial(loop.run, RECIPE, base_dir=".")
  try:
    run("run", stopping=lambda step: step >= LEFT_AT)
  except training.Stopped:
    shutil.copytree("run", "whole")
  run("whole")
  shutil.move("whole/metrics.jsonl", "whole.metrics.jsonl")
  shutil.rmtree("whole")
  _write_results()
  _write_damage()
  assert main.main(["export", "run/pretrain", "--out", "exported"]) == 0
  for file in folder.rglob("commit_success.txt"):
    file.write_text("")  # Orbax writes a path, and reads none.


def _write_store() -> None:
  rng = np.random.default_rng(0)
  documents = [
    rng.integers(3, 280, length).tolist() for length in rng.integers(2, 20, 50)
  ]
  ids = sources.Generated("ids", "", functools.partial(iter, documents))
  writer.write("store", [ids], "tiny.model", provenance={"model": "none"})


def _write_results() -> None:
  texts = {"suite.gin": SUITE, "test.txt": TEXT * 3, "fit.txt": TEXT[::-1] * 3}
  for name, text in texts.items():
    pathlib.Path(name).write_text(text)
  evaluate = "evaluate base=run/pretrain --suite suite.gin --out results"
  texts = "--text test.txt --fit-text fit.txt"
  assert main.main([*evaluate.split(), *texts.split()]) == 0


def _write_damage() -> None:
  params, _ = store.load_model("run/pretrain")
  tokens_BS = np.arange(16).reshape(2, 8) + 3
  dropped = dataclasses.replace(MODEL, positional=Nope())
  found = damage.compare((MODEL, params), (dropped, params), tokens_BS)
  pathlib.Path("damage.json").write_text(json.dumps(found.to_json()) + "\n")


if __name__ == "__main__":
  write(pathlib.Path(sys.argv[1]).absolute())
