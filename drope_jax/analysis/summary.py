"""The sections of the standard report, from the files of runs."""

from collections.abc import Sequence

from drope_jax.analysis import (
  canvas,
  damage,
  frequencies,
  pair_damage,
  palette,
  report,
  roles,
  runs,
)
from drope_jax.analysis.plots import positions, training
from drope_jax.analysis.sections import (
  around_needle,
  beside_paper,
  comparison,
  opening,
  provenance,
  recovery,
)
from drope_jax.analysis.sections import scores as score_plots
from drope_jax.positional import rotary


def sections(
  gathered: Sequence[runs.Run],
  commands: Sequence[str] = (),
  classes: Sequence[type] = (),
  more: str = "",
) -> list[report.Section]:
  """Returns the report of some runs, with what each of them has.

  Training curves of all runs share a plot. Each run has its own sections of
  results.

  Args:
    gathered: the runs, from `runs.load`.
    commands: the command lines that make the report again.
    classes: dataclasses of the lineage; fields with their default are left out.
    more: a sentence on where to find more.

  Raises:
    ValueError: there is no run.
  """
  if not gathered:
    raise ValueError("A report needs a run, got none. Name a run's folder.")
  told = [opening.headline(gathered)]
  for run in gathered:
    mark = f" · {run.name}" if len(gathered) > 1 else ""
    for title, blocks in _of_run(run, more):
      if blocks:
        told.append(report.Section(title + mark, blocks))
  for title, blocks in (
    ("Training", _training(gathered)),
    ("How this was made", provenance.blocks(gathered, commands, classes)),
  ):
    if blocks:
      told.append(report.Section(title, blocks))
  return told


def _of_run(run, more):
  """Yields (title, blocks) of one run's sections."""
  scores = runs.scores(run.rows)
  who = roles.find(run)
  yield "The models", opening.models(run)
  yield "What showed and what did not", opening.verdicts(scores, who, more)
  yield "Beside the paper", beside_paper.blocks(run)
  longest = max((cell.factor for cell in scores), default=1)
  where = "beyond" if longest > 1 else "within"
  for topic, blocks in comparison.by_topic(run, scores).items():
    yield f"{topic} {where} the trained context", blocks
  yield "Recovery after the drop", recovery.blocks(run)
  yield "Scores during training", score_plots.blocks(run)
  yield "Damage of the surgery, before any training", _damage(run)
  yield (
    "What scaling does to the frequencies",
    _frequencies(run, who.base, scores),
  )
  yield "Attention around the needle", around_needle.blocks(run.heads)
  yield "What the models write", _samples(run)


def _samples(run):
  return [
    report.Quote(
      sample["text"],
      ", ".join(
        f"{key}: {value}" for key, value in sample.items() if key != "text"
      ),
    )
    for sample in run.samples
  ]


def _damage(run):
  if run.damage is None:
    return []
  blocks = [
    report.Plot(
      positions.damage(run.damage),
      f"The surgery takes the loss from {run.damage.before.loss:.2f} to "
      f"{run.damage.after.loss:.2f} nats per token; what it does to each "
      "layer's queries, keys and attention.",
    ),
    report.Details(
      "The same in numbers",
      [report.Table(damage.COLUMNS, run.damage.rows())],
    ),
  ]
  if (pairs := run.damage.pairs) is not None:
    blocks += [
      report.Plot(
        positions.pair_damage(pairs),
        "By how much the loss rises when one channel pair alone is no longer "
        f"rotated. {pairs.kept} of {len(pairs.cost_F)} pairs are kept. A pair "
        "that completes a rotation within the trained context has had every "
        "phase there.",
      ),
      report.Details(
        "Each pair in numbers",
        [report.Table(pair_damage.COLUMNS, pairs.rows())],
      ),
    ]
  return blocks


def _frequencies(run, base, scores):
  model = run.manifest(base).get("model") if base else None
  if not model or model["positional"]["__class__"] != "Rope":
    return []
  factor = max(cell.factor for cell in scores)
  if factor <= 1:
    return []
  rope = rotary.Rope(model["positional"]["theta"])
  shape = model["head_dim"], model["context_tokens"]
  return [
    report.Plot(
      positions.frequency_scaling(
        frequencies.scalings(rope, *shape, factors=[factor]),
        frequencies.pairs(rope, *shape),
      ),
      f"To read {factor:g} times the context, PI divides every frequency by "
      f"{factor:g}; NTK-aware and YaRN keep the fast ones. Pairs right of “1 "
      "rotation” completed no rotation in training.",
    )
  ]


def _training(gathered):
  looks = palette.looks([(run.name, "model") for run in gathered])
  curves, drops = [], {}
  for run in gathered:
    phases = {record["phase"] for record in run.metrics}
    if len(run.metrics) < 2 or all(
      p.startswith(recovery.PHASE) for p in phases
    ):
      continue  # A recalibration alone is in another plot.
    look = looks[run.name, "model"]
    logged = [m for m in run.metrics if m["loss"] is not None]
    x, y = ([m[name] for m in logged] for name in ("tokens", "loss"))
    curves.append(canvas.Curve(look, x, y))
    drop = runs.start_of(run.metrics, recovery.PHASE)
    if drop:
      drops[look.label] = drop
  if not curves:
    return []
  return [
    report.Plot(
      training.loss(curves, drops=drops),
      "Training loss, smoothed; its first tenth may be above the plot.",
    )
  ]
