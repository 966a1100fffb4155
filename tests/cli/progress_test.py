import io
import re

import pytest

from drope_jax.cli import console as consoles
from drope_jax.cli import progress
from drope_jax.data.pipeline import DataConfig
from drope_jax.evals import steps
from drope_jax.model.config import ModelConfig
from drope_jax.surgery.compose import Surgery
from drope_jax.train.optimizer import AdamW, Constant
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe

PRETRAIN_STEPS, RECALIBRATE_STEPS = 732, 4


def _phase(name, steps):
  data = DataConfig(("text",))
  return TrainPhase(name, data, 8, 16, AdamW(), Constant(1e-3), steps=steps)


RECIPE = Recipe(
  phases=(
    _phase("pretrain", PRETRAIN_STEPS),
    SurgeryPhase(Surgery()),
    _phase("recalibrate", RECALIBRATE_STEPS),
  ),
  model=ModelConfig(64, 1, 16, 2, 1, 8, 16, 16),
  tokenizer="t.model",
)


@pytest.mark.parametrize("terminal", [True, False])
def test_sampling_progress_resumes_from_earlier_tokens(terminal):
  file = io.StringIO()
  console = consoles.Console(
    file=file, force_terminal=terminal, width=90, color_system=None
  )
  with progress.SamplingProgress(1000, console) as show:
    for tokens in (250, 260, 410, 990, 1003):
      show(tokens)
  if terminal:
    assert "1,003/1,000 tokens" in file.getvalue()
  else:
    said = [line.split(" tokens ")[0] for line in file.getvalue().splitlines()]
    assert said == [f"sampled {n} of 1,000" for n in ("410", "990", "1,003")]


def _show(phase, steps, terminal, width=120):
  """Returns the progress and its output after lines for the run's steps."""
  file = io.StringIO()
  console = consoles.Console(
    file=file, force_terminal=terminal, width=width, color_system=None
  )
  with progress.TrainingProgress(RECIPE, console) as show:
    for step in steps:
      show(
        {"step": step, "phase": phase, "loss": 2.5, "tokens_per_s": 12_345.6}
      )
  return show, file.getvalue()


# Logged steps need not be at tenths of a phase: 10 and 73.2 are not.
@pytest.mark.parametrize("log_every_steps", [1, 10, 50])
def test_without_a_terminal_each_tenth_is_a_plain_line(log_every_steps):
  logged = [*range(log_every_steps, PRETRAIN_STEPS, log_every_steps)]
  _, text = _show("pretrain", [*logged, PRETRAIN_STEPS], terminal=False)
  lines = text.splitlines()
  assert len(lines) == 10
  assert lines[-1] == "pretrain 732/732  loss 2.500  12,346 tokens/s"
  done = [int(line.split()[1].split("/")[0]) for line in lines]
  for tenth, step in enumerate(done, 1):
    assert 0 <= step - 73.2 * tenth < log_every_steps
  assert "\x1b" not in text


def test_steps_count_from_the_phases_start():
  steps = range(PRETRAIN_STEPS + 1, PRETRAIN_STEPS + RECALIBRATE_STEPS + 1)
  _, text = _show("recalibrate", steps, terminal=False)
  assert [line.split()[1] for line in text.splitlines()] == [
    *("1/4", "2/4", "3/4", "4/4")
  ]


def test_on_a_terminal_one_live_line_shows_all_columns():
  show, text = _show("pretrain", [366], terminal=True)
  (task,) = show.renderable.tasks
  assert (task.completed, task.total) == (366, PRETRAIN_STEPS)
  for words in ("pretrain", "366/732", "loss 2.500", "12,346 tokens/s", "left"):
    assert words in text


@pytest.mark.parametrize(
  ("width", "line"),
  [
    (80, "pretrain ━ 366/732 loss 2.500 12,346 tokens/s -:--:-- left"),
    (60, "pretrain 366/732 loss 2.500 -:--:-- left"),
    (40, "pretrain 366/732 loss 2.500"),
    (20, "pretrain 366/732"),
  ],
)
def test_a_narrow_terminal_has_fewer_columns_without_truncation(width, line):
  _, text = _show("pretrain", [366], terminal=True, width=width)
  shown = text[text.rindex("pretrain") :].splitlines()[0]
  assert len(shown) <= width
  assert re.sub("[ ━╸]{2,}", " ━ ", shown.strip()) == line


def _steps(*done):
  return [
    steps.Step(f"[b]step {i}", 10 * (i + 1), was_done, lambda: None)
    for i, was_done in enumerate(done)
  ]


def _evaluate(ahead, terminal):
  file = io.StringIO()
  console = consoles.Console(
    file=file, force_terminal=terminal, width=100, color_system=None
  )
  with progress.EvaluationProgress(ahead, console) as show:
    for step in ahead:
      if not step.done:
        with show(step):
          step.run()
  return file.getvalue()


def test_evaluation_progress_resumes_from_finished_steps():
  lines = _evaluate(_steps(True, False, False), terminal=False).splitlines()
  assert lines == ["evaluate 2/3: [b]step 1", "evaluate 3/3: [b]step 2"]
  shown = _evaluate(_steps(True, False, False), terminal=True)
  assert "3/3" in shown and "left: [b]step 2" in shown


def test_many_steps_give_about_ten_lines():
  lines = _evaluate(_steps(*[False] * 200), terminal=False).splitlines()
  assert len(lines) == 10 and lines[-1].startswith("evaluate 200/200")
