"""The report's plots of how models recover after a drop, from their logs."""

from drope_jax.analysis import canvas, palette, report, runs
from drope_jax.analysis.plots import training

PHASE = "recalibrate"
"""The beginning of the names of a recalibration's phases."""


def blocks(run: runs.Run) -> list[report.Block]:
  """Returns a plot of each kind of loss in the run's logs.

  Loss on held-out text and loss on training batches are in separate plots.
  """
  starts = {n: runs.start_of(log, PHASE) for n, log in run.trainings.items()}
  logs = {n: log for n, log in run.trainings.items() if starts[n] is not None}
  curves: dict[str, list[canvas.Curve]] = {"held_out_loss": [], "loss": []}
  looks = palette.looks((name, "model") for name in logs)
  for (name, _), look in looks.items():
    for field, of_field in curves.items():
      points = [
        (record["tokens"] - starts[name], record[field])
        for record in logs[name]
        if record["tokens"] > starts[name] and record.get(field) is not None
      ]
      if len(points) > 1:
        of_field.append(canvas.Curve(look, *zip(*points, strict=True)))
  plots = []
  if curves["held_out_loss"]:
    plots.append(_held_out(run, curves["held_out_loss"]))
  # One run's own training loss adds nothing to its loss on held-out text.
  if len(curves["loss"]) > (1 if plots else 0):
    plots.append(_training_loss(curves["loss"]))
  return plots


def _held_out(run, curves):
  named = list(dict.fromkeys(curve.look.label for curve in curves))
  levels = {n: x for n, x in run.held_out.items() if n not in named}
  after = None
  if run.damage:
    after = run.damage.after.loss
    levels = levels or {"base": run.damage.before.loss}
  caption = (
    f"Held-out loss of {', '.join(named)} in further training at the original "
    "context length"
  )
  if levels:
    caption += (
      "; dotted, the loss of the others on the same text, each at the end of "
      "its training"
    )
  plot = training.recovery(curves, levels=levels, dropped_loss=after)
  return report.Plot(plot, f"{caption}.")


def _training_loss(curves):
  caption = "Loss on the training batches, from the start of further training."
  if several := len(curves) > 1:
    caption = (
      "Loss on the training batches, from the start of further training, with "
      "tokens on a log axis. It is not comparable with the loss on held-out "
      "text: each run draws other batches, and short sequences have a higher "
      "loss."
    )
  return report.Plot(training.recovery(curves, log_x=several), caption)
