"""What a report says first: what was done, of which models, and what showed."""

from collections.abc import Sequence

from drope_jax.analysis import claims, methods, report, roles, runs

_HOW_TO_READ = (
  "How to read this page: each name is a model, or a model under a position "
  "method. All of them read the same texts and answer the same questions. 1× "
  "is the length that they were trained on; none was trained on longer texts. "
  "Thin lines and small figures are 95% intervals. Two results are said to "
  "differ only where the interval of their paired difference leaves out 0."
)


def headline(gathered: Sequence[runs.Run]) -> report.Section:
  """Returns the section that says what the report is of."""
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


def models(run: runs.Run) -> list[report.Block]:
  """Returns what each name in the report stands for."""
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


def verdicts(
  scores: runs.Scores, who: roles.Roles, more: str
) -> list[report.Block]:
  """Returns which claims of the paper showed, and which did not.

  Args:
    scores: of one run.
    who: which of its models are compared.
    more: a sentence on where to find more.
  """
  judged = claims.verdicts(scores, who)
  if not judged:
    return []
  seeds = max(score.seeds for score in scores.values())
  open_ones = any(v.verdict == claims.OPEN for c in judged for v in c.verdicts)
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
  items = [(c.text, [verdict[:3] for verdict in c.verdicts]) for c in judged]
  return [report.Verdicts(items), report.Text(f"{said} {more}".rstrip())]
