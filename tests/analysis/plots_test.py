import dataclasses
import functools
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from drope_jax.analysis import (
  canvas,
  damage,
  frequencies,
  pair_damage,
  palette,
)
from drope_jax.analysis.plots import lengths, positions, training
from drope_jax.positional import Rope


def _curve(look=palette.DROPPED, points=4):
  x = list(range(1, points + 1))
  return canvas.Curve(look, x, [1 / value for value in x])


def _accuracy():
  curve = canvas.Curve(
    palette.DROPPED,
    [1, 2, 4],
    [1.0, 0.5, 0.25],
    [0.9, 0.4, 0.1],
    [1.0, 0.6, 0.4],
  )
  return lengths.by_factor(
    {"none": [curve], "fitted": [curve]}, label="answered", is_share=True
  )


def _by_position(*curves, context_tokens=2, lower_is_better=True):
  return lengths.by_tokens(
    {"": curves},
    context_tokens=context_tokens,
    label="loss",
    cut_off_far_above=lower_is_better,
  )


DEPTHS = {
  1.0: {"base": {10: 1.0, 50: 0.5}, "live": {10: 0.0, 50: 1.0}},
  8.0: {"base": {10: 0.25}},
}


@functools.cache
def _figures():
  side = damage.Anatomy(
    1.5, (1.0, 1.1), (2.0, 2.1), (0.1, 0.2), (9.0, 8.0), 2.2
  )
  rope = Rope(), 32, 512
  return {
    "recovery": training.recovery(
      [_curve()], levels={"base": 0.2, "other": 0.4}, dropped_loss=3.0
    ),
    "recovery_log": training.recovery([_curve()], dropped_loss=3.0, log_x=True),
    "training": training.loss([_curve()], drops={"live": 3}),
    "position": _by_position(_curve()),
    "accuracy": _accuracy(),
    "depth": lengths.by_depth(DEPTHS),
    "frequencies": positions.frequency_scaling(
      frequencies.scalings(*rope, factors=[8.0]), frequencies.pairs(*rope)
    ),
    "damage": positions.damage(damage.Damage(side, side)),
    "pair_damage": positions.pair_damage(
      pair_damage.PairDamage((81.5, 9.0, 1.0, 0.1), (0.6, 0.2, 0.1, 0.0), 3)
    ),
  }


@functools.cache
def _svgs():
  return {name: canvas.svg(fig, name) for name, fig in _figures().items()}


def test_every_axis_is_named_and_every_figure_is_valid_svg():
  for name, figure in _figures().items():
    root = ElementTree.fromstring(_svgs()[name])
    assert root.get("viewBox"), name
    assert not root.get("width"), "a fixed width would not follow the page"
    places = [(ax, ax.get_subplotspec()) for ax in figure.axes]
    bottom = [ax for ax, place in places if place and place.is_last_row()]
    shared = figure.get_supxlabel()
    assert bottom and all(ax.get_xlabel() or shared for ax in bottom), name


def test_svg_takes_the_pages_colors_and_fetches_nothing():
  for name, svg in _svgs().items():
    assert "currentColor" in svg and "#1b1f24" not in svg
    links = re.findall(r'(?:href="|url\()([^")]+)', svg)
    assert links and all(link.startswith(f"#{name}-") for link in links)
    assert "font:" not in svg


def test_svg_is_the_same_for_the_same_figure():
  assert canvas.svg(_accuracy(), "a") == canvas.svg(_accuracy(), "a")
  assert canvas.svg(_accuracy(), "a") != canvas.svg(_accuracy(), "b")


def test_a_saved_figure_is_the_same_bytes_on_white_with_its_words(tmp_path):
  before = dict(matplotlib.rcParams)
  for name in ("one.svg", "two.svg"):
    canvas.save(_accuracy(), tmp_path / name)
  text = (tmp_path / "one.svg").read_text()
  assert text == (tmp_path / "two.svg").read_text()
  assert "fill: #ffffff" in text and ">answered</text>" in text
  assert dict(matplotlib.rcParams) == before


def test_ids_of_two_figures_on_a_page_do_not_collide():
  ids = [
    set(re.findall(r' id="([^"]+)"', canvas.svg(_accuracy(), p))) for p in "ab"
  ]
  assert ids[0] and not ids[0] & ids[1]


def test_drawing_leaves_matplotlib_as_it_was():
  before = dict(matplotlib.rcParams)
  _figures.__wrapped__()
  assert dict(matplotlib.rcParams) == before


def test_accuracy_bars_span_the_intervals():
  axes = _accuracy().axes[0]
  (intervals,) = axes.collections
  ends = [sorted(segment[:, 1]) for segment in intervals.get_segments()]
  assert ends == [[0.9, 1.0], [0.4, 0.6], [0.1, 0.4]]
  assert [bar.get_height() for bar in axes.patches] == [1.0, 0.5, 0.25]
  middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
  assert middles == pytest.approx([0, 1, 2])


