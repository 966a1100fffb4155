import numpy as np
import pytest

from drope_jax.cli import chart

WIDTH, HEIGHT = chart.WIDTH, chart.HEIGHT
# Bit of each dot in a braille character, by row and column (Unicode 2800).
BITS = np.array([[0, 3], [1, 4], [2, 5], [6, 7]])


def _dots(text: str) -> np.ndarray:
  """Returns which dots are set: bool [4 * HEIGHT, 2 * WIDTH]."""
  cells = np.array(
    [[ord(c) for c in line[:WIDTH]] for line in text.split("\n")]
  )
  assert ((cells >= 0x2800) & (cells < 0x2900)).all()
  dots = (cells[:, None, :, None] - 0x2800) >> BITS[None, :, None, :] & 1
  return dots.reshape(4 * HEIGHT, 2 * WIDTH).astype(bool)


def _draw(points, levels=None, x_max=1.0):
  return chart.draw(points, levels or {}, x_max)


def test_a_line_runs_from_corner_to_corner():
  dots = _dots(_draw([(0.0, 1.0), (1.0, 0.0)]))
  assert dots.any(axis=0).all(), "a column without a dot: the line is broken"
  assert dots[0, 0] and dots[-1, -1]
  rows = dots.argmax(axis=0)
  np.testing.assert_allclose(
    rows, np.linspace(0, 4 * HEIGHT - 1, 2 * WIDTH), atol=0.5
  )


def test_a_growing_curve_keeps_its_earlier_points():
  points = [(0.0, 3.0), (0.2, 1.5), (0.4, 1.2), (0.6, 1.0)]
  levels = {"dropped": 3.0, "base": 1.0}
  early, late = (_dots(_draw(points[:n], levels)) for n in (3, 4))
  assert (early <= late).all()
  assert not (late & ~early)[:, : round(0.4 * 2 * WIDTH) - 1].any()
  assert (late & ~early).any()


def test_levels_are_drawn_with_names_and_values():
  text = _draw([(0.0, 2.0), (1.0, 1.5)], {"dropped": 3.0, "base": 1.0})
  lines = text.split("\n")
  assert len(lines) == HEIGHT
  assert lines[0].endswith(" dropped 3.00")
  assert lines[-1].endswith(" base 1.00")
  dots = _dots(text)
  for row in (0, -1):
    assert dots[row].sum() == len(range(0, 2 * WIDTH, 6))


def test_levels_close_together_are_both_named():
  text = _draw([(0.0, 9.0), (1.0, 1.0)], {"base": 1.01, "goal": 1.0})
  assert " base 1.01 goal 1.00" in text.split("\n")[-1]


@pytest.mark.parametrize("points", [[], [(0.0, 2.0)], [(0.0, 2.0), (2.0, 2.0)]])
def test_few_flat_or_many_points_can_be_drawn(points):
  _dots(_draw(points, {"base": 2.0}))
