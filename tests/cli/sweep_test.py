"""`drope sweep`: every point, in parts, and only what is left."""

import json
import pathlib
import re

import pytest

from drope_jax.cli import main, sweep, termination

SWEEP = """
Sweep:
  recipe = 'tiny.gin'
  axes = (@Axis(),)
  seeds = (0, 1)
  shown = ('loss',)
Axis:
  name = 'rate'
  values = {'low': ('Constant.peak = 1e-4',), 'high': ()}
"""


@pytest.fixture
def ran(here, monkeypatch):
  """The commands that a sweep in `here` ran, in this process."""
  (here / "sweep.gin").write_text(SWEEP)
  commands = []

  def run(what, command):
    commands.append((what, command))
    return main.main(command) or None

  monkeypatch.setattr(sweep, "_run", run)
  return commands


def test_parts_train_their_points_and_the_table_has_what_is_there(drope, ran):
  first = drope("sweep", "sweep.gin", "--part", "1/2", "--out", "out")
  assert first.status == 0, first.err
  assert [what for what, _ in ran] == ["low_s0", "low_s1"]
  assert "2 of 4 trainings" in first.out
  second = drope("sweep", "sweep.gin", "--part", "2/2", "--out", "out")
  assert [what for what, _ in ran[2:]] == ["high_s0", "high_s1"]
  assert "4 of 4 trainings" in second.out
  data = json.loads(pathlib.Path("out/sweep.json").read_text())
  losses = {
    (*row["labels"], row["seed"]): row["scores"]["loss"]
    for row in data["trainings"]
  }
  assert len(set(losses.values())) == 4
  for (label, seed), loss in losses.items():
    log = pathlib.Path(f"out/{label}_s{seed}/metrics.jsonl").read_text()
    assert json.loads(log.splitlines()[-1])["loss"] == loss
  written = pathlib.Path("out/low_s0/pretrain").stat().st_mtime_ns
  again = drope("sweep", "sweep.gin", "--out", "out")
  assert (
    again.out.split("out/sweep.json")[1]
    == second.out.split("out/sweep.json")[1]
  )
  assert pathlib.Path("out/low_s0/pretrain").stat().st_mtime_ns == written


def test_a_table_of_nothing_says_so(drope, ran):
  found = drope("sweep", "sweep.gin", "--table", "--out", "empty")
  assert found.out.splitlines()[-1] == "0 of 4 trainings are finished"
  assert not ran


def test_a_failed_point_leaves_the_others(drope, here, ran, monkeypatch):
  def run(what, command):
    return 80 if what == "low_s0" else main.main(command) or None

  monkeypatch.setattr(sweep, "_run", run)
  found = drope("sweep", "sweep.gin", "--set", "Sweep.seeds = (0,)")
  assert found.status == 80
  assert "1 of 2 trainings" in found.out  # In runs/sweep.


def test_a_list_has_each_points_bindings(drope, ran):
  found = drope("sweep", "sweep.gin", "--list")
  assert found.out.splitlines()[0] == (
    "low_s0: Recipe.seed = 0; Constant.peak = 1e-4"
  )
  assert len(found.out.splitlines()) == 4 and not ran


SUITE = """
Suite:
  evals = ('perplexity',)
  methods = ('model', 'ntk')
  factors = (1.0, 2.0)
  samples = (1, 1)
  excerpts = 2
  fit_factor = None
"""


@pytest.fixture
def evaluated(here, ran):
  """As `ran`, of a sweep with a suite and the reference `ref`."""
  (here / "suite.gin").write_text(SUITE)
  (here / "sweep.gin").write_text(
    SWEEP
    + """
Sweep:
  suite = 'suite.gin'
  methods = ('model',)
  references = {'ref': 'run/pretrain'}
  against = 'ref · NTK'
  shown = ('loss', 'perplexity tail_loss 2x')
"""
  )
  return ran


def test_what_is_kept_counts_as_done_and_is_shown(drope, here, evaluated):
  keep = here / "kept"
  command = ("sweep", "sweep.gin", "--keep", keep)
  first = drope(*command, "--points", "low_s0,high_s0", "--out", "one")
  assert first.status == 0, first.err
  assert [what for what, _ in evaluated] == [
    *("ref: evaluation", "low_s0", "low_s0: evaluation"),
    *("high_s0", "high_s0: evaluation"),
  ]
  assert sorted(p.name for p in (keep / "low_s0").iterdir()) == [
    "metrics.jsonl",
    "results.json",
  ]
  # Another machine has the kept files alone.
  evaluated.clear()
  second = drope(*command, "--out", "two")
  assert second.status == 0, second.err
  trained = [what for what, _ in evaluated if not what.endswith("evaluation")]
  assert trained == ["low_s1", "high_s1"]
  evaluated.clear()
  shown = drope(*command, "--table", "--out", "three")
  assert not evaluated and "4 of 4 trainings" in shown.out
  markdown = pathlib.Path("three/sweep.md").read_text()
  table, apart = markdown.split("perplexity tail_loss: ")[1:]
  # Only references are read by all methods of the suite.
  assert re.findall(r"^\| ([\w ·]+) \|", table, re.MULTILINE) == [
    *("rate", "low", "high", "ref", "ref · NTK"),
  ]
  assert apart.startswith("minus ref · NTK, intervals over the same samples")
  assert re.search(r"^\| low \| [+-]\d\.\d{3}", apart, re.MULTILINE)


