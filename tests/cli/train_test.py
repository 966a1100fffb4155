"""`drope train`: what it hands to the loop, and a run that was stopped."""

import errno
import json
import os
import shutil

import jax
import pytest

from drope_jax.analysis import records
from drope_jax.checkpoint import manifest, store
from drope_jax.checkpoint.model import Model
from drope_jax.cli import termination, train
from drope_jax.data import lock
from drope_jax.positional import Nope
from drope_jax.train import metrics


@pytest.fixture
def handed(monkeypatch):
  """Puts a recorder in the place of the loop."""
  calls = []

  def run(recipe, directory, **others):
    calls.append((recipe, str(directory), others["base_dir"]))
    model = Model({}, manifest.Manifest(recipe.model))
    others["on_model"]("start", model)

  monkeypatch.setattr(train.loop, "run", run)
  return calls


def test_the_recipe_is_the_files_with_the_overrides(drope, here, handed):
  ran = drope(
    *("train", "tiny.gin", "--data", "texts", "--out", "o"),
    *("--set", "TrainPhase.steps = 7", "--set", "ModelConfig.width=8"),
  )
  assert ran.status == 0
  ((recipe, out, base_dir),) = handed
  assert (out, base_dir) == ("o", "texts")
  assert recipe.phases[0].steps == 7
  assert (recipe.model.width, recipe.model.num_layers) == (8, 1)
  assert "start: 0 tokens" in ran.err
  assert "drope inspect o/pretrain" in ran.out


def test_the_runs_folder_is_named_after_the_config(drope, handed):
  drope("train", "recipes/tiny.gin")
  assert [out for _, out, _ in handed] == ["runs/tiny"]


@pytest.mark.parametrize(
  "command",
  [
    "train tiny.gin --out new",
    "tokenize text.txt --tokenizer tiny.model --workers 1 --out new",
    "demo --out new",
  ],
)
def test_a_folder_that_another_process_writes_is_refused(drope, here, command):
  with lock.held("new"):
    before = (here / "new" / lock.FILENAME).read_bytes()
    ran = drope(*command.split())
    assert ran.status == 2 and ran.err.count("\n") == 1
    assert f"got new, where process {os.getpid()} on" in ran.err
    assert [path.name for path in (here / "new").iterdir()] == [lock.FILENAME]
    assert (here / "new" / lock.FILENAME).read_bytes() == before


def test_a_disk_that_fills_up_costs_the_steps_since_the_last_save(
  drope, here, monkeypatch
):
  command = ["train", "tiny.gin", "--out", "new", "--set"]
  command += ["TrainPhase.steps = 3", "--set", "Recipe.save_every_steps = 1"]
  command += ["--set", "Recipe.log_every_steps = 1"]
  write = metrics.MetricsLog.write

  def write_two(self, line):
    if line["step"] == 3:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(self, line)

  with monkeypatch.context() as patch:
    patch.setattr(metrics.MetricsLog, "write", write_two)
    ran = drope(*command)
  assert ran.status == 2
  assert ran.err.splitlines()[-1].startswith("drope train: the disk is full")
  assert store.finished_steps("new") == [1, 2]
  assert drope(*command).status == 0
  assert [line["step"] for line in records.read_metrics("new")] == [1, 2, 3]
  assert store.describe("new/pretrain")[0].lineage[-1].steps == 3


@pytest.mark.parametrize("before, after", [([], 501), ([7, 8], 40)])
def test_a_signal_ends_processes_whose_steps_leave_numbers_out(
  monkeypatch, before, after
):
  """Before the first step of a run that resumes, and at a phase's early end."""
  last, end = 0, None

  def reached(number):
    nonlocal last
    last = number
    return number == end

  monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
  monkeypatch.setattr(
    train.multihost_utils, "reached_preemption_sync_point", reached
  )
  stopping = train._stopping(termination.StopRequest("drope train", True))
  assert not any(map(stopping, before))
  end = last + 1  # As JAX's coordination service decides after a signal.
  assert stopping(after)
  assert stopping(after + 1)


@pytest.mark.parametrize("command", ["train tiny.gin", "sweep sweeps/tiny.gin"])
def test_the_folder_of_an_unset_variable_is_refused(drope, here, command):
  ran = drope(*command.split(), "--out", "")
  assert ran.status == 2 and "got an empty text" in ran.err
  assert not (here / "runs").exists()


def test_init_from_starts_where_the_command_runs(drope, here):
  for name in ("text", "tiny.model"):
    (here / "stores").mkdir(exist_ok=True)
    (here / name).rename(here / "stores" / name)
  command = ["train", "tiny.gin", "--data", "stores", "--out", "new"]
  bindings = ["Recipe.model = None", "Recipe.tokenizer = None"]
  command += [word for binding in bindings for word in ("--set", binding)]
  for init_from, data in (("gone", "stores"), ("run", ".")):
    binding = f"Recipe.init_from = '{init_from}'"
    ran = drope(*command, "--data", data, "--set", binding)
    assert ran.status == 2
    assert "start at --data; Recipe.init_from and the text" in ran.err
    assert not (here / "new").exists()
  assert drope(*command, "--set", "Recipe.init_from = 'run'").status == 0
  assert store.describe("new")[0].lineage[-1].parent == "run"


