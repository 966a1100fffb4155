from html import parser
import re

import pytest

from drope_jax.analysis import canvas, palette, report
from drope_jax.analysis.plots import lengths

_VOID = {"meta", "br", "img", "link"}


class Page(parser.HTMLParser):
  """Collects tags, attributes and text; fails on badly nested tags."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.attributes, self.ids, self.text = [], [], [], ""
    self._open = []
    self.feed(html)
    self.close()
    assert not self._open, f"never closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    self.ids += [value for name, value in attrs if name == "id"]
    if tag not in _VOID:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self._open and self._open.pop() == tag, f"misplaced </{tag}>"

  def handle_data(self, data):
    if not self._open or self._open[-1] != "style":
      self.text += data


def _plot():
  curve = canvas.Curve(palette.DROPPED, [1, 2, 4], [1.0, 0.5, 0.25])
  figure = lengths.by_factor(
    {"a < b": [curve]}, label="answered", is_share=True
  )
  return report.Plot(figure, "what to see")


def _everything():
  table = report.Table(
    ["name", "score", "count"],
    [
      ["YaRN", report.Interval(0.5, 0.25, 0.75, beside="ppl 1.6"), 12_000],
      ["DroPE", None, 3],
    ],
    "a caption",
  )
  return [
    report.Section(
      "Headline",
      [
        report.Text("Plain words."),
        report.Facts([("label", "98%", "note")]),
        report.Verdicts([("a claim", [("live", "not shown", "evidence")])]),
        _plot(),
        _plot(),
      ],
    ),
    report.Section(
      "More",
      [
        table,
        report.Quote("Call me Ishmael.", "full"),
        report.Details("Settings", [report.Code("drope demo"), table]),
      ],
    ),
  ]


def test_page_shows_every_block_once_and_nests_its_tags():
  page = Page(report.render(_everything()))
  for text in (
    "Headline",
    "Plain words.",
    "98%",
    "not shown",
    "what to see",
    "Call me Ishmael.",
    "drope demo",
    "a caption",
    "0.50",
    "0.25–0.75",
    "ppl 1.6",
    "12,000",
  ):
    assert text in page.text, text
  # A plot for wide screens and one for narrow ones.
  assert page.tags.count("svg") == 4 and page.tags.count("table") == 2
  assert page.tags.count("h1") == 1 and page.tags.count("h2") == 1


def test_page_fetches_nothing():
  html = report.render(_everything())
  page = Page(html)
  assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
  fetched = [
    value
    for name, value in page.attributes
    if name in ("src", "href", "xlink:href") and not value.startswith("#")
  ]
  assert fetched == []
  assert "@import" not in html
  assert all(u.startswith("#") for u in re.findall(r"url\(([^)]+)\)", html))


def test_ids_are_unique_over_the_page():
  ids = Page(report.render(_everything())).ids
  assert ids and len(ids) == len(set(ids))


def test_text_from_outside_cannot_become_markup():
  evil = "<script>alert('&')</script>"
  blocks = [
    report.Text(evil),
    report.Facts([(evil, evil, evil)]),
    report.Verdicts([(evil, [(evil, "shown", evil)])]),
    report.Table([evil], [[evil]], evil),
    report.Code(evil),
    report.Quote(evil, evil),
    report.Details(evil, [report.Text(evil)]),
    report.Plot(_plot().figure, evil),
  ]
  html = report.render([report.Section(evil, blocks)], title=evil)
  page = Page(html)
  assert "script" not in page.tags
  assert page.text.count(evil) == 18


def test_table_refuses_a_row_of_another_length():
  with pytest.raises(ValueError, match="needs 2 cells in each row, got 1"):
    report.Table(["a", "b"], [["x"]])


def test_write_replaces_an_old_page_and_leaves_nothing_else(tmp_path):
  path = tmp_path / "new" / "report.html"
  report.write(path, [report.Section("Old", [])])
  report.write(path, [report.Section("New", [])])
  assert [p.name for p in path.parent.iterdir()] == ["report.html"]
  assert "New" in path.read_text("utf-8")
