"""The standard report: sections out of what runs left behind."""

from collections.abc import Sequence

from drope_jax.analysis import (
  canvas,
  claims,
  comparison,
  damage,
  frequencies,
  outline,
  pair_damage,
  palette,
  plots,
  report,
  runs,
)
from drope_jax.evals import suite
from drope_jax.positional import rotary

_RECALIBRATION = "recalibrate"
_SCALINGS = {
  "pi": "position interpolation (PI)",
  "ntk": "NTK-aware scaling",
  "yarn": "YaRN",
}
_BASES = ("base", "rope")
_DROPPED = ("full", "drope", "recalibrated", "dropped")


def sections(
  gathered: Sequence[runs.Run],
  commands: Sequence[str] = (),
  classes: Sequence[type] = (),
) -> list[report.Section]:
  """Returns the report of some runs, from whatever each of them has.

  Training curves of all runs share a plot; each run's results stand apart.

  Args:
    gathered: the runs; `runs.load` reads one.
    commands: how to make it again, one command line each.
    classes: of what lineage holds; their fields with a default are left out.

  Raises:
    ValueError: there is no run.
  """
  if not gathered:
    raise ValueError("A report needs a run, got none. Name a run's folder.")
  found = [_headline(gathered)]
  for run in gathered:
    mark = f" · {run.name}" if len(gathered) > 1 else ""
    for title, blocks in _of_run(run):
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


def _of_run(run):
  """Yields (title, blocks) of one run's sections."""
  scores = runs.scores(run.rows)
  base, dropped = _roles(run)
  yield "What showed and what did not", _verdicts(scores, base, dropped)
  yield "Recovery after the drop", _recovery(run)
  yield "Retrieval beyond the trained context", comparison.retrieval(scores)
  yield "Loss beyond the trained context", comparison.losses(run.rows, scores)
  yield "What the models write", _samples(run)
  yield "Damage of the surgery, before any training", _damage(run)
  yield "What scaling does to the frequencies", _frequencies(run, base, scores)


def _roles(run):
  """Returns the names of the RoPE model and of the best one dropped from it.

  Known names decide, then manifests: plain Rope, and Nope after a surgery.
  """
  names = list(dict.fromkeys(row["model"] for row in run.rows))
  manifests = {name: run.manifest(name) for name in names}

  def scheme(name):
    return manifests[name].get("model", {}).get("positional", {})["__class__"]

  described = [name for name in names if manifests[name]]
  was_cut = {
    name: any(e["operation"] == "surgery" for e in manifests[name]["lineage"])
    for name in described
  }
  base = [name for name in _BASES if name in names]
  base += [name for name in described if scheme(name) == "Rope"]
  dropped = [name for name in _DROPPED if name in names]
  dropped += [n for n in described if scheme(n) == "Nope" and was_cut[n]]
  return (base or [None])[0], (dropped or [None])[0]


def _headline(gathered):
  blocks = []
  for run in gathered:
    base, dropped = _roles(run)
    if base and dropped:
      blocks += _story(run, base, dropped)
  names = ", ".join(run.name for run in gathered)
  title = "A language model without its positions" if blocks else names
  blocks = blocks or [report.Text(f"Training and evaluation of {names}.")]
  return report.Section(title, blocks + _unfinished(gathered))


def _story(run, base, dropped):
  scores = runs.scores(run.rows)
  context = run.rows[0]["context_tokens"]
  factor = max(cell.factor for cell in scores)
  text = (
    f"A model trained with rotary positions (RoPE) on {context:,} tokens at a "
    "time had its positions dropped, and was trained on briefly at the same "
    f"length (DroPE). Here it reads texts up to {factor:g} times that long, "
    f"beside the model it came from{_stretched(scores, base)}."
  )
  facts = [v.fact for v in claims.verdicts(scores, base, dropped)]
  before, after = _tokens(run, base), _tokens(run, dropped)
  if before and after and after > before:
    share = (after - before) / before
    note = f"{_count(after - before)} after {_count(before)}"
    facts.append(("tokens of recalibration", f"{share:.1%}", note))
  return [report.Text(text)] + ([report.Facts(facts)] if facts else [])


def _stretched(scores, base):
  """Returns how the base was read beyond its context, as a sentence ends."""
  used = {cell.method for cell in scores if cell.model == base}
  ways = [name for method, name in _SCALINGS.items() if method in used]
  if not ways:
    return ""
  *others, last = ways
  named = f"{', '.join(others)} and {last}" if others else last
  return f", also with RoPE stretched by {named}"


def _count(tokens):
  return f"{tokens / 1e6:,.3g}M" if tokens >= 1e6 else f"{tokens:,}"


def _tokens(run, model):
  lineage = run.manifest(model).get("lineage")
  return lineage[-1]["tokens"] if lineage else None


def _verdicts(scores, base, dropped):
  if base is None or dropped is None:
    return []
  found = claims.verdicts(scores, base, dropped)
  if not found:
    return []
  seeds = max(score.seeds for score in scores.values())
  return [
    report.Verdicts([verdict[:3] for verdict in found]),
    report.Text(
      f"The model without positions is “{dropped}”. Brackets are 95% intervals "
      f"over what was asked, {seeds} seed{'s' * (seeds > 1)} of it; those of a "
      "difference decide, on the same questions and texts. Each model is one "
      "training run, and another run may differ by more."
    ),
  ]


def _recovery(run):
  tokens, losses = run.phase(_RECALIBRATION)
  if len(tokens) < 2:
    return []
  levels = {}
  if run.damage:
    levels["base_loss"] = run.damage.before.loss
    levels["dropped_loss"] = run.damage.after.loss
  brief = any(row["model"] == "recalibrated" for row in run.rows)
  look = palette.DROPE_LIVE if brief else palette.DROPE
  curve = canvas.Curve(look, tokens, losses)
  caption = (
    "Loss while the model trains on without positions, at the context it "
    "always had"
  )
  if levels:
    caption += "; dotted, the loss before the drop and right after it"
  return [report.Plot(plots.recovery([curve], **levels), f"{caption}.")]


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
        "By how much the loss rises where one channel pair alone no longer "
        f"rotates. {pairs.kept} of {len(pairs.cost_F)} pairs are kept. A pair "
        "that completes a rotation in the trained context has met every phase "
        "there.",
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
      f"{factor:g}; NTK-aware and YaRN spare the fast ones. Pairs right of “1 "
      "rotation” never came full circle in training.",
    )
  ]


def _training(gathered):
  looks = palette.looks([(run.name, "model") for run in gathered])
  curves, drops = [], {}
  for run in gathered:
    phases = {record["phase"] for record in run.metrics}
    if len(run.metrics) < 2 or phases == {_RECALIBRATION}:
      continue  # A recalibration alone has a plot of its own.
    look = looks[run.name, "model"]
    x, y = zip(
      *((m["tokens"], m["loss"]) for m in run.metrics if m["loss"] is not None),
      strict=True,
    )
    curves.append(canvas.Curve(look, x, y))
    drop = run.start_of(_RECALIBRATION)
    if drop:
      drops[look.label] = drop
  if not curves:
    return []
  return [
    report.Plot(
      plots.training(curves, drops=drops),
      "Training loss, averaged over stretches; its first tenth may run "
      "off the top.",
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
  columns = [name for name in rows[0] if name not in ("outcomes", "series")]
  cells = [
    [str(v) if isinstance(v, bool) else v for v in map(row.get, columns)]
    for row in rows
  ]
  return report.Table(columns, cells)
