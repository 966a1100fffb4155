import dataclasses
import html
import re

import pytest

from drope_jax.analysis import damage, report, runs, summary

CONTEXT = 64
METHODS = [("base", m) for m in ("model", "pi", "ntk", "yarn")] + [
  ("recalibrated", "model"),
  ("full", "model"),
]


def _rows():
  """Every cell of a demo, each with a value of its own."""
  rows = []
  for fitted in (False, True):
    for model, method in METHODS:
      for factor in (1.0, 2.0, 8.0):
        for task, metric in (
          ("perplexity", "loss"),
          ("perplexity", "tail_loss"),
          ("multi_key", "accuracy"),
          ("multi_key", "string_match_all"),
        ):
          value = round(0.1 + 0.001 * len(rows), 3)
          series = None
          if metric == "loss":
            end = int(factor * CONTEXT)
            series = [[x, 3.0 - x / 1000] for x in range(4, end, 8)]
          rows.append(
            {
              "task": task,
              "metric": metric,
              "model": model,
              "method": method,
              "factor": factor,
              "context_tokens": CONTEXT,
              "logit_scale": 1.0,
              "scale_fitted": fitted,
              "value": value,
              "low": value - 0.01,
              "high": value + 0.01,
              "count": 10,
              "seed": 0,
              "outcomes": [value] * 10,
              "series": series,
            }
          )
  return rows


def _manifest(scheme, operations, tokens):
  positional = {"__class__": scheme} | (
    {"theta": 1e4} if scheme == "Rope" else {}
  )
  model = {"head_dim": 16, "context_tokens": CONTEXT, "positional": positional}
  lineage = [{"operation": name, "tokens": tokens} for name in operations]
  return {"manifest": {"model": model, "lineage": lineage}}


SETTINGS = {"samples": [7], "fit_factor": 4.0}


def _metrics(*phases):
  return tuple(
    {"step": i, "phase": phase, "tokens": 100 * i, "loss": 5.0 / i}
    for i, phase in enumerate(phases, 1)
  )


def _demo(rename=lambda name: name, finished=True):
  rows = [row | {"model": rename(row["model"])} for row in _rows()]
  side = damage.Anatomy(1.5, (1.0,), (2.0,), (0.1,), (9.0,), 2.2)
  models = {
    rename("base"): _manifest("Rope", ["pretrain"], 1000),
    rename("recalibrated"): _manifest("Nope", ["pretrain", "surgery"], 1010),
    rename("full"): _manifest("Nope", ["pretrain", "surgery"], 1100),
  }
  return runs.Run(
    "demo",
    metrics=_metrics(*["recalibrate"] * 6),
    results={
      "schema": 2,
      "finished": finished,
      "rows": rows,
      "models": models,
      "settings": SETTINGS,
    },
    damage=damage.Damage(side, side),
    samples=({"model": "full", "text": "the whale & <the> sea"},),
  )


def _page(*gathered):
  return report.render(summary.sections(gathered, commands=["drope demo"]))


def _titles(*gathered):
  return [section.title for section in summary.sections(gathered)]


def test_every_row_of_the_results_is_on_the_page():
  page = _page(_demo())
  for row in _rows():
    cells = "".join(
      f"<td[^>]*>{re.escape(text)}</td>"
      for text in (row["task"], row["metric"], row["model"], row["method"])
    )
    assert re.search(cells, page)
    assert f">{row['value']:.4g}</td>" in page


def test_a_demo_gets_all_of_its_sections():
  assert _titles(_demo()) == [
    "A language model without its positions",
    "What showed and what did not",
    "Recovery after the drop",
    "Retrieval beyond the trained context",
    "Loss beyond the trained context",
    "What the models write",
    "Damage of the surgery, before any training",
    "What scaling does to the frequencies",
    "How this was made",
  ]


def test_an_evaluation_that_is_not_finished_is_said_to_be():
  said = "evaluation of demo is not finished"
  assert said in _page(_demo(finished=False))
  assert said not in _page(_demo())


