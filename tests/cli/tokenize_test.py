"""`drope tokenize`: files in, a store out, mistakes in one line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from drope_jax.cli import main
from drope_jax.data import corpus, store, tokenizer


@pytest.fixture
def texts(tmp_path):
  folder = tmp_path / "texts"
  folder.mkdir()
  for i, name in enumerate(("a", "b", "c")):
    text = f"The whale number {i}\n<|doc|>\nand the sea. " * 20
    (folder / f"{name}.txt").write_text(text)
  return folder


def _tokenize(*arguments):
  return main.main(["tokenize", *map(str, arguments)])


def test_store_holds_the_inputs_in_order(texts, tmp_path, capsys):
  out = tmp_path / "store"
  path = corpus.tokenizer_path()
  assert _tokenize(texts, "--tokenizer", path, "--out", out) == 0
  made = store.Store.open(str(out))
  tok = tokenizer.load(path)
  bounds = made.boundaries
  assert [
    tok.decode(made.read(a, b - 1))
    for a, b in zip(bounds[:-1], bounds[1:], strict=True)
  ] == [(texts / f"{name}.txt").read_text() for name in "abc"]
  assert f"{made.num_tokens:,} tokens in 3 documents" in capsys.readouterr().out


def test_separator_cuts_text_files(texts, tmp_path):
  out = tmp_path / "store"
  _tokenize(
    texts, "--tokenizer", "packaged", "--out", out, "--separator=<|doc|>"
  )
  assert store.Store.open(str(out)).num_documents == 3 * 21


def test_train_vocab_makes_the_tokenizer_and_resumes_with_it(texts, tmp_path):
  out, path = tmp_path / "store", tmp_path / "t.model"
  command = (texts, "--tokenizer", path, "--train-vocab", 290, "--out", out)
  assert _tokenize(*command) == 0
  made, stamp = store.Store.open(str(out)), path.stat().st_mtime_ns
  assert made.vocab_size == 290
  assert made.tokenizer_fingerprint == tokenizer.load(str(path)).fingerprint
  assert _tokenize(*command) == 0
  assert path.stat().st_mtime_ns == stamp


def test_killed_and_run_again_equals_uninterrupted(tmp_path):
  command = [
    *(4 * ["packaged:fit", "packaged:test"]),
    *("--tokenizer", "packaged", "--workers", "1", "--out"),
  ]
  out = tmp_path / "killed"
  code = "import sys; from drope_jax.cli import main; sys.exit(main.main())"
  process = subprocess.Popen(
    [sys.executable, "-c", code, "tokenize", *command, str(out)],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    stderr=subprocess.DEVNULL,
  )
  while process.poll() is None and not (out / "parts/000000.npz").exists():
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
  with pytest.raises(ValueError, match="finished token store is needed"):
    store.Store.open(str(out))
  assert _tokenize(*command, out) == 0
  assert _tokenize(*command, tmp_path / "whole") == 0
  killed, whole = (
    store.Store.open(str(path)) for path in (out, tmp_path / "whole")
  )
  assert killed.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["absent.txt", "--tokenizer", "packaged"], "there is none"),
    (["packaged:dev", "--tokenizer", "packaged"], "train, fit, test"),
    (["packaged:fit", "--tokenizer", "absent.model"], "does not exist"),
    (["packaged:fit", "--tokenizer", "packaged", "--workers=0"], "--workers"),
    (
      ["packaged:fit", "--tokenizer", "t.json", "--train-vocab=300"],
      "ends in .model",
    ),
    (
      ["packaged:fit", "--tokenizer", "{packaged}", "--train-vocab=300"],
      "which exists",
    ),
    (
      ["packaged:fit", "--tokenizer", "{new}", "--train-vocab=100"],
      "got 100 pieces",
    ),
  ],
)
def test_a_mistake_is_one_line_and_status_2(
  tmp_path, capsys, arguments, message
):
  names = {"packaged": corpus.tokenizer_path(), "new": f"{tmp_path}/new.model"}
  arguments = [argument.format(**names) for argument in arguments]
  assert _tokenize(*arguments, "--out", tmp_path / "store") == 2
  error = capsys.readouterr().err.strip()
  assert message in error and len(error.splitlines()) == 1
  assert not (tmp_path / "store").exists()
