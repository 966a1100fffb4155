import dataclasses
import html
import math
import re

import pytest

from drope_jax.analysis import damage, report, runs, summary
from drope_jax.analysis.sections import comparison
from drope_jax.evals.metric import SHARE, Metric

CONTEXT = 64
METHODS = [("base", m) for m in ("model", "pi", "ntk", "yarn")] + [
  (name, "model") for name in ("continued", "live", "partial", "full")
]


def _rows(treatments=(False,)):
  """Every cell of a demo, each with a value of its own."""
  rows = []
  for fitted in treatments:
    for model, method in METHODS:
      for factor in (1.0, 2.0, 8.0):
        for task, metric in (
          ("multi_key", "accuracy"),
          ("multi_key", "string_match_all"),
          ("perplexity", "loss"),
          ("perplexity", "tail_loss"),
        ):
          value = round(0.1 + 0.001 * len(rows), 3)
          series = None
          if metric == "loss":
            end = int(factor * CONTEXT)
            series = [[x, 3.0 - x / 1000] for x in range(4, end, 8)]
          if metric == "accuracy":
            series = [[10, value], [90, 0.5]]
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
              "mean_tokens": 100.0,
              "outcomes": [value] * 10,
              "series": series,
            }
          )
  return rows


def _manifest(scheme, *operations):
  """`operations`: (name, tokens trained on so far)."""
  positional = {
    "Rope": {"theta": 1e4},
    "PartialRope": {"pairs": 6},
    "Nope": {},
  }[scheme] | {"__class__": scheme}
  model = {
    "head_dim": 16,
    "context_tokens": CONTEXT,
    "positional": positional,
    "logit_scale_slope": 0.25 if scheme == "Nope" else None,
  }
  lineage = [{"operation": name, "tokens": n} for name, n in operations]
  return {"manifest": {"model": model, "lineage": lineage}}


BASE = ("pretrain", 1000)
CUT = BASE, ("surgery", 1000)
MODELS = {
  "base": _manifest("Rope", BASE),
  "continued": _manifest("Rope", BASE, ("more", 1010)),
  "live": _manifest("PartialRope", *CUT, ("recalibrate", 1010)),
  "partial": _manifest("PartialRope", *CUT, ("recalibrate", 1100)),
  "full": _manifest("Nope", *CUT, ("recalibrate", 1100)),
}
SETTINGS = {"samples": [7], "fit_factor": 4.0}


def _metrics(*phases, **more):
  return tuple(
    {"step": i, "phase": phase, "tokens": 100 * i, "loss": 5.0 / i} | more
    for i, phase in enumerate(phases, 1)
  )


def _demo(rename=None, finished=True, treatments=(False,)):
  rename = rename or {name: name for name in MODELS}
  rows = [row | {"model": rename[row["model"]]} for row in _rows(treatments)]
  side = damage.Anatomy(1.5, (1.0,), (2.0,), (0.1,), (9.0,), 2.2)
  phases = ["recalibrate"] * 6
  logs = {
    rename["live"]: _metrics(*phases, held_out_loss=3.25),
    rename["full"]: _metrics("recalibrate_128", *phases),
  }
  return runs.Run(
    "demo",
    results={
      "schema": 2,
      "finished": finished,
      "rows": rows,
      "models": {rename[name]: model for name, model in MODELS.items()},
      "settings": SETTINGS,
    },
    damage=damage.Damage(side, side),
    samples=({"model": "full", "text": "the whale & <the> sea"},),
    logs=logs,
    held_out={rename["continued"]: 3.125},
  )


def _page(*gathered):
  return report.render(summary.sections(gathered, commands=["drope demo"]))


@pytest.fixture(scope="module")
def page():
  """Of the demo, rendered once for all tests."""
  return _page(_demo())


def _words(gathered, **options):
  """The page's paragraphs, without drawing it."""
  sections = summary.sections([gathered], **options)
  blocks = [block for section in sections for block in section.blocks]
  return " ".join(b.text for b in blocks if isinstance(b, report.Text))


def _titles(*gathered):
  return [section.title for section in summary.sections(gathered)]


def test_every_row_of_the_results_is_on_the_page(page):
  for row in _rows():
    cells = "".join(
      f"<td[^>]*>{re.escape(text)}</td>"
      for text in (row["task"], row["metric"], row["model"], row["method"])
    )
    assert re.search(cells, page)
    assert f">{row['value']:.4g}</td>" in page