def test_bars_of_a_length_do_not_overlap():
  looks = (palette.BASE, palette.DROPPED)
  curves = [canvas.Curve(look, [1, 8], [0.5, 1.0]) for look in looks]
  axes = lengths.by_factor({"": curves}, label="answered", is_share=True).axes[
    0
  ]
  ends = sorted((b.get_x(), b.get_x() + b.get_width()) for b in axes.patches)
  assert len(ends) == 4
  assert all(a[1] < b[0] for a, b in zip(ends, ends[1:], strict=False))


def test_a_heat_map_has_a_row_for_each_model_at_every_length():
  first, last, *_ = lengths.by_depth(DEPTHS).axes
  assert [ax.get_title("left") for ax in (first, last)] == ["1×", "8×"]
  (cells,), (far_cells,) = first.collections, last.collections
  assert cells.get_array().tolist() == [[1.0, 0.5], [0.0, 1.0]]
  grid = far_cells.get_array()
  assert grid[0, 0] == 0.25 and grid.mask.tolist() == [[0, 1], [1, 1]]
  labels = [label.get_text() for label in first.get_yticklabels()]
  assert labels == ["base", "live"]


def _text_px(svg):
  """Font sizes as parts of the width."""
  box = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
  return [float(size) / box for size in re.findall(r"font-size: ([\d.]+)", svg)]


def test_narrow_screens_get_larger_text_and_the_figure_stays_as_it_was():
  for name, figure in _figures().items():
    wide = canvas.svg(figure, name)
    narrow = canvas.svg(figure, name, narrow=True)
    assert min(_text_px(narrow)) > 1.5 * min(_text_px(wide)), name
    again = canvas.svg(figure, name)
    assert _text_px(again) == _text_px(wide), name
    assert len(figure.legends) <= 1


def test_long_names_stay_in_the_figure():
  looks = [
    dataclasses.replace(palette.BASE, label=f"smollm_360m_drope_qk_norm_{i}")
    for i in range(5)
  ]
  curves = [canvas.Curve(look, [1, 2], [3.0, 3.1]) for look in looks]
  figure, _ = canvas.panels({"": curves}, 3.0)
  figure.draw_without_rendering()
  (legend,) = figure.legends
  assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_dollar_signs_in_names_are_no_mathematics():
  look = dataclasses.replace(palette.DROPPED, label=r"cost_$5 $\frac{$ of $6")
  figure = _by_position(_curve(look))
  figure.axes[0].set_yscale("log")
  for _ in range(2):  # The second time, ticks have their labels.
    words = "".join(ElementTree.fromstring(canvas.svg(figure)).itertext())
    assert look.label in words and "mathdefault" not in words


def test_labels_of_many_lines_stay_beside_the_axis_in_order():
  figure, axes = canvas.single(3.5)
  axes.set_ylim(0, 1)
  ends = [(0.9 + i / 1000, f"{i:02}", "C0") for i in range(20)]
  canvas.label_ends(axes, ends)
  places = {text.get_text(): text.xy[1] for text in axes.texts}
  heights = [places[f"{i:02}"] for i in range(20)]
  assert heights == sorted(heights) and heights[0] >= -0.01
  assert heights[-1] <= 1 and min(np.diff(heights)) > 0.05


def test_lines_that_run_away_do_not_flatten_the_others():
  near = canvas.Curve(palette.DROPPED, [1, 2, 4, 8], [3.0, 3.1, 3.0, 3.2])
  far = canvas.Curve(palette.BASE, [1, 2, 4, 8], [3.0, 3.0, 9.0, 12.0])
  axes = _by_position(near, far).axes[0]
  assert 3.2 < axes.get_ylim()[1] < 6
  axes = _by_position(near).axes[0]
  assert axes.get_ylim()[1] < 3.5
  axes = _by_position(near, far, lower_is_better=False).axes[0]
  assert axes.get_ylim()[1] > 12


def test_a_score_that_is_no_share_has_an_axis_of_its_own_range():
  curve = canvas.Curve(palette.DROPPED, [1, 2], [30.0, 60.0])
  figure = lengths.by_factor({"": [curve]}, label="points", is_share=False)
  assert figure.axes[0].get_ylim()[1] > 60


def test_long_curves_are_averaged_not_sampled():
  points = 10_000
  wild = canvas.Curve(palette.BASE, range(points), [0.0, 2.0] * (points // 2))
  (line,) = training.loss([wild]).axes[0].lines
  assert len(line.get_ydata()) < 200
  assert line.get_ydata() == pytest.approx(1.0, abs=0.02)


def test_positions_are_not_averaged_across_the_trained_context():
  positions = range(16, 513, 16)
  step = [0.0 if x < 128 else 1.0 for x in positions]
  curve = canvas.Curve(palette.BASE, positions, step)
  figure = _by_position(curve, context_tokens=128)
  line = next(li for li in figure.axes[0].lines if li.get_label() == "base")
  assert set(line.get_ydata()) == {0.0, 1.0}
  assert len(line.get_xdata()) < len(positions)


def test_refuses_a_curve_of_unequal_lengths_and_a_plot_of_nothing():
  with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
    canvas.Curve(palette.BASE, [1, 2], [1.0])
  with pytest.raises(ValueError, match="at least one panel"):
    lengths.by_factor({}, label="answered", is_share=True)
