"""The report's plots of scores during a training: `TrainPhase.evals`."""

from drope_jax.analysis import canvas, palette, records, report, runs
from drope_jax.analysis.plots import training
from drope_jax.analysis.sections import recovery
from drope_jax.evals import registry
from drope_jax.evals.metric import SHARE


def blocks(run: runs.Run) -> list[report.Block]:
  """Returns a plot of each metric against tokens, with a line a length.

  Tokens count from the drop, if there is one in the log (the paper's Figures 9
  and 10). Metrics without plots are left out.
  """
  by_metric: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
  for name, log in run.trainings.items():
    start = runs.start_of(log, recovery.PHASE) or 0
    after = [record for record in log if record["tokens"] > start]
    for metric, lines in records.scores(after).items():
      for where, points in lines.items():
        by_metric.setdefault(metric, {})[f"{name} at {where}"] = [
          (tokens - start, value) for tokens, value in points
        ]
  return [
    _plot(task, metric, lines)
    for (task, metric), lines in by_metric.items()
    if registry.metric(task, metric).plots
    and any(len(points) > 1 for points in lines.values())
  ]


def _plot(task, metric, lines):
  described = registry.metric(task, metric)
  looks = palette.looks((line, "model") for line in lines)
  curves = [
    canvas.Curve(look, *zip(*lines[line], strict=True))
    for (line, _), look in looks.items()
  ]
  plot = training.score(
    curves, label=described.title, is_share=described.unit == SHARE
  )
  name = task.replace("_", "-")
  return report.Plot(plot, f"{name}: {described.title}, during training.")
