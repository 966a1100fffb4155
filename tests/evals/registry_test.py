"""A suite runs what the registry names, and what it is given."""

import dataclasses

import pytest

from drope_jax.evals import interface, needles, registry, ruler, steps
from drope_jax.evals import suite as suites
from drope_jax.evals.metric import Metric
from drope_jax.evals.record import Record

CHARS = Metric("chars", "characters", "Writing", "characters", True)


@dataclasses.dataclass(frozen=True)
class Lengths:
  """A task that nothing but this file knows: how long an answer is."""

  name: str = "lengths"
  metrics: tuple[Metric, ...] = (CHARS,)

  def expand(self):
    return (self,)

  def draw(self, order):
    counts = zip(order.lengths, order.counts, strict=True)
    return {n: [order.encode("a b")] * count for n, count in counts}

  def evaluate(self, lm, samples, condition):
    values = [float(len(lm.decode(ids))) for ids in lm.generate(samples, 9)]
    return [
      interface.Result(
        task=self.name,
        metric=CHARS.name,
        factor=1.0,
        context_tokens=lm.context_tokens,
        value=sum(values) / len(values),
        low=None,
        high=None,
        count=len(values),
        mean_tokens=3.0,
        outcomes=tuple(values),
        **vars(condition),
      )
    ]


def test_tasks_are_found_by_their_names_and_say_what_they_measure():
  for name, task in registry.TASKS.items():
    assert task.name == name
    names = [metric.name for metric in registry.metrics(name)]
    assert names and len(set(names)) == len(names)
  assert registry.metrics("unheard of") == ()
  members = [name for group in registry.GROUPS.values() for name in group]
  assert {*members} < {*registry.TASKS}


def test_a_group_stands_for_its_tasks_each_once():
  names = [task.name for task in registry.tasks(["vt", "ruler"])]
  assert names == ["vt", *(name for name in ruler.TASKS if name != "vt")]


def test_a_task_with_two_settings_is_refused():
  with pytest.raises(ValueError, match="each task once, got vt with two"):
    registry.tasks(["vt", ruler.Ruler(tasks=("vt",), essays="e.txt")])


def test_a_suite_runs_a_task_that_it_does_not_know(fake_lm):
  suite = suites.Suite(
    evals=(Lengths(),), factors=(1.0,), samples=(2,), fit_factor=None
  )
  lm = fake_lm(answer=lambda prompt: " whale")
  record = Record()
  material = suites.Material(["text"], ["other"])
  inputs = steps.Inputs(suite, lm, material)
  for step in steps.steps(inputs, "m", ("model",), lambda *by: lm, record):
    step.run()
  (row,) = record.rows
  assert (row.task, row.value, row.count) == ("lengths", 11.0, 2)


def test_a_wording_has_a_name():
  assert needles.Needles(wording="ruler") == needles.Needles(
    wording=needles.RULER
  )
  with pytest.raises(ValueError, match="wording must be one of ruler, short"):
    needles.Needles(wording="long")


def test_an_unknown_kind_of_plot_is_refused():
  with pytest.raises(ValueError, match="plots must be some of .* got pie"):
    dataclasses.replace(CHARS, plots=("pie",))
