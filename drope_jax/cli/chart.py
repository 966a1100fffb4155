"""A small line chart in text, for a curve that grows while it is shown."""

from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 60, 10
"""Of the drawing, in characters."""

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character's dots, by row and column."""


def draw(
  points: Sequence[tuple[float, float]],
  levels: Mapping[str, float],
  x_max: float,
) -> str:
  """Returns lines of braille dots: a curve, and dashed levels with names.

  Args:
    points: (x, y), with increasing x from 0 to `x_max`.
    levels: y values of horizontal lines, by name.
    x_max: x at the right edge.
  """
  values = [y for _, y in points] + list(levels.values())
  low, high = min(values), max(values)
  span = (high - low) or 1.0
  columns, rows = 2 * WIDTH, 4 * HEIGHT

  def row_of(y: float) -> int:
    return round((high - y) / span * (rows - 1))

  def column_of(x: float) -> int:
    return min(round(x / x_max * (columns - 1)), columns - 1)

  cells = [[0] * WIDTH for _ in range(HEIGHT)]

  def dot(column: int, row: int) -> None:
    cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]

  for y in levels.values():
    for column in range(0, columns, 6):
      dot(column, row_of(y))
  for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
    start, stop = column_of(x0), column_of(x1)
    for column in range(start, stop + 1):
      share = (column - start) / max(stop - start, 1)
      dot(column, row_of(y0 + share * (y1 - y0)))
  names = [""] * HEIGHT
  for name, y in levels.items():
    names[row_of(y) // 4] += f" {name} {y:.2f}"
  return "\n".join(
    "".join(chr(0x2800 + bits) for bits in line) + named
    for line, named in zip(cells, names, strict=True)
  )
