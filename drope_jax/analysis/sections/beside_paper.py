"""The report's table of the paper's figures and ours."""

from drope_jax.analysis import palette, report, runs
from drope_jax.evals import paper


def blocks(run: runs.Run) -> list[report.Block]:
  """Returns the paper's table and a row for each of our models and methods.

  There is none if the run's suite makes no table of the paper.
  """
  number = ((run.results or {}).get("settings") or {}).get("paper_table")
  if number is None or not run.rows:
    return []
  table = paper.TABLES[number]
  titles = [column.title for column in table.columns]
  has_mean = any(len(row) > len(titles) for row in table.rows.values())
  cells = [
    [f"paper: {label}", "", *map(_figure, row)]
    for label, row in table.rows.items()
  ]
  ours = dict.fromkeys(
    (row["model"], row["method"], row["scale_fitted"]) for row in run.rows
  )
  for model, method, fitted in ours:
    values = [
      _ours(run.rows, column, (model, method, fitted))
      for column in table.columns
    ]
    if all(value is None for value in values):
      continue  # A fitted scale is not used at 1x, nor cropped beyond it.
    if has_mean:
      values.append(_mean(values))
    name = palette.label(model, method)
    scale = "fitted" if fitted else "its own"
    cells.append([name, scale, *map(_figure, values)])
  return [
    report.Table(
      ("", "softmax scale", *titles, *[paper.MEAN] * has_mean),
      cells,
      f"Table {number} of the DroPE paper (arXiv:2512.12167), in percent: "
      f"{table.about}; and the same measured here. Other models, texts and "
      "programs have other levels: compare the differences between rows.",
    )
  ]


def _ours(rows, column, condition) -> float | None:
  """Returns our mean over a column's tasks, in percent; None if one lacks."""
  longest = max(row["factor"] for row in rows)
  factor = longest if column.factor is None else column.factor
  ours = []
  for task in column.tasks:
    for row in rows:
      own = row["model"], row["method"], row["scale_fitted"]
      if (
        (row["task"], own) == (task, condition)
        # Lengths are whole tokens, so that factors are rounded.
        and abs(row["factor"] - factor) * row["context_tokens"] < 1
        and column.metric in (None, row["metric"])
      ):
        ours.append(_value(row, column.part))
        break
    else:
      return None
  mean = _mean(ours)
  return None if mean is None else 100 * mean


def _mean(values) -> float | None:
  known = [value for value in values if value is not None]
  return sum(known) / len(known) if len(known) == len(values) else None


def _value(row, part) -> float | None:
  if part is None:
    return row["value"]
  parts = {one["name"]: one["value"] for one in row.get("parts") or ()}
  return parts.get(part)


def _figure(value) -> report.Interval | None:
  return None if value is None else report.Interval(value, None, None, 2)
