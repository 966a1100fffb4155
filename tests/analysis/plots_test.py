import re
from xml.etree import ElementTree

import matplotlib
import pytest

from drope_jax.analysis import (
  canvas,
  damage,
  frequencies,
  pair_damage,
  palette,
  plots,
)
from drope_jax.positional import Rope


def _curve(look=palette.DROPE, points=4):
  x = list(range(1, points + 1))
  return canvas.Curve(look, x, [1 / value for value in x])


def _accuracy():
  curve = canvas.Curve(
    palette.YARN, [1, 2, 4], [1.0, 0.5, 0.25], [0.9, 0.4, 0.1], [1.0, 0.6, 0.4]
  )
  return plots.accuracy_by_factor({"none": [curve], "fitted": [curve]})


def _figures():
  side = damage.Anatomy(
    1.5, (1.0, 1.1), (2.0, 2.1), (0.1, 0.2), (9.0, 8.0), 2.2
  )
  rope = Rope(), 32, 512
  return {
    "recovery": plots.recovery([_curve()], base_loss=0.2, dropped_loss=3.0),
    "recovery_log": plots.recovery([_curve()], dropped_loss=3.0, log_x=True),
    "training": plots.training([_curve()], drops={"DroPE": 3}),
    "position": plots.loss_by_position({"none": [_curve()]}, context_tokens=2),
    "accuracy": _accuracy(),
    "frequencies": plots.frequency_scaling(
      frequencies.scalings(*rope, factors=[8.0]), frequencies.pairs(*rope)
    ),
    "damage": plots.damage(damage.Damage(side, side)),
    "pair_damage": plots.pair_damage(
      pair_damage.PairDamage((81.5, 9.0, 1.0, 0.1), (0.6, 0.2, 0.1, 0.0), 3)
    ),
  }


def test_every_axis_is_named_and_every_figure_is_valid_svg():
  for name, figure in _figures().items():
    root = ElementTree.fromstring(canvas.svg(figure, name))
    assert root.get("viewBox"), name
    assert not root.get("width"), "a fixed width would not follow the page"
    bottom = [ax for ax in figure.axes if ax.get_subplotspec().is_last_row()]
    assert bottom and all(ax.get_xlabel() for ax in bottom), name


def test_svg_takes_the_pages_colours_and_fetches_nothing():
  for name, figure in _figures().items():
    svg = canvas.svg(figure, name)
    assert "currentColor" in svg and "#1b1f24" not in svg
    links = re.findall(r'(?:href="|url\()([^")]+)', svg)
    assert links and all(link.startswith(f"#{name}-") for link in links)
    assert "font:" not in svg


def test_svg_is_the_same_for_the_same_figure():
  assert canvas.svg(_accuracy(), "a") == canvas.svg(_accuracy(), "a")
  assert canvas.svg(_accuracy(), "a") != canvas.svg(_accuracy(), "b")


def test_ids_of_two_figures_on_a_page_do_not_collide():
  ids = [
    set(re.findall(r' id="([^"]+)"', canvas.svg(_accuracy(), p))) for p in "ab"
  ]
  assert ids[0] and not ids[0] & ids[1]


def test_drawing_leaves_matplotlib_as_it_was():
  before = dict(matplotlib.rcParams)
  _figures()
  assert dict(matplotlib.rcParams) == before


def test_accuracy_bars_span_the_intervals():
  (bars,) = _accuracy().axes[0].collections
  ends = [sorted(segment[:, 1]) for segment in bars.get_segments()]
  assert ends == [[0.9, 1.0], [0.4, 0.6], [0.1, 0.4]]


def test_long_curves_are_averaged_not_sampled():
  points = 10_000
  wild = canvas.Curve(palette.ROPE, range(points), [0.0, 2.0] * (points // 2))
  (line,) = plots.training([wild]).axes[0].lines
  assert len(line.get_ydata()) < 200
  assert line.get_ydata() == pytest.approx(1.0, abs=0.02)


def test_positions_are_not_averaged_across_the_trained_context():
  positions = range(16, 513, 16)
  step = [0.0 if x < 128 else 1.0 for x in positions]
  curve = canvas.Curve(palette.ROPE, positions, step)
  figure = plots.loss_by_position({"": [curve]}, context_tokens=128)
  line = next(li for li in figure.axes[0].lines if li.get_label() == "RoPE")
  assert set(line.get_ydata()) == {0.0, 1.0}
  assert len(line.get_xdata()) < len(positions)


def test_refuses_a_curve_of_unequal_lengths_and_a_plot_of_nothing():
  with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
    canvas.Curve(palette.ROPE, [1, 2], [1.0])
  with pytest.raises(ValueError, match="at least one panel"):
    plots.accuracy_by_factor({})
