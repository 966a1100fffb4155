"""A command run in process, and one tiny trained run that tests copy."""

import pathlib
import shutil
import signal
from typing import NamedTuple

import pytest

from drope_jax.cli import main
from drope_jax.data import corpus

VOCAB_SIZE = 340

RECIPE = f"""
ModelConfig:
  vocab_size = {VOCAB_SIZE}
  num_layers = 1
  width = 16
  num_heads = 2
  num_kv_heads = 1
  head_dim = 8
  mlp_width = 16
  context_tokens = 32
  positional = @Rope()
Recipe:
  model = @ModelConfig()
  tokenizer = 'tiny.model'
  phases = (@TrainPhase(),)
TrainPhase:
  name = 'pretrain'
  data = @DataConfig()
  batch_size = 8
  context_tokens = 32
  steps = 2
  optimizer = @AdamW()
  schedule = @Constant()
DataConfig.stores = ('text',)
Constant.peak = 1e-3
"""


class Ran(NamedTuple):
  """The result of a command."""

  status: int
  out: str
  err: str


@pytest.fixture
def drope(capsys, monkeypatch):
  """Runs a command as the console script does."""
  monkeypatch.delenv("DROPE_DEBUG", raising=False)

  def run(*arguments) -> Ran:
    capsys.readouterr()
    try:
      status = main.main([str(argument) for argument in arguments])
    except SystemExit as exit_info:  # argparse exits on its own errors.
      status = exit_info.code
    return Ran(status, *capsys.readouterr())

  return run


@pytest.fixture
def ctrl_c():
  """Sends Ctrl-C, which a background job of a shell ignores."""
  own = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield lambda: signal.raise_signal(signal.SIGINT)
  signal.signal(signal.SIGINT, own)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> pathlib.Path:
  """A folder with text.txt, tiny.model, its store text, tiny.gin and run.

  Tests that write copy it: see `here`.
  """
  folder = tmp_path_factory.mktemp("trained")
  (folder / "text.txt").write_text(next(corpus.documents("fit"))[:20_000])
  (folder / "tiny.gin").write_text(RECIPE)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    tokenize = "tokenize text.txt --tokenizer tiny.model --out text --workers 1"
    vocab = ["--train-vocab", str(VOCAB_SIZE)]
    assert main.main([*tokenize.split(), *vocab]) == 0
    assert main.main(["train", "tiny.gin", "--out", "run"]) == 0
  return folder


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> pathlib.Path:
  """The run of `trained` as a Hugging Face folder; tests that write copy it."""
  folder = tmp_path_factory.mktemp("exported") / "hf"
  assert main.main(["export", str(trained / "run"), "--out", str(folder)]) == 0
  return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> pathlib.Path:
  """The working directory: a copy of `trained`."""
  folder = tmp_path / "here"
  shutil.copytree(trained, folder)
  monkeypatch.chdir(folder)
  return folder
