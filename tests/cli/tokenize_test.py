"""`drope tokenize`: files in, a store out, mistakes in one line."""

import os
import random
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


# Batches and parts are small, so that a kill finds some done and some not.
_IN_SMALL_PARTS = """
import sys
from drope_jax.cli import main
from drope_jax.data import writer
writer._BATCH_SIZE, writer._PART_TOKENS = 1 << 14, 1 << 15
if __name__ == "__main__":
  sys.exit(main.main())
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_it_resumes(tmp_path, workers):
  script = tmp_path / "small_parts.py"
  script.write_text(_IN_SMALL_PARTS)
  inputs = (*(2 * ["packaged:fit", "packaged:test"]), "--tokenizer", "packaged")
  out = tmp_path / "killed"
  command = [sys.executable, script, "tokenize", *inputs]
  command += ["--workers", str(workers), "--out", str(out)]
  rng, array = random.Random(0), out / "tokens" / "zarr.json"

  def parts():
    return len(list(out.glob("parts/*.npz")))

  def begun():
    return array.stat().st_mtime_ns if array.exists() else 0

  # Thrice among the parts, thrice while they are joined, or removed.
  for kill in range(7):
    process = subprocess.Popen(
      command,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      stderr=subprocess.PIPE,
    )
    wanted, before = parts() + rng.randint(1, 5), begun()
    while process.poll() is None and kill < 6:
      time.sleep(0.002)
      if kill < 3 and parts() >= wanted or kill >= 3 and begun() != before:
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
    # Its workers hold its stderr: this would wait for one that lived on.
    error = process.communicate(timeout=30)[1]
    if kill < 3:
      assert process.returncode == -signal.SIGKILL, "it was done before"
  assert (process.returncode, error) == (0, b"")
  assert _tokenize(*inputs, "--out", tmp_path / "whole") == 0
  killed, whole = (
    store.Store.open(str(path)) for path in (out, tmp_path / "whole")
  )
  assert killed.fingerprint == whole.fingerprint
  killed.verify()
  assert [path.name for path in out.iterdir() if "parts" in path.name] == []


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
