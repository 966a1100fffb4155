"""The results of an evaluation so far."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

from drope_jax.evals import interface, logit_scale, remembering


@dataclasses.dataclass
class Record:
  """The results so far; a step adds to them.

  Attributes:
    rows: results.
    fits: softmax scales by model and method.
    samples: SHA-256 of the samples by task and length, all of them.
    hashes: the same of each sample, see `steps.Inputs.hashes`.
    seconds: that each step took, by its name.
    memory: of what models have read of a step that is not done.
  """

  rows: list[interface.Result] = dataclasses.field(default_factory=list)
  fits: dict[str, dict[str, logit_scale.Fit]] = dataclasses.field(
    default_factory=dict
  )
  samples: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  hashes: dict[str, dict[str, list[str]]] = dataclasses.field(
    default_factory=dict
  )
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  memory: remembering.Memory = remembering.Forgetful()

  def begin(self, samples: dict[str, dict[str, str]]) -> None:
    """Notes the samples that results are of.

    Raises:
      ValueError: there are results of other samples.
    """
    if self.samples and self.samples != samples:
      raise ValueError(
        "An evaluation goes on with the samples that it began with, got others "
        f"in {', '.join(_differing(self.samples, samples))}: this version "
        "draws them in another way, or a file has changed. Go on with the "
        "version that began it, or choose another folder."
      )
    self.samples = samples

  def add(
    self,
    rows: Sequence[interface.Result],
    fits: Mapping[str, Mapping[str, logit_scale.Fit]],
    seconds: Mapping[str, float],
  ) -> None:
    """Adds results of the same evaluation, those that are not there."""
    known = {_cell(row) for row in self.rows}
    self.rows += [row for row in rows if _cell(row) not in known]
    for model, by_method in fits.items():
      own = self.fits.setdefault(model, {})
      self.fits[model] = {**by_method, **own}
    self.seconds = {**seconds, **self.seconds}

  def holds(
    self, task: str, length: int, condition: interface.Condition
  ) -> bool:
    """Returns whether there are results of a task at a length."""
    return any(
      (row.method, row.scale_fitted)
      == (condition.method, condition.scale_fitted)
      for row in self.of(task, length, condition.model)
    )

  def of(
    self, task: str, length: int, model: str
  ) -> Iterator[interface.Result]:
    """Yields the results of a task at a length by a model's methods."""
    for row in self.rows:
      found = row.task, round(row.factor * row.context_tokens), row.model
      if found == (task, length, model):
        yield row


def _cell(row):
  """Returns the key of a result."""
  measured = row.task, row.metric, row.factor
  return (*measured, row.model, row.method, row.scale_fitted)


def _differing(old, new):
  """Yields the tasks of which samples differ."""
  for task in old | new:
    if old.get(task) != new.get(task):
      yield task