def test_scores_of_few_texts_are_shown_without_an_interval():
  few = _demo()
  for row in few.rows:
    row |= {"low": None, "high": None} if "loss" in row["metric"] else {}
  (section,) = [
    s for s in summary.sections([few]) if s.title.startswith("Loss beyond")
  ]
  cell = section.blocks[-1].rows[0][2]
  assert str(cell) == f"{cell.value:.3f}"
  assert f'<td class="n">{cell}</td>' in _page(few)


def test_page_has_the_sample_the_settings_and_the_share_of_tokens():
  text = html.unescape(_page(_demo()))
  assert "the whale & <the> sea" in text
  assert "<td>samples</td><td>(7,)</td>" in text and "drope demo" in text
  assert "fit_factor" not in text, "a default"
  assert "10.0%" in text and "100 after 1,000" in text


def test_what_was_not_measured_is_not_spoken_of():
  whole = html.unescape(_page(_demo()))
  assert "NTK-aware scaling and YaRN" in whole and "; dotted, the loss" in whole
  demo = _demo()
  rows = [r for r in demo.rows if r["method"] in ("model", "pi")]
  results = {**demo.results, "rows": rows}
  part = dataclasses.replace(demo, results=results, damage=None)
  text = html.unescape(_page(part))
  assert "stretched by position interpolation (PI)." in text
  assert "dotted, the loss" not in text and "Recovery after" in text


def test_lineage_is_a_table_for_each_operation_without_defaults():
  class Phase:
    steps: int
    rate: float = 0.5

  phase = {"__class__": "Phase", "steps": 3, "rate": 0.5}
  demo = _demo()
  demo.results["models"]["full"]["manifest"]["lineage"][0]["arguments"] = {
    "phase": phase
  }
  classes = [dataclasses.dataclass(Phase)]
  text = report.render(summary.sections([demo], classes=classes))
  assert "<summary>Lineage of full</summary>" in text
  assert "<td>phase.steps</td><td>3</td>" in text
  assert "phase.rate" not in text


def test_methods_are_compared_with_and_without_a_scale_side_by_side():
  for title in ("Retrieval beyond the", "Loss beyond the"):
    (section,) = [
      s for s in summary.sections([_demo()]) if s.title.startswith(title)
    ]
    plot = section.blocks[0]
    assert len(plot.figure.axes) == 2
    shown = [
      {line.get_label() for line in axes.lines if line.get_label()[0] != "_"}
      for axes in plot.figure.axes
    ]
    assert shown[0] == shown[1] and len(shown[0]) == len(METHODS)
    x = [line.get_xdata() for axes in plot.figure.axes for line in axes.lines]
    # A point twice would mean that a fitted score stands among the others.
    assert all(
      list(values) == sorted(set(values)) for values in x if len(values) > 2
    )


def test_roles_of_unknown_names_come_from_their_manifests():
  renamed = _demo({"base": "x", "recalibrated": "y", "full": "z"}.get)
  assert _titles(renamed) == _titles(_demo())


def test_training_curves_of_several_runs_share_a_plot():
  phases = {
    "rope": ["pretrain"] * 8,
    "drope": ["pretrain"] * 6 + ["recalibrate"] * 2,
  }
  gathered = [
    runs.Run(name, metrics=_metrics(*names)) for name, names in phases.items()
  ]
  sections = {s.title: s for s in summary.sections(gathered)}
  (axes,) = sections["Training"].blocks[0].figure.axes
  labels = [line.get_label() for line in axes.lines]
  assert labels[:2] == ["RoPE", "DroPE"]
  (drop,) = [li for li in axes.lines[2:] if len(set(li.get_xdata())) == 1]
  assert drop.get_xdata()[0] == 600
  assert "Recovery after the drop · drope" in sections


def test_a_report_of_nothing_is_refused():
  with pytest.raises(ValueError, match="needs a run"):
    summary.sections([])
