"""A figure of attention around the needle has its numbers and no source."""

import json
import re

from drope_jax.analysis import report
from drope_jax.analysis.sections import around_needle

ROW = {
  "layer": 0,
  "head": 1,
  "method": "yarn",
  "factor": 2.0,
  "weights": [0.25] * 33,
  "peak": 3,
  "within_one": 0.5,
  "deviation": None,
}
HEAD = {
  "layer": 0,
  "head": 1,
  "bias": [0.1, 0.3, -0.2],
  "needle": 0.4,
  "first_token": 0.05,
  "role": "both",
}


def _page(*rows):
  blocks = around_needle.blocks({"heads": [HEAD], "needle": list(rows)})
  return report.render([report.Section("Attention", blocks)])


def test_the_page_has_its_numbers_and_no_other_source():
  page = _page(ROW | {"factor": 1.0, "method": "rope"}, ROW)
  assert "src=" not in page and "http" not in page
  (text,) = re.findall(
    r'<script type="application/json">(.*?)</script>', page, re.DOTALL
  )
  data = json.loads(text)
  assert data["factors"] == [1.0, 2.0]
  plain, scaled = data["rows"]
  assert (plain["method"], scaled["method"]) == ("RoPE", "YaRN")
  assert scaled["weights"] == ROW["weights"] and scaled["peak"] == 3
  assert 'type="range" min="0" max="1"' in page
  assert re.findall(r"<option>(.*?)</option>", page) == [
    *("layer 0, head 1", "RoPE", "YaRN")
  ]
  # One tick a token; every fourth is named, every eighth on a phone.
  ticks = re.findall(r"<span( class=\"few\")?>(-?\d*)</span>", page)
  named = [int(place) for _, place in ticks if place]
  assert len(ticks) == 33 and named == [*range(-16, 17, 4)]
  assert [int(p) for few, p in ticks if p and not few] == [-16, -8, 0, 8, 16]
  # What is left of the template would be a name after a dollar.
  assert not re.search(r"\$[a-z]", page)


def test_the_largest_bias_of_a_head_is_in_the_table():
  page = _page(ROW)
  assert ">both<" in page and ">0.3<" in page and ">0.4<" in page


def test_no_needle_makes_no_figure():
  assert not around_needle.blocks(None)
  assert not around_needle.blocks({"heads": [HEAD], "needle": []})


def test_what_is_not_finite_is_no_number_in_the_figure():
  """In heads.json it is null, and JSON has no NaN for a browser to read."""
  nothing = [None, float("nan"), *[0.25] * 31]
  blocks = around_needle.blocks(
    {
      "heads": [HEAD | {"bias": [None, 0.1, 0.2], "needle": None}],
      "needle": [ROW | {"weights": nothing, "within_one": None}],
    }
  )
  page = report.render([report.Section("Attention", blocks)])
  (text,) = re.findall(
    r'<script type="application/json">(.*?)</script>', page, re.DOTALL
  )
  assert "NaN" not in text
  assert json.loads(text)["rows"][0]["weights"][:3] == [None, None, 0.25]