def test_the_points_of_a_part_are_listed(drope, ran):
  whole = drope("sweep", "sweep.gin", "--list").out.splitlines()
  part = drope("sweep", "sweep.gin", "--list", "--part", "2/2").out.splitlines()
  assert part == whole[1::2] and part


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("Axis.values={'low':('Constant.peak = 2e-4',)}", "schedule.peak differs"),
    ("Sweep.recipe='later.gin'", "Recipe.init_from differs"),
    ("Sweep.overrides=('ModelConfig.mlp_width=8',)", "mlp_width differs"),
    ("Sweep.suite='other.gin'", "sweep's suite, .* another excerpts"),
  ],
)
def test_what_was_kept_of_something_else_is_refused(
  drope, here, evaluated, change, message
):
  command = (
    "sweep",
    "sweep.gin",
    "--keep",
    "kept",
    "--set",
    "Sweep.seeds=(0,)",
  )
  assert drope(*command, "--points", "low_s0", "--out", "out").status == 0
  (here / "other.gin").write_text(SUITE.replace("excerpts = 2", "excerpts = 1"))
  (here / "later.gin").write_text(
    (here / "tiny.gin").read_text()
    + "Recipe.model = None\nRecipe.tokenizer = None\n"
    "Recipe.init_from = 'run/pretrain'\n"
  )
  evaluated.clear()
  found = drope(*command, "--set", change, "--out", "new")
  assert found.status == 2 and re.search(message, found.err), found.err
  assert found.err.count("\n") == 1 and not evaluated
  shown = drope(*command, "--set", change, "--out", "new", "--table")
  assert shown.status == 2 and re.search(message, shown.err), shown.err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ("--set Axis.values={'low':('Constant.peek=1',)}", "point low_s0: .*peek"),
    ("--set Sweep.recipe='no.gin'", "no.gin is neither a file nor"),
    ("--keep kept", "--keep needs a sweep with a suite, .* got kept"),
    ("--points mid*", "got 'mid[*]', which is none of low_s0, high_s0"),
    ("--part 3/2", "a part is K/N such as 2/8, .* got '3/2'"),
  ],
)
def test_a_mistake_is_one_line_before_any_training(
  drope, ran, arguments, message
):
  found = drope("sweep", "sweep.gin", *arguments.split())
  assert found.status == 2
  assert re.search(message, found.err) and found.err.count("\n") == 1
  assert not ran


def test_a_start_that_is_missing_ends_a_sweep_before_any_training(
  drope, ran, here
):
  (here / "begun.gin").write_text(
    (here / "tiny.gin").read_text()
    + "Recipe.model = None\nRecipe.tokenizer = None\n"
    "Recipe.init_from = 'gone'\n"
  )
  found = drope("sweep", "sweep.gin", "--set", "Sweep.recipe = 'begun.gin'")
  assert found.status == 2 and found.err.count("\n") == 1
  assert "gone" in found.err and not ran


def test_a_command_runs_in_its_own_process_and_says_how_it_ended(capfd):
  assert sweep._run("one", ["recipes", "tiny"]) is None
  assert sweep._run("two", ["recipes", "nothing-like-it"]) == 2
  out, err = capfd.readouterr()
  assert not out
  assert "two ended with status 2" in err


@pytest.mark.parametrize(
  ("interrupt", "sent"),
  [(KeyboardInterrupt, []), (termination.Terminated, ["SIGTERM"])],
)
def test_an_interrupted_training_is_waited_for(monkeypatch, interrupt, sent):
  """Ctrl-C reaches both processes by itself; SIGTERM is passed on."""
  done = []

  class Process:
    waits = 0

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    def terminate(self):
      done.append("SIGTERM")

    def wait(self):
      self.waits += 1
      if self.waits == 1:
        raise interrupt
      done.append("saved")
      return 143

  monkeypatch.setattr(sweep.subprocess, "Popen", lambda *_, **__: Process())
  with pytest.raises(interrupt):
    sweep._run("one", ["train"])
  assert done == [*sent, "saved"]
