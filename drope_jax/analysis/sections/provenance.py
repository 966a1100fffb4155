"""What a report says last: the commands, settings and lineage behind it."""

from collections.abc import Sequence

from drope_jax.analysis import outline, report, runs
from drope_jax.evals import suite

_LONG = ("outcomes", "series", "errors", "parts")
"""Fields of a result that the table of all results leaves out."""


def blocks(
  gathered: Sequence[runs.Run],
  commands: Sequence[str],
  classes: Sequence[type],
) -> list[report.Block]:
  """Returns how runs were made, and all of their results.

  Args:
    gathered: the runs.
    commands: the command lines that make the report again.
    classes: dataclasses of the lineage; fields with their default are left out.
  """
  told: list[report.Block] = []
  if commands:
    told.append(report.Details("Commands", [report.Code("\n".join(commands))]))
  for run in gathered:
    results = run.results or {}
    mark = f" · {run.name}" if len(gathered) > 1 else ""
    if "settings" in results:
      chosen = outline.changed(results["settings"], suite.Suite)
      table = report.Table(
        ("setting", "value"), chosen, "Every other setting has its default."
      )
      told.append(report.Details(f"Settings{mark}", [table]))
    for name in results.get("models", {}):
      tables = [*_lineage(run.manifest(name), classes)]
      if tables:
        told.append(report.Details(f"Lineage of {name}{mark}", tables))
    if run.rows:
      told.append(report.Details(f"All results{mark}", [_all_rows(run.rows)]))
  return told


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
