"""Loss and retrieval by length, and along a training."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import axes
import numpy as np

from drope_jax.analysis import canvas, palette, records
from drope_jax.analysis.canvas import Curve, Figure
from drope_jax.analysis.studies import recovery
from drope_jax.evals import registry
from drope_jax.evals.metric import SHARE


@matplotlib.rc_context(canvas.STYLE)
def by_length(panels: Mapping[str, Sequence[Curve]]) -> Figure:
  """Scores by length factor, a panel for each, with intervals (Figure 5)."""
  fig = Figure(figsize=(canvas.WIDTH_IN, 3.4), layout="constrained")
  grid = fig.subplots(1, len(panels))
  for ax, (title, curves) in zip(
    np.atleast_1d(grid), panels.items(), strict=True
  ):
    for curve in curves:
      canvas.line(ax, curve)
      if curve.low is not None:
        ax.fill_between(
          curve.x, curve.low, curve.high, color=curve.look.color, alpha=0.12
        )
    factors = sorted({x for curve in curves for x in curve.x})
    ax.set_xscale("log", base=2)
    ax.set_xticks(factors, [f"{x:g}×" for x in factors])
    ax.minorticks_off()
    ax.set_xlabel("length")
    ax.set_title(title)
  canvas.legend(fig, np.atleast_1d(grid)[0])
  return fig


@matplotlib.rc_context(canvas.STYLE)
def training(
  log: records.Log,
  laws: Sequence[recovery.Law],
  saves: Sequence[recovery.Save],
) -> Figure:
  """Loss against tokens with its laws, the log's scores, and the saves' recall.

  A panel of scores is a metric of an eval, and a line of it a length.
  """
  benchmarks = records.scores(log)
  rows = 1 + len(benchmarks) + bool(saves)
  fig = Figure(figsize=(canvas.WIDTH_IN, 3.0 * rows), layout="constrained")
  grid = np.atleast_1d(fig.subplots(rows, 1, sharex=True))
  by_phase = recovery.phases(log)
  for field, look in (("loss", palette.BASE), ("held_out_loss", palette.FULL)):
    tokens, values = recovery.points(log, field)
    if len(tokens):
      label = field.replace("_", " ").replace("held out", "held-out")
      grid[0].plot(
        tokens, values, ".", ms=2.5, color=look.color, alpha=0.5, label=label
      )
  start = 0.0
  starts = {}
  for phase, own in by_phase.items():
    starts[phase], start = start, own[-1]["tokens"]
  for index, law in enumerate(laws):
    since = np.geomspace(law.first_tokens, law.last_tokens, 100)
    grid[0].plot(
      starts[law.phase] + since,
      law.at(since),
      color=palette.DROPPED.color,
      lw=2,
      label=None if index else "law",
    )
  grid[0].set_ylabel("nats a token")
  for ax, (metric, lines) in zip(grid[1:], benchmarks.items(), strict=False):
    _benchmark(ax, metric, lines)
  if saves:
    ax = grid[-1]
    tokens = [save.tokens for save in saves]
    ax.plot(tokens, [s.recall for s in saves], "o-", color=canvas.INK)
    ax.vlines(
      tokens,
      [save.recall_low for save in saves],
      [save.recall_high for save in saves],
      color=canvas.INK,
      lw=0.8,
    )
    ax.set_ylabel("questions answered")
    canvas.in_percent(ax)
  grid[-1].set_xlabel("training tokens")
  grid[-1].xaxis.set_major_formatter(canvas.TOKENS)
  canvas.legend(fig, grid[0])
  return fig


def _benchmark(
  ax: axes.Axes,
  metric: tuple[str, str],
  lines: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
  described = registry.metric(*metric)
  looks = palette.looks((where, "model") for where in lines)
  for points, look in zip(lines.values(), looks.values(), strict=True):
    canvas.line(ax, Curve(look, *zip(*points, strict=True)))
  ax.set_title(f"{metric[0]}: {described.title}")
  if described.unit == SHARE:
    canvas.in_percent(ax)
  else:
    ax.set_ylabel(described.unit)
  ax.legend(ncols=4)


@matplotlib.rc_context(canvas.STYLE)
def spikes(log: records.Log, found: Sequence[recovery.Spike]) -> Figure:
  """The loss with its spikes, and what the log has beside it (Figure 12)."""
  shown = {"loss": "loss (nats)"}
  for field, label in (
    ("grad_norm", "gradient norm"),
    ("max_logit", "largest logit"),
  ):
    if len(recovery.points(log, field)[0]):
      shown[field] = label
  fig = Figure(
    figsize=(canvas.WIDTH_IN, 1.9 * len(shown) + 0.4), layout="constrained"
  )
  grid = np.atleast_1d(fig.subplots(len(shown), 1, sharex=True))
  for ax, (field, label) in zip(grid, shown.items(), strict=True):
    ax.plot(*recovery.points(log, field), color=canvas.INK, lw=0.8)
    ax.set_ylabel(label)
  grid[0].plot(
    [spike.tokens for spike in found],
    [spike.loss for spike in found],
    "v",
    color=palette.DROPPED.color,
    label=f"{len(found)} spikes",
  )
  grid[0].legend(loc="upper right")
  grid[-1].set_xlabel("training tokens")
  grid[-1].xaxis.set_major_formatter(canvas.TOKENS)
  return fig
