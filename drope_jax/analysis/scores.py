"""The report's plots of scores during a training: `TrainPhase.evals`."""

from drope_jax.analysis import canvas, palette, recovery, report, runs
from drope_jax.analysis.plots import training
from drope_jax.evals import registry
from drope_jax.evals.metric import NATS, SHARE, Metric


def blocks(run: runs.Run) -> list[report.Block]:
  """Returns a plot of each metric against tokens, with a line a length.

  Tokens count from the drop, if there is one in the log (the paper's Figures 9
  and 10).
  """
  logs = dict(run.logs) or {run.name: run.metrics}
  found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
  for name, log in logs.items():
    start = runs.start_of(log, recovery.PHASE) or 0
    for record in log:
      for score, value in record.items():
        task, _, rest = score.partition(".")
        metric, _, where = rest.partition(".")
        if not where or value is None or record["tokens"] <= start:
          continue
        line = f"{name} at {where.replace('x', '×', 1).replace('.', ', ')}"
        of_metric = found.setdefault((task, metric), {})
        of_metric.setdefault(line, []).append((record["tokens"] - start, value))
  return [
    _plot(task, metric, lines)
    for (task, metric), lines in found.items()
    if any(len(points) > 1 for points in lines.values())
  ]


def _plot(task, metric, lines):
  known = {m.name: m for m in registry.metrics(task)}
  described = known.get(metric, Metric(metric, metric, "", NATS, False))
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
