"""`drope tokenize`: files in, a store out, mistakes in one line."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from drope_jax.cli import main
from drope_jax.data import corpus, store, tokenizer, writer


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
  whole = [(texts / f"{name}.txt").read_text() for name in "abc"]
  assert _documents(out) == whole
  assert f"{made.num_tokens:,} tokens in 3 documents" in capsys.readouterr().out


def test_a_separator_splits_text_files(texts, tmp_path):
  out = tmp_path / "store"
  _tokenize(
    texts, "--tokenizer", "packaged", "--out", out, "--separator=<|doc|>"
  )
  assert store.Store.open(str(out)).num_documents == 3 * 21


def _documents(out):
  made = store.Store.open(str(out))
  tok = tokenizer.load(corpus.tokenizer_path())
  bounds = made.boundaries
  return [
    tok.decode(made.read(a, b - 1))
    for a, b in zip(bounds[:-1], bounds[1:], strict=True)
  ]


def test_left_out_documents_are_reported_and_counted(tmp_path, capsys):
  folder = tmp_path / "in"
  folder.mkdir()
  (folder / "a.pdf").touch()
  (folder / ".git").mkdir()
  (folder / "a.jsonl").write_text(
    '{"text": "one"}\n{"text": null}\n{"text": ""}\n{"txt": "x"}\n'
    '{"text": null}\n{"text": "two"}\n'
  )
  command = (folder, "--tokenizer", "packaged", "--out", tmp_path / "s")
  assert _tokenize(*command) == 2
  left_out, refused = capsys.readouterr().err.splitlines()
  assert left_out.startswith("2 left out: 1 .pdf (")
  assert 'no "text" at ' + f"{folder}/a.jsonl:4" in refused
  assert "leave it out (--skip-bad)" in refused
  # Finished documents stay valid, and the counts are kept.
  for _ in range(2):
    assert _tokenize(*command, "--skip-bad") == 0
    ran = capsys.readouterr()
    assert "2 documents" in ran.out
    assert "left out: 2 null, 1 bad, 1 empty documents" in ran.out
  assert _documents(tmp_path / "s") == ["one", "two"]


def test_counts_of_left_out_documents_survive_a_kill(tmp_path, monkeypatch):
  monkeypatch.setattr(writer, "_BATCH_SIZE", 1)
  monkeypatch.setattr(writer, "_PART_TOKENS", 1)
  lines = '{"text": null}\n{"text": "one"}\nbad\n{"text": ""}\n' * 3
  (tmp_path / "a.jsonl").write_text(lines)
  command = ["--tokenizer", "packaged", "--skip-bad", "--workers", 1]
  write, calls = writer._write_part, []

  def killed(path, held):
    write(path, held)
    calls.append(path)
    if len(calls) == 3:
      raise KeyboardInterrupt

  for out in ("whole", "killed"):
    if out == "killed":
      monkeypatch.setattr(writer, "_write_part", killed)
      calls.clear()
    arguments = (tmp_path / "a.jsonl", *command, "--out", tmp_path / out)
    if out == "killed":
      assert _tokenize(*arguments) == 130
    assert _tokenize(*arguments) == 0
  whole, resumed = (
    store.Store.open(str(tmp_path / out)).metadata
    for out in ("whole", "killed")
  )
  assert whole.skipped == {"null": 3, "bad": 3, "empty": 3}
  assert resumed == whole


def test_encoding_and_format_apply_to_the_files(tmp_path):
  (tmp_path / "a").write_bytes('{"text": "café"}'.encode("latin-1"))
  out = tmp_path / "s"
  options = ["--encoding", "latin-1", "--format", "JSONL"]
  command = (tmp_path / "a", "--tokenizer", "packaged", "--out", out, *options)
  assert _tokenize(*command) == 0
  assert _documents(out) == ["café"]


def test_standard_input_is_read_and_does_not_resume(
  tmp_path, monkeypatch, capsys
):
  def piped(data, *options):
    stream = io.TextIOWrapper(io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", stream)
    command = ["-", "--tokenizer", "packaged", "--out", tmp_path / "s"]
    return _tokenize(*command, *options)

  monkeypatch.setattr(writer, "_PART_TOKENS", 1)
  bad = b'{"text": "one"}\nbad'
  assert piped(bad, "--format", "jsonl") == 2
  assert "standard input:2" in capsys.readouterr().err
  assert piped(bad, "--format", "jsonl", "--skip-bad") == 2
  line = capsys.readouterr().err.strip()
  assert "standard input cannot be resumed" in line and "delete it" in line
  shutil.rmtree(tmp_path / "s")

  def interrupted(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(writer, "_write_part", interrupted)
    assert piped(b"a text") == 130
  line = capsys.readouterr().err.strip()
  assert "stopped; standard input cannot be resumed: delete" in line
  shutil.rmtree(tmp_path / "s")
  assert piped(b"a text") == 0
  assert _documents(tmp_path / "s") == ["a text"]


def test_train_vocab_trains_a_tokenizer_and_resumes_with_it(texts, tmp_path):
  out, path = tmp_path / "store", tmp_path / "t.model"
  command = (texts, "--tokenizer", path, "--train-vocab", 290, "--out", out)
  assert _tokenize(*command) == 0
  made, stamp = store.Store.open(str(out)), path.stat().st_mtime_ns
  assert made.vocab_size == 290
  assert made.tokenizer_fingerprint == tokenizer.load(str(path)).fingerprint
  assert _tokenize(*command) == 0
  assert path.stat().st_mtime_ns == stamp


# Batches and parts are small, so that a kill comes between them.
_IN_SMALL_PARTS = """
import sys
from drope_jax.cli import main
from drope_jax.data import writer
writer._BATCH_SIZE, writer._PART_TOKENS = 1 << 14, 1 << 15
if __name__ == "__main__":
  sys.exit(main.main())
"""


@pytest.mark.parametrize(
  "workers", [1, pytest.param(2, marks=pytest.mark.slow)]
)
def test_tokenizing_resumes_after_a_kill(tmp_path, workers):
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

  # Three times among the parts, three times while they are joined or removed.
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
    # Its workers hold its stderr: this waits until all have ended.
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
    (
      ["absent.txt", "--tokenizer", "packaged"],
      "absent.txt, which matches no file",
    ),
    (["packaged:dev", "--tokenizer", "packaged"], "train, fit, test"),
    (["packaged:fit", "--tokenizer", "absent.model"], "does not exist"),
    (["packaged:fit", "--tokenizer", "packaged", "--workers=0"], "--workers"),
    (["-", "--tokenizer", "{new}", "--train-vocab=300"], "read only once"),
    (["-", "--tokenizer", "packaged", "--format=doc"], "got '.doc'"),
    (["-", "--tokenizer", "packaged", "--encoding=x"], "got 'x'"),
    (
      ["-", "--tokenizer", "packaged", "--max-document-mib=0"],
      "at least 1 byte",
    ),
    (
      ["packaged:fit", "--tokenizer", "t.json", "--train-vocab=300"],
      "end in .model",
    ),
    (
      ["packaged:fit", "--tokenizer", "{packaged}", "--train-vocab=300"],
      "which exists",
    ),
    (
      ["packaged:fit", "--tokenizer", "{new}", "--train-vocab=100"],
      "got 100 pieces",
    ),
    (
      ["packaged:fit", "--tokenizer", "{new}", "--train-vocab=100000000000"],
      "got 100000000000",
    ),
    (["", "--tokenizer", "packaged"], "got an empty text"),
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