def test_a_models_row_has_its_own_values_by_length():
  rows = [r for r in _rows((False, True)) if r["metric"] == "tail_loss"]
  table = comparison._by_factor(runs.scores(rows), "Far loss.")
  found = [[cell.value for cell in row[2:]] for row in table.rows]
  want = [
    [r["value"] for r in rows if r["scale_fitted"] == fitted and _is(r, way)]
    for fitted in (False, True)
    for way in METHODS
  ]
  assert found == want and table.columns[2:] == ["1×", "2×", "8×"]


def _is(row, way):
  return (row["model"], row["method"]) == way


def test_a_demo_gets_all_of_its_sections():
  assert _titles(_demo()) == [
    "Dropping positions, to read on",
    "The models",
    "What showed and what did not",
    "Retrieval beyond the trained context",
    "Loss beyond the trained context",
    "Recovery after the drop",
    "Damage of the surgery, before any training",
    "What scaling does to the frequencies",
    "What the models write",
    "How this was made",
  ]


def _section(run, title):
  return next(s for s in summary.sections([run]) if s.title.startswith(title))


def test_every_name_of_a_table_is_explained_once():
  (table,) = _section(_demo(), "The models").blocks
  names = [row[0] for row in table.rows]
  shown = _section(_demo(), "Retrieval").blocks[1]
  assert names == [row[0] for row in shown.rows] and len(set(names)) == 8


def test_an_evaluation_that_is_not_finished_is_said_to_be():
  said = "evaluation of demo is not finished"
  assert said in _words(_demo(finished=False))
  assert said not in _words(_demo())


def test_scores_of_few_texts_are_shown_without_an_interval():
  few = _demo()
  for row in few.rows:
    row |= {"low": None, "high": None} if "loss" in row["metric"] else {}
  table = _section(few, "Loss beyond").blocks[-1]
  cell = table.rows[0][1]
  page = report.render([report.Section("", [table])])
  assert f">{cell.value:.3f}<small>{cell.beside}</small></td>" in page


def test_perplexity_stands_beside_the_loss():
  cell = _section(_demo(), "Loss beyond").blocks[-1].rows[0][1]
  assert cell.beside == f"ppl {math.exp(cell.value):.1f}"


def test_page_has_the_sample_the_settings_and_the_share_of_tokens(page):
  text = html.unescape(page)
  assert "the whale & <the> sea" in text
  assert "<td>samples</td><td>(7,)</td>" in text and "drope demo" in text
  assert "fit_factor" not in text, "a default"
  assert "1.0%" in text and "10 after 1,000" in text


def test_an_imported_base_has_no_tokens_to_take_a_share_of():
  models = {
    name: _manifest(
      model["manifest"]["model"]["positional"]["__class__"],
      *(("convert", 0), *[("recalibrate", 10)] * (name != "base")),
    )
    for name, model in MODELS.items()
  }
  demo = _demo()
  imported = dataclasses.replace(
    demo, results=demo.results | {"models": models}
  )
  facts = [
    label
    for section in summary.sections([imported])
    for block in section.blocks
    if isinstance(block, report.Facts)
    for label, *_ in block.items
  ]
  assert facts and not any("tokens that" in label for label in facts)


def test_what_was_not_measured_is_not_spoken_of():
  demo = _demo()
  rows = [r for r in demo.rows if r["method"] in ("model", "pi")]
  results = {**demo.results, "rows": rows}
  part = dataclasses.replace(demo, results=results, damage=None, held_out={})
  assert "NTK-aware scaling and YaRN" in _words(demo)
  assert "stretched by position interpolation (PI)." in _words(part)
  captions = [_section(r, "Recovery").blocks[0].caption for r in (demo, part)]
  assert ["; dotted, the" in caption for caption in captions] == [True, False]


def _labels(axes):
  return [li.get_label() for li in axes.lines if li.get_label()[0] != "_"]


def test_two_kinds_of_loss_never_share_a_plot():
  held_out, batches = _section(_demo(), "Recovery").blocks
  (axes,) = held_out.figure.axes
  assert _labels(axes) == ["live"]
  assert set(axes.lines[0].get_ydata()) == {3.25}
  assert any("continued 3.1" in text.get_text() for text in axes.texts)
  (axes,) = batches.figure.axes
  assert _labels(axes) == ["live", "full"]
  assert "training batches" in batches.caption
  assert [len(li.get_xdata()) for li in axes.lines] == [6, 7]


def test_what_comes_next_is_named_under_the_verdicts():
  more = "More is elsewhere."
  assert more in _words(_demo(), more=more) and more not in _words(_demo())


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
  made = summary.sections([demo], classes=classes)[-1]
  text = report.render([made])
  assert "<summary>Lineage of full</summary>" in text
  assert "<td>phase.steps</td><td>3</td>" in text
  assert "phase.rate" not in text


