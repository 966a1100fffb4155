"""Each mistake: status 2, one line that says what to do, and no data lost."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import resource
import shutil
from typing import NamedTuple

import pytest

from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.cli import evaluate, main
from drope_jax.data import corpus


class Mistake(NamedTuple):
  """A command with a mistake, and the message that is expected.

  Attributes:
    name: of the test.
    command: its words, separated by spaces, without `--set`.
    says: parts of the message: required, got, and what to do, in this order.
    binding: value of --set.
    prepare: makes the mistake in the working directory.
  """

  name: str
  command: str
  says: tuple[str, ...]
  binding: str | None = None
  prepare: object = lambda: None


def _binding(name: str, binding: str, *says: str) -> Mistake:
  return Mistake(name, "train tiny.gin --out new", says, binding)


def _cut_short(pattern: str):
  """Returns a function that halves the one file matching `pattern`."""

  def prepare():
    (file,) = pathlib.Path().glob(pattern)
    os.truncate(file, file.stat().st_size // 2)

  return prepare


def _change_end_of_text():
  file = pathlib.Path("text/metadata.json")
  file.write_text(file.read_text().replace('"eos_id": 2', '"eos_id": 3'))


def _drop():
  assert main.main(["surgery", "run", "--out", "dropped"]) == 0


def _put_another_tokenizer():
  file = next(pathlib.Path().glob("run/pretrain/tokenizer/*"))
  shutil.copy(corpus.tokenizer_path(), file)


def _results():
  pathlib.Path("made").mkdir()
  pathlib.Path("made/results.json").write_text(
    '{"schema_version": 99, "code": ["9.9"], "finished": true, "rows": []}'
  )


def _two_short_texts():
  pathlib.Path("s.txt").write_text("A short text. " * 20)
  pathlib.Path("t.txt").write_text("Another text. " * 20)


CONFIG = [
  _binding(
    "an unknown class", "ModelConfg.width = 8", "ModelConfg", "'ModelConfig'?"
  ),
  _binding("an unknown field", "ModelConfig.widht = 8", "'widht'", "'width'?"),
  _binding(
    "an unknown macro",
    "ModelConfig.width = %W",
    "%W is not defined",
    "there is none",
  ),
  _binding(
    "another type", "ModelConfig.width = 'wide'", "must be int, got 'wide'"
  ),
  _binding(
    "no value", "ModelConfig.width", "--set", "Write Class.field = value"
  ),
  _binding("an open bracket", "DataConfig.stores = ('text',", "--set", "Close"),
  _binding(
    "a binding that nothing reads",
    "Cosine.peak = 1.0",
    "Cosine.peak changes nothing",
    "Remove it",
  ),
  _binding(
    "heads that do not divide",
    "ModelConfig.num_kv_heads = 3",
    "must divide num_heads",
    "got 2 heads and 3",
    "Change one",
  ),
  _binding(
    "an odd head_dim with RoPE",
    "ModelConfig.head_dim = 7",
    "even head_dim",
    "got 7",
    "Nope()",
  ),
  _binding(
    "no layers", "ModelConfig.num_layers = 0", "at least 1, got 0", "Set it"
  ),
  _binding(
    "no steps", "TrainPhase.steps = 0", "at least 1 step", "steps=0", "Raise it"
  ),
  _binding(
    "both lengths", "TrainPhase.tokens = 9", "either steps or tokens", "Set one"
  ),
  _binding(
    "a schedule longer than its phase",
    "Constant.warmup_steps = 5",
    "Constant needs 5 steps",
    "got a phase of 2",
    "Shorten",
  ),
  _binding(
    "microbatches that do not divide",
    "TrainPhase.accumulation = 3",
    "must divide batch_size",
    "got 3 and 8",
    "Change one",
  ),
  _binding(
    "an unknown dtype", "TrainPhase.compute_dtype = 'int8'", "float32", "int8"
  ),
  _binding(
    "an unknown backend", "Recipe.attention = 'flush'", "blockwise", "'flush'"
  ),
  _binding(
    "a batch that the devices do not divide",
    "TrainPhase.batch_size = 6",
    "split evenly over the mesh",
    "got a microbatch",
    "Change",
  ),
  _binding(
    "two phases of one name",
    "Recipe.phases = (@TrainPhase(), @TrainPhase())",
    "names that differ",
    "got pretrain, pretrain",
    "Rename",
  ),
  Mistake("no such recipe", "train nowhere.gin", ("nowhere.gin", "Give the")),
]

DATA = [
  _binding(
    "a context above the store's tokens",
    "TrainPhase.context_tokens = 100_000",
    "needs 100001 tokens",
    "got a store of",
    "Lower context_tokens",
  ),
  _binding(
    "no such store",
    "DataConfig.stores = ('nowhere',)",
    "token store is needed",
    "got nowhere, which does not exist",
    "drope tokenize",
  ),
  Mistake(
    "a store cut short",
    "train tiny.gin --out new",
    ("complete token store", "bytes of", "tokens/c/0", "Delete it"),
    prepare=_cut_short("text/tokens/c/0"),
  ),
  Mistake(
    "a store without one of its files",
    "train tiny.gin --out new",
    ("complete token store", "0 bytes of", "tokens/c/0", "Delete it"),
    prepare=lambda: os.remove("text/tokens/c/0"),
  ),
  Mistake(
    "a store whose metadata are cut short",
    "train tiny.gin --out new",
    ("complete token store", "damaged metadata.json", "Delete it"),
    prepare=_cut_short("text/metadata.json"),
  ),
  Mistake(
    "a store whose metadata were changed",
    "train tiny.gin --out new",
    ("complete token store", "got text", "match its checksum", "Delete it"),
    prepare=_change_end_of_text,
  ),
  Mistake(
    "an unfinished store",
    "train tiny.gin --out new",
    ("finished token store", "no metadata.json", "it resumes"),
    prepare=lambda: os.remove("text/metadata.json"),
  ),
  Mistake(
    "a store of another tokenizer",
    "train tiny.gin --out new --set ModelConfig.vocab_size=2048",
    ("needs the model's tokenizer", "got", "Tokenize the text again"),
    "Recipe.tokenizer = 'packaged:tokenizer/drope2k.model'",
  ),
  _binding(
    "a tokenizer larger than the model",
    "ModelConfig.vocab_size = 100",
    "must fit the model",
    "got 340 pieces",
    "Raise ModelConfig.vocab_size",
  ),
  _binding(
    "no such tokenizer",
    "Recipe.tokenizer = 'nowhere.model'",
    "tokenizer file is needed",
    "got nowhere.model",
    "--train-vocab",
  ),
  Mistake(
    "an input that is not there",
    "tokenize nowhere.txt --tokenizer tiny.model --out new",
    ("nowhere.txt",),
  ),
  Mistake(
    "a store's folder that holds other inputs",
    "tokenize tiny.gin text.txt --tokenizer tiny.model --out text",
    ("tiny.gin",),
  ),
  Mistake(
    "a store's folder that is something else",
    "tokenize text.txt --tokenizer tiny.model --out run",
    ("needs its own folder", "got run", "Choose another"),
  ),
]

RUNS = [
  Mistake(
    "another recipe's folder",
    "train tiny.gin --out run",
    (
      "the recipe that began it",
      "phases[0].steps was 2 and is 3",
      "another folder",
    ),
    "TrainPhase.steps = 3",
  ),
  Mistake(
    "a folder of other files",
    "train tiny.gin --out text",
    ("needs a new folder", "got text", "Choose another folder"),
  ),
  Mistake(
    "a file as folder",
    "train tiny.gin --out tiny.gin",
    ("tiny.gin",),
  ),
  Mistake(
    "no such checkpoint",
    "inspect nowhere",
    ("checkpoint", "nowhere, which does not exist", "Check the path"),
  ),
  Mistake(
    "a folder that is no checkpoint",
    "generate text --prompt a",
    ("checkpoint", "which has neither", "Check the path"),
  ),
  Mistake(
    "a checkpoint whose manifest is cut short",
    "inspect run/pretrain",
    ("complete checkpoint", "run/pretrain", "Copy it again"),
    prepare=_cut_short("run/pretrain/_CHECKPOINT_METADATA"),
  ),
  Mistake(
    "a checkpoint without its arrays",
    "generate run/pretrain --prompt a",
    ("complete checkpoint", "run/pretrain", "Copy it again"),
    prepare=lambda: shutil.rmtree("run/pretrain/params"),
  ),
  Mistake(
    "a checkpoint with another's tokenizer",
    "generate run/pretrain --prompt a",
    ("has SHA-256", "got", "Use the file"),
    prepare=_put_another_tokenizer,
  ),
]

SURGERY = [
  Mistake(
    "positions dropped twice",
    "surgery dropped --out new",
    ("needs positions", "got none in [0]", "Leave out"),
    prepare=_drop,
  ),
  Mistake(
    "a layer that is not there",
    "surgery run --out new --drop 0-1",
    ("in 0..0", "'0-1'", "Name layers"),
  ),
  Mistake(
    "matched gains without text",
    "surgery run --out new --qk-norm qk --qk-norm-init matched",
    ("measured on text", "got none", "Name it with --text"),
  ),
  Mistake(
    "a surgery onto what exists",
    "surgery run --out run/pretrain",
    ("new directory", "run/pretrain exists", "Choose another"),
  ),
]

EVALUATE = [
  Mistake(
    "an unknown eval",
    "evaluate run --eval perplexity,needle",
    ("must be some of", "got needle", "Name"),
  ),
  Mistake(
    "an unknown method",
    "evaluate run --positions model,yarnn",
    ("rope, pi, ntk, yarn", "'yarnn'", "Name"),
  ),
  Mistake(
    "yarn on a model without positions",
    "evaluate dropped --positions model,yarn",
    ("'yarn' needs a model with plain Rope", "got Nope()", "Keep its own"),
    prepare=_drop,
  ),
  Mistake(
    "results in a bucket",
    "evaluate run --out gs://bucket/results",
    ("--out must be local", "got gs://bucket/results", "Use a local path"),
  ),
  Mistake(
    "an analysis in a bucket",
    "analyse run bias --out gs://bucket/figures",
    ("--out must be local", "got gs://bucket/figures", "Use a local path"),
  ),
  Mistake(
    "a factor below 1",
    "evaluate run --factors 0.5,1",
    ("1 or more", "got (0.5, 1.0)", "length / trained length"),
  ),
  Mistake(
    "no number as a factor",
    "evaluate run --factors 1,nan",
    ("1 or more", "got (1.0, nan)"),
  ),
  Mistake(
    "factors that are no numbers",
    "evaluate run --factors 1x2",
    ("numbers such as 1,2,4,8", "'1x2'", "commas"),
  ),
  Mistake(
    "a factor named twice",
    "evaluate run --factors 2,2",
    ("named once", "got (2.0, 2.0)"),
  ),
  Mistake(
    "no samples",
    "evaluate run --samples 0",
    ("at least 1", "got (0, 0, 0, 0)"),
  ),
  Mistake(
    "no excerpts",
    "evaluate run --excerpts 0",
    ("Suite.excerpts must be at least 1", "got 0", "Raise it"),
  ),
  Mistake(
    "results of a later version",
    "evaluate run --out made",
    ("made/results.json: drope_jax", "of 9.9 (schema_version 99)", "Install"),
    prepare=_results,
  ),
  Mistake(
    "a file as the results' folder",
    "evaluate run --out tiny.gin",
    ("folder", "got the file tiny.gin", "another --out"),
  ),
  Mistake(
    "a file as a run's folder",
    "train tiny.gin --out tiny.gin",
    ("must be a folder", "got the file tiny.gin", "another --out"),
  ),
  Mistake(
    "text to test on and none to fit on",
    "evaluate run --text text.txt",
    (
      "other text for it than --text",
      "no --fit-text",
      "Suite.fit_factor = None",
    ),
  ),
  Mistake(
    "text to fit on and none to test on",
    "evaluate run --fit-text text.txt",
    ("is text beside --text", "got it alone", "both, or neither"),
  ),
  Mistake(
    "text too short for the factor",
    "evaluate run --eval perplexity --factors 8 --text s.txt --fit-text t.txt",
    ("Suite.excerpts: 8", "256 tokens", "hold 1", "pass more text"),
    prepare=_two_short_texts,
  ),
  Mistake(
    "the same text to test and to fit on",
    "evaluate run --text text.txt --fit-text text.txt",
    ("must not overlap", "of text.txt (document 1) that stand in", "Take them"),
  ),
  Mistake(
    "a context too short for a task",
    "evaluate run --eval multi_key --factors 1",
    ("Task multi_key needs", "got a length of 32", "Use a longer length"),
  ),
  Mistake(
    "a factor beyond all text",
    "evaluate run --eval passkey --factors 1e9",
    ("haystack of 32000000000 tokens", "got documents of", "Pass more text"),
  ),
  Mistake(
    "no such suite",
    "evaluate run --suite nowhere.gin",
    ("nowhere.gin", "Give the path"),
  ),
  Mistake(
    "a recipe as suite",
    "evaluate run --suite tiny.gin",
    ("tiny.gin: a config of a Suite", "binds ModelConfig, ", "binds Suite."),
  ),
]

GENERATE = [
  Mistake(
    "no tokens",
    "generate run --prompt a --max-new-tokens 0",
    ("at least 1", "got 0", "Raise"),
  ),
  Mistake(
    "a negative temperature",
    "generate run --prompt a --temperature -1",
    ("at least 0", "-1.0", "Change"),
  ),
  Mistake(
    "no softmax scale",
    "generate run --prompt a --logit-scale nan",
    ("--logit-scale must be finite and above 0", "got nan", "Change it"),
  ),
  Mistake("no prompt", "generate run", ("needs a prompt", "--prompt TEXT")),
  Mistake(
    "a word for a number",
    "generate run --prompt a --max-new-tokens many",
    ("--max-new-tokens", "'many'", "--help"),
  ),
  Mistake(
    "no such run", "report nowhere", ("results.json", "nowhere", "evaluate")
  ),
]


@pytest.mark.parametrize(
  "mistake",
  [*CONFIG, *DATA, *RUNS, *SURGERY, *EVALUATE, *GENERATE],
  ids=lambda mistake: mistake.name,
)
def test_a_mistake_is_one_line_and_changes_no_file(drope, here, mistake):
  mistake.prepare()
  before = _digests(here)
  binding = ["--set", mistake.binding] if mistake.binding else []
  ran = drope(*mistake.command.split(), *binding)
  assert ran.status == 2, ran
  (line,) = ran.err.strip().splitlines()
  assert line.startswith(f"drope {mistake.command.split()[0]}: ")
  places = [line.find(words) for words in mistake.says]
  assert -1 not in places and places == sorted(places), (mistake.says, line)
  assert _digests(here) == before


def test_a_changed_bit_in_a_store_is_one_line_and_a_repaired_one_resumes(
  drope, here
):
  file = here / "text/tokens/c/0"
  whole = file.read_bytes()
  damaged = bytearray(whole)
  damaged[len(damaged) // 3] ^= 1
  every = "Recipe.save_every_steps = 1"
  longer = "TrainPhase.steps = 4"
  command = ("train", "tiny.gin", "--set", every, "--set", longer)
  file.write_bytes(damaged)
  ran = drope(*command, "--out", "new")
  assert ran.status == 2, ran
  line = ran.err.splitlines()[-1]
  assert "complete token store" in line and "tokens/c/0" in line
  assert "Delete it" in line and "Traceback" not in ran.err
  file.write_bytes(whole)
  assert drope(*command, "--out", "new").status == 0


def test_the_tests_digests_detect_a_changed_byte(here):
  before = _digests(here)
  assert len(before) > 20
  _cut_short("text/metadata.json")()
  assert _digests(here) != before


@pytest.mark.parametrize(
  ("command", "place"),
  [
    ("surgery run --out new", (tokenizer_file.Files, "write")),
    (
      "tokenize text.txt --tokenizer tiny.model --workers 1 --out new",
      ("drope_jax.data.writer.np", "savez"),
    ),
  ],
)
def test_a_full_disk_is_one_line_and_the_same_command_resumes(
  drope, here, monkeypatch, command, place
):
  before = _digests(here)
  with monkeypatch.context() as patch:
    _fill_disk(patch, *place)
    ran = drope(*command.split())
  assert ran.status == 2, ran
  (line,) = ran.err.strip().splitlines()
  assert "the disk is full" in line and "Free some space" in line
  assert before.items() <= _digests(here).items()
  with pytest.raises((FileNotFoundError, ValueError)):
    store.locate(here / "new")
  assert drope(*command.split()).status == 0


@pytest.fixture
def small_files():
  """Returns a context in which no file can grow beyond 10 kB."""

  @contextlib.contextmanager
  def limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  return limit


@pytest.mark.parametrize("command", ["convert hf", "export run", "surgery run"])
def test_a_write_that_does_not_fit_the_disk_leaves_no_file(
  drope, here, exported, small_files, command
):
  shutil.copytree(exported, here / "hf")
  before = sorted(here.rglob("*"))
  with small_files():
    ran = drope(*command.split(), "--out", "new")
  assert ran.status == 2, ran
  (line,) = ran.err.strip().splitlines()
  assert "larger than the disk" in line and "Free some space" in line
  assert sorted(here.rglob("*")) == before
  assert drope(*command.split(), "--out", "new").status == 0


def test_results_are_complete_or_absent_on_a_full_disk(
  drope, here, monkeypatch
):
  monkeypatch.setattr(evaluate, "compare", lambda *args, **kwargs: None)
  command = ["evaluate", "run", "--out", "new"]
  with monkeypatch.context() as patch:
    _fill_disk(patch, os, "replace")
    ran = drope(*command)
  assert ran.status == 2 and "the disk is full" in ran.err
  assert drope(*command).status == 0
  found = json.loads((here / "new/results.json").read_text())
  assert found["finished"] and found["rows"] == []


def _fill_disk(patch, *place) -> None:
  def write(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  *where, name = place
  if isinstance(where[0], str):
    patch.setattr(f"{where[0]}.{name}", write)
  else:
    patch.setattr(where[0], name, write)


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of every file under `folder`, by its path."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
