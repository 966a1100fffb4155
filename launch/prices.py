"""What chips cost, by a table that the user may edit."""

import dataclasses
import pathlib
import tomllib

from launch.slice import Slice

TABLE = pathlib.Path(__file__).with_name("prices.toml")


@dataclasses.dataclass(frozen=True)
class Price:
  """The price of one chip for one hour.

  Attributes:
    dollars: in US dollars; None: the table has none.
    exact: False: it is the price on demand, which is an upper bound.
    read: the date of the table.
  """

  dollars: float | None
  exact: bool
  read: str

  def of(self, chip_hours: float) -> str:
    """Returns what chip-hours cost, in words."""
    if self.dollars is None:
      return "no price in launch/prices.toml"
    bound = "" if self.exact else "at most "
    return f"{bound}${chip_hours * self.dollars:,.0f} (prices of {self.read})"


def find(rented: Slice, table: pathlib.Path = TABLE) -> Price:
  """Returns a slice's price.

  Raises:
    ValueError: the table is not valid toml.
  """
  try:
    found = tomllib.loads(table.read_text("utf-8"))
  except tomllib.TOMLDecodeError as error:
    raise ValueError(f"{table} must be toml ({error}). Correct it.") from error
  kind = rented.shape.kind
  own = found.get(rented.capacity, {}).get(kind)
  on_demand = found.get("on-demand", {}).get(kind)
  exact = own is not None
  return Price(own if exact else on_demand, exact, str(found.get("read")))