def test_rows_are_compared_with_and_without_a_fitted_scale_apart():
  both = _demo(treatments=(False, True))
  for title in ("Retrieval beyond the", "Loss beyond the"):
    plot = _section(both, title).blocks[0]
    assert len(plot.figure.axes) == 2
    once = _section(_demo(), title).blocks[0]
    assert len(once.figure.axes) == 1
    assert not once.figure.axes[0].get_title("left")
    assert plot.figure.axes[0].get_title("left")
    (legend,) = plot.figure.legends
    assert len(legend.get_texts()) == len(METHODS)
  table, *maps = _section(both, "Retrieval").blocks[1:]
  assert table.columns[1] == "softmax scale" and len(table.rows) == 16
  assert len(maps) == 2


def test_the_heat_map_is_of_the_series_by_depth():
  (_, _, heat) = _section(_demo(), "Retrieval").blocks
  grids = [ax.collections[0].get_array() for ax in heat.figure.axes[:3]]
  rows = [r for r in _rows() if r["metric"] == "accuracy"]
  for factor, grid in zip((1.0, 2.0, 8.0), grids, strict=True):
    want = [[x for _, x in r["series"]] for r in rows if r["factor"] == factor]
    assert grid.tolist() == want


def test_a_metric_that_the_report_does_not_know_is_shown_as_it_says():
  demo = _demo()
  title = "words in their place"
  stored = {
    "name": "sorted",
    "title": title,
    "topic": "Order",
    "unit": "words",
    "higher_is_better": True,
    "plots": ["length", "position"],
  }
  demo.results["metrics"] = {"shuffle": [stored]}
  new = [
    row
    | {"task": "shuffle", "metric": "sorted", "value": 9.0, "outcomes": [9.0]}
    for row in demo.rows
    if row["metric"] == "loss"
  ]
  demo.results["rows"] += new
  by_length, by_position = _section(demo, "Order beyond the").blocks
  (axes,) = by_length.figure.axes
  assert {bar.get_height() for bar in axes.patches} == {9.0}
  assert axes.get_ylabel() == title
  assert by_position.figure.axes[0].get_ylabel() == f"{title} (words)"
  assert "shuffle: words in their place, words" in by_length.caption
  # What is not declared has no section, and stands in the table of all rows.
  demo.results["metrics"] = {}
  assert not any("Order" in title for title in _titles(demo))


def test_recall_is_drawn_by_distance_at_the_longest_length():
  demo = _demo()
  recalled = {"task": "recall", "metric": "hit_loss"}
  demo.results["rows"] += [
    row | recalled | {"series": [[9, 3.0], [90 * row["factor"], 2.0]]}
    for row in demo.rows
    if row["metric"] == "loss"
  ]
  section = _section(demo, "Recall in natural text beyond the")
  (plot,) = section.blocks
  (axes,) = plot.figure.axes
  assert axes.get_xlabel() == "distance in tokens"
  drawn = [line for line in axes.lines if len(line.get_xdata()) == 2]
  drawn = [x for line in drawn for x in line.get_xdata() if x > 1]
  assert {*drawn} >= {9, 720} and 90 not in drawn
  assert "in texts of 512 tokens: those that follow the same" in plot.caption


