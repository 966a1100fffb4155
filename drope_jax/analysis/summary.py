"""The sections of the standard report, from the files of runs."""

from collections.abc import Sequence

from drope_jax.analysis import (
  around_needle,
  beside_paper,
  canvas,
  claims,
  comparison,
  damage,
  frequencies,
  methods,
  outline,
  pair_damage,
  palette,
  plots,
  recovery,
  report,
  roles,
  runs,
)
from drope_jax.analysis import scores as score_plots
from drope_jax.evals import suite
from drope_jax.positional import rotary

_LONG = ("outcomes", "series", "errors", "parts")
"""Fields of a result that the table of all results leaves out."""
_HOW_TO_READ = (
  "How to read this page: each name is a model, or a model under a position "
  "method. All of them read the same texts and answer the same questions. 1× "
  "is the length that they were trained on; none was trained on longer texts. "
  "Thin lines and small figures are 95% intervals. Two results are said to "
  "differ only where the interval of their paired difference leaves out 0."
)


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
  found = [_headline(gathered)]
  for run in gathered:
    mark = f" · {run.name}" if len(gathered) > 1 else ""
    for title, blocks in _of_run(run, more):
      if blocks:
        found.append(report.Section(title + mark, blocks))
  for title, blocks in (
    ("Training", _training(gathered)),
    ("How this was made", _settings(gathered, commands, classes)),
  ):
    if blocks:
      found.append(report.Section(title, blocks))
  return found


def _unfinished(gathered):
  names = [
    run.name for run in gathered if run.results and not run.results["finished"]
  ]
  if not names:
    return []
  return [
    report.Text(
      f"The evaluation of {', '.join(names)} is not finished: its results so "
      "far are shown. The command that began it goes on with it."
    )
  ]


def _of_run(run, more):
  """Yields (title, blocks) of one run's sections."""
  scores = runs.scores(run.rows)
  who = roles.find(run)
  yield "The models", _models(run)
  yield "What showed and what did not", _verdicts(scores, who, more)
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


def _headline(gathered):
  blocks = []
  for run in gathered:
    who = roles.find(run)
    if who.base and who.dropped:
      blocks += _story(run, who)
  names = ", ".join(run.name for run in gathered)
  title = "Dropping positions, to read on" if blocks else names
  blocks = blocks or [report.Text(f"Training and evaluation of {names}.")]
  if any(run.rows for run in gathered):
    blocks.append(report.Text(_HOW_TO_READ))
  return report.Section(title, blocks + _unfinished(gathered))


def _story(run, who):
  scores = runs.scores(run.rows)
  context = run.rows[0]["context_tokens"]
  factor = max(cell.factor for cell in scores)
  own, *others = who.dropped
  beside = f" (as {', '.join(others)} did)" if others else ""
  text = (
    f"{who.base} was trained with rotary positions (RoPE) on {context:,} "
    f"tokens at a time. {own} is that model after some or all of its positions "
    f"were dropped and training was continued at the same length{beside}. Here "
    f"it reads texts up to {factor:g} times as long, beside {who.base}"
    f"{_stretched(scores, who.base)}."
  )
  # Of two facts with one label, the later is kept: it compares with the best.
  facts = {
    verdict.fact[0]: verdict.fact
    for claim in claims.verdicts(scores, who)
    for verdict in claim.verdicts
    if verdict.model == own
  }
  before, more = roles.tokens_since(run, own, who.base)
  if before and more:
    note = f"{roles.count(more)} after {roles.count(before)}"
    label = f"tokens that {own} took"
    facts[label] = (label, f"{more / before:.1%}", note)
  if facts:
    named = report.Text(f"In figures, {own}:")
    return [report.Text(text), named, report.Facts(list(facts.values()))]
  return [report.Text(text)]


def _stretched(scores, base):
  """Returns the end of a sentence: how the base's positions were scaled."""
  used = {cell.method for cell in scores if cell.model == base}
  ways = [name for method, name in methods.SCALINGS.items() if method in used]
  if not ways:
    return ""
  *others, last = ways
  named = f"{', '.join(others)} and {last}" if others else last
  return f", also with RoPE stretched by {named}"


def _models(run):
  rows = roles.explain(run)
  if not rows:
    return []
  return [
    report.Table(
      roles.COLUMNS,
      rows,
      "The names of every table and plot. The softmax scale, the model's own, "
      "multiplies attention logits at s times the trained length, s above 1.",
    )
  ]


def _verdicts(scores, who, more):
  found = claims.verdicts(scores, who)
  if not found:
    return []
  seeds = max(score.seeds for score in scores.values())
  open_ones = any(v.verdict == claims.OPEN for c in found for v in c.verdicts)
  said = (
    "Brackets are 95% intervals of the difference, on the same questions and "
    f"texts, {seeds} seed{'s' * (seeds > 1)} of them. Each model is one "
    "training run, and another run may differ by more."
  )
  if open_ones:
    said += (
      " Models that are not told apart may still differ: there are too few "
      "samples to say."
    )
  items = [(c.text, [verdict[:3] for verdict in c.verdicts]) for c in found]
  return [report.Verdicts(items), report.Text(f"{said} {more}".rstrip())]


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
      plots.damage(run.damage),
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
        plots.pair_damage(pairs),
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
      plots.frequency_scaling(
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
      plots.training(curves, drops=drops),
      "Training loss, smoothed; its first tenth may be above the plot.",
    )
  ]


def _settings(gathered, commands, classes):
  blocks = []
  if commands:
    blocks.append(
      report.Details("Commands", [report.Code("\n".join(commands))])
    )
  for run in gathered:
    results = run.results or {}
    mark = f" · {run.name}" if len(gathered) > 1 else ""
    if "settings" in results:
      chosen = outline.changed(results["settings"], suite.Suite)
      table = report.Table(
        ("setting", "value"), chosen, "Every other setting has its default."
      )
      blocks.append(report.Details(f"Settings{mark}", [table]))
    for name in results.get("models", {}):
      tables = [*_lineage(run.manifest(name), classes)]
      if tables:
        blocks.append(report.Details(f"Lineage of {name}{mark}", tables))
    if run.rows:
      blocks.append(report.Details(f"All results{mark}", [_all_rows(run.rows)]))
  return blocks


def _lineage(manifest, classes):
  """Yields a table for each operation behind a model."""
  for entry in manifest.get("lineage", ()):
    fields = dict(entry)
    operation, arguments = fields.pop("operation"), fields.pop("arguments", {})
    rows = outline.rows(fields) + outline.rows(arguments, classes)
    yield report.Table((operation, ""), rows)


def _all_rows(rows):
  columns = [name for name in rows[0] if name not in _LONG]
  cells = [
    [str(v) if isinstance(v, bool) else v for v in map(row.get, columns)]
    for row in rows
  ]
  return report.Table(columns, cells)
