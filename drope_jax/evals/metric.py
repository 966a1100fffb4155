"""What the numbers of an eval mean, and how they are shown."""

import dataclasses

SHARE = "share"
"""Unit of a value in 0 to 1."""

NATS = "nats a token"
"""Unit of a loss."""

PLOTS = ("length", "table", "part", "position", "distance", "depth")


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric of an eval; results.json has it beside the numbers.

  Attributes:
    name: in the rows of results.json.
    title: a noun phrase for captions and axes, such as "questions answered".
    topic: of the report's section that shows it, such as "Retrieval".
    unit: `SHARE`, `NATS`, or another in a few words.
    higher_is_better: its direction.
    plots: the kinds of plot that show it, of `PLOTS`: "length", the value by
      tested length; "table", the same in numbers; "part", a table of the whole
      and of its parts (`interface.Part`); "position" or "distance", the series
      by that in tokens, at the longest length; "depth", a heat map of the
      series by depth in percent of the text, and by length. Without any it
      stands only in the table of all results.
  """

  name: str
  title: str
  topic: str
  unit: str
  higher_is_better: bool
  plots: tuple[str, ...] = ("length", "table")

  def __post_init__(self):
    # JSON has lists.
    object.__setattr__(self, "plots", tuple(self.plots))
    if unknown := sorted({*self.plots} - {*PLOTS}):
      raise ValueError(
        f"Metric.plots must be some of {', '.join(PLOTS)}, got "
        f"{', '.join(unknown)}. Name some of these."
      )
