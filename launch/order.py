"""What the hosts are ordered to do: run.json in the slice's folder."""

import dataclasses
import json
from typing import Any

from launch import bucket
from launch.commands import Command, Run
from launch.slice import Slice


@dataclasses.dataclass(frozen=True)
class Order:
  """A run, as the hosts read it.

  Attributes:
    attempt: counts every start of the training; a host begins each once.
    recipe: in `files`, or a shipped one's name.
    files: of the recipe, in the folder's recipe/.
    arguments: of `drope train`, after the recipe.
    out: the run's folder, gs://.
    project: of the logs.
    slices, hosts_of_slice: how many there are.
    wheel, wheel_sha256: this very revision.
    extras: of the wheel, that hosts install.
    token: that keeps other runs' processes out; secret, and nowhere else.
    stop: whether hosts save and end.
    report_every_s: how often a host tells how it goes.
  """

  attempt: int
  recipe: str
  files: list[str]
  arguments: list[str]
  out: str
  project: str
  slices: int
  hosts_of_slice: int
  wheel: str
  wheel_sha256: str
  extras: str
  token: str
  stop: bool = False
  report_every_s: float = 10.0


def url(rented: Slice) -> str:
  """Returns where a slice's order lies."""
  return f"{rented.folder}/run.json"


def write(rented: Slice, order: Order) -> Command:
  """Returns what gives an order."""
  return bucket.write(url(rented), dataclasses.asdict(order))


def read(rented: Slice, do: Run) -> Order | None:
  """Returns the order that was given; None: none was.

  Raises:
    ValueError: another version gave it.
  """
  text = bucket.read(url(rented), do)
  return None if text is None else _parse(url(rented), json.loads(text))


def require(rented: Slice, do: Run) -> Order:
  """Returns the order that was given.

  Raises:
    ValueError: none was, or another version gave it.
  """
  order = read(rented, do)
  if order is None:
    raise ValueError(
      f"{rented.name} needs an order, got none in {rented.folder}. Give one "
      "with `run RECIPE.gin`."
    )
  return order


def _parse(where: str, found: dict[str, Any]) -> Order:
  try:
    return Order(**found)
  except TypeError as error:
    raise ValueError(
      f"{where} must be of this version of the launcher, got another's "
      f"({error}). `delete` removes it."
    ) from error