def test_scores_during_a_training_are_drawn_from_the_drop_on():
  log = _metrics(*["pretrain"] * 3, *["recalibrate"] * 6)
  for record in log:
    record["niah.accuracy.2x"] = record["step"] / 10
    record["multi_key.string_match_all.2x"] = 0.5  # Without a plot of its own.
    record["niah.accuracy.4x.crop"] = 0.0 if record["step"] % 2 else None
  run = runs.Run("run", metrics=log)
  (plot,) = _section(run, "Scores during training").blocks
  (axes,) = plot.figure.axes
  drawn = {
    line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
    for line in axes.lines
    if len(line.get_xdata()) > 2
  }
  # The drop is after 300 tokens.
  first, second = drawn.values()
  assert first == ([*range(100, 700, 100)], [0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
  assert second == ([200, 400, 600], [0.0] * 3)
  assert list(drawn) == ["run at 2×", "run at 4×, crop"]


def test_the_papers_figures_stand_beside_ours():
  demo = _demo(treatments=(False, True))
  demo.results["settings"]["paper_table"] = "1"
  tasks = ("niah_multiquery", "niah_multikey_1", "niah_multivalue")
  of_base = [
    row
    for row in demo.rows
    if row["model"] == "base" and row["metric"] == "string_match_all"
  ]
  demo.results["rows"] = [
    row | {"task": task, "value": row["factor"] / 10 + i / 100}
    for i, task in enumerate(tasks)
    for row in of_base
    if not (row["factor"] == 2 and row["method"] == "pi")
  ]
  (table,) = _section(demo, "Beside the paper").blocks
  assert table.columns == (
    *("", "softmax scale", "multi-query", "multi-key", "multi-value"),
  )
  rows = {
    (name, scale): [cell and cell.value for cell in cells]
    for name, scale, *cells in table.rows
  }
  assert rows["paper: DroPE", ""] == [28.0, 41.6, 23.3]
  assert rows["base · YaRN", "fitted"] == pytest.approx([20, 21, 22])
  assert rows["base", "its own"] == pytest.approx([20, 21, 22])
  # PI was not tested at the paper's length.
  assert not any(name == "base · PI" for name, _ in rows)
  del demo.results["settings"]["paper_table"]
  assert "Beside the paper" not in _titles(demo)


def test_kinds_of_errors_are_counted_by_model_and_length():
  demo = _demo()
  row = next(r for r in demo.rows if r["metric"] == "accuracy")
  row["errors"] = {"nothing": 3, "wrong value": 1}
  details = _section(demo, "Retrieval").blocks[-1]
  (table,) = details.blocks
  assert table.columns[-2:] == ("nothing", "wrong value")
  assert [cells[-2:] for cells in table.rows] == [[3, 1]]


def test_parts_of_a_score_stand_beside_the_whole_with_what_was_cut():
  demo = _demo()
  title = "LongBench's score"
  metric = Metric("score", title, "LongBench", SHARE, True, ("part",))
  demo.results["metrics"] = {"qasper": [dataclasses.asdict(metric)]}
  part = {
    "name": "4-8k",
    "value": 0.25,
    "low": 0.125,
    "high": 0.5,
    "count": 9,
    "truncated": 1.0,
  }
  row = {"task": "qasper", "metric": "score", "parts": [part]}
  demo.results["rows"].append(demo.rows[0] | row | {"truncated": 0.5})
  (table,) = _section(demo, "LongBench beyond the").blocks
  assert table.columns[-2:] == ("all", "4-8k")
  whole, of_part = table.rows[0][-2:]
  assert (whole.value, whole.beside) == (0.1, "10 inputs, 50% cut")
  assert of_part == report.Interval(
    0.25, 0.125, 0.5, 3, beside="9 inputs, 100% cut"
  )
  demo.results["rows"].append(demo.rows[-1] | {"task": "trec", "value": 0.5})
  *_, mean = _section(demo, "LongBench beyond the").blocks
  assert mean.caption.startswith("longbench: mean of 2 tasks, of all")
  assert mean.rows[0][-2].value == pytest.approx(0.3)
  assert mean.rows[0][-1].value == 0.25


def test_a_section_says_whether_texts_were_longer_than_in_training():
  demo = _demo()
  assert "Retrieval beyond the trained context" in _titles(demo)
  rows = [row for row in demo.rows if row["factor"] == 1]
  demo.results["rows"] = rows
  assert "Retrieval within the trained context" in _titles(demo)


def test_roles_of_unknown_names_come_from_their_manifests():
  renamed = _demo(dict(zip(MODELS, "vwxyz", strict=True)))
  assert _titles(renamed) == _titles(_demo())


def test_training_curves_of_several_runs_share_a_plot():
  phases = {
    "rope": ["pretrain"] * 8,
    "drope": ["pretrain"] * 6 + ["recalibrate"] * 2,
    "recalibrated": ["recalibrate"] * 8,
    "begun": ["pretrain"],
  }
  gathered = [
    runs.Run(name, metrics=_metrics(*names)) for name, names in phases.items()
  ]
  sections = {s.title: s for s in summary.sections(gathered)}
  (axes,) = sections["Training"].blocks[0].figure.axes
  labels = [line.get_label() for line in axes.lines]
  assert labels[:2] == ["rope", "drope"]
  assert not {"recalibrated", "begun"} & {*labels}
  (drop,) = [li for li in axes.lines[2:] if len(set(li.get_xdata())) == 1]
  assert drop.get_xdata()[0] == 600
  assert "Recovery after the drop · drope" in sections


def test_heads_of_an_analysis_are_a_figure_with_controls():
  around = {
    "layer": 0,
    "head": 1,
    "method": "rope",
    "factor": 1.0,
    "weights": [0.1] * 33,
    "peak": 0,
    "within_one": 0.3,
    "deviation": 1.0,
  }
  run = runs.Run("heads", heads={"heads": [], "needle": [around]})
  (figure, _) = _section(run, "Attention around the needle").blocks
  assert isinstance(figure, report.Interactive)
  assert "layer 0, head 1" in _page(run)


def test_a_report_of_nothing_is_refused():
  with pytest.raises(ValueError, match="needs a run"):
    summary.sections([])