def test_a_recipe_may_have_a_surgery_alone(drope, here):
  (here / "cut.gin").write_text(
    "Recipe.init_from = 'packaged:checkpoints/demo_base'\n"
    "Recipe.phases = (@SurgeryPhase(),)\n"
    "SurgeryPhase.surgery = @Surgery()\n"
  )
  ran = drope("train", "cut.gin", "--out", "cut")
  assert ran.out == "cut: finished. `drope inspect cut/surgery` shows it.\n"
  assert store.describe(here / "cut" / "surgery")[0].model.positional == Nope()


def test_ids_without_a_piece_are_said_once(drope, here, monkeypatch):
  def run(recipe, directory, **others):
    tokenizer = manifest.TokenizerRef("tiny.model", "ab", 335)
    model = Model({}, manifest.Manifest(recipe.model, tokenizer))
    for name in ("start", "pretrain"):
      others["on_model"](name, model)

  monkeypatch.setattr(train.loop, "run", run)
  unused = "The model's last 5 of 340 ids have no piece in its tokenizer"
  assert drope("train", "tiny.gin").err.count(unused) == 1


def test_the_best_step_is_found_by_that_name(drope, here):
  shutil.copytree("text", "held")
  bindings = [
    "TrainPhase.held_out = @HeldOut()",
    "HeldOut.data = @held/DataConfig()",
    "held/DataConfig.stores = ('held',)",
    "HeldOut.every_steps = 1",
    "HeldOut.sequences = 8",
    "TrainPhase.steps = 4",
    "Constant.peak = 3.0",  # What follows the first steps is no better.
    "Recipe.save_every_steps = 1",
    "Recipe.keep_saves = 1",
  ]
  command = ["train", "tiny.gin", "--out", "new"]
  for binding in bindings:
    command += ["--set", binding]
  assert drope(*command).status == 0
  losses = [line["held_out_loss"] for line in records.read_metrics("new")]
  best = losses.index(min(losses)) + 1
  assert best < 4 and store.finished_steps("new") == [best, 4]
  ran = drope("inspect", "new/best", "--json")
  arguments = json.loads(ran.out)["lineage"][-1]["arguments"]
  assert arguments["held_out_loss"] == min(losses)
  ran = drope("inspect", "run/best")
  assert ran.status == 2 and "that was measured, got none" in ran.err


def _traced_steps(file):
  """Returns the numbers of the steps that a trace has."""
  data = jax.profiler.ProfileData.from_file(str(file))
  return {
    dict(event.stats)["step_num"]
    for plane in data.planes
    for line in plane.lines
    for event in line.events
    if event.name == "train"
  }


def test_some_steps_are_traced_and_what_xla_makes_of_one_is_kept(drope, here):
  command = ["train", "tiny.gin", "--out", "new"]
  for binding in (
    "TrainPhase.steps = 5",
    "Recipe.profile_steps = (3, 4)",
    "Recipe.dump_xla = True",
  ):
    command += ["--set", binding]
  assert drope(*command).status == 0
  traces = here / "new" / "tensorboard" / "plugins" / "profile"
  (file,) = traces.rglob("*.*")
  assert file == traces / "step_3" / "process_0.xplane.pb"
  assert _traced_steps(file) == {3, 4}
  dumped = {
    stage: [*(here / "new" / "xla" / "pretrain").glob(f"*{stage}.txt")]
    for stage in ("before_optimizations", "after_optimizations")
  }
  for (file,) in dumped.values():
    assert "HloModule jit_step" in file.read_text()
  # The run is the same one without.
  assert drope(*command, "--set", "Recipe.dump_xla = False").status == 0


EVALS = """
include 'evals/standard.gin'

Suite:
  evals = ('passkey',)
  methods = ('model',)
  factors = (4.0,)
  samples = (1,)
  max_new_tokens = 1
  fit_factor = None
TrainPhase.evals = @Periodic()
Periodic:
  suite = @Suite()
  every_steps = 1
  best = 'passkey.accuracy.4x'
"""


def test_a_suite_measures_a_training_as_it_goes(drope, here):
  (here / "evals.gin").write_text((here / "tiny.gin").read_text() + EVALS)
  ran = drope("train", "evals.gin", "--out", "measured")
  assert ran.status == 0, ran.err
  lines = (here / "measured/metrics.jsonl").read_text().splitlines()
  scores = [json.loads(line)["passkey.accuracy.4x"] for line in lines]
  assert len(scores) == 2 and {*scores} <= {0.0, 1.0}
  assert drope("inspect", "measured/best").status == 0
  page = here / "r.html"
  assert drope("report", "measured", "--out", page).status == 0
  assert "Scores during training" in page.read_text()
