"""The order that the hosts obey: run.json in the folder of the slices."""

import dataclasses
import json
from typing import Any

from launch import bucket
from launch.commands import Command, Run
from launch.hosts import bootstrap
from launch.slice import Slice


@dataclasses.dataclass(frozen=True)
class Order:
  """A run, as the hosts read it.

  Attributes:
    id: of the run, in the paths of its hosts' records.
    attempt: counts the starts of the training; a host begins each once.
    recipe: one of `files`, or the name of a shipped recipe.
    files: of the recipe, in the subfolder recipe/.
    arguments: of `drope train`, after the recipe.
    out: the run's folder, gs://.
    rented: the description of the slices.
    project: that gets the logs.
    slices, hosts_of_slice: how many there are.
    wheel, wheel_sha256: of the revision to run.
    extras: of the wheel, which hosts install.
    token: a secret that all processes of the run share; it is only here.
    stop: whether hosts save and end.
    report_every_s: seconds between a host's reports.
  """

  id: str
  attempt: int
  recipe: str
  files: list[str]
  arguments: list[str]
  out: str
  rented: Slice
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
  """Returns the address of the order."""
  return bootstrap.order_url(rented.folder)


def records(rented: Slice, run: str, attempt: int) -> str:
  """Returns the folder of the records of an attempt of a run."""
  return bootstrap.records(rented.folder, run, attempt)


def write(
  rented: Slice, order: Order, generation: str | None = None
) -> Command:
  """Returns the command that writes an order; see `bucket.write`."""
  return bucket.write(url(rented), dataclasses.asdict(order), generation)


def read(rented: Slice, do: Run) -> Order | None:
  """Returns the order; None: there is none.

  Raises:
    ValueError: another version of the launcher wrote it.
  """
  text = bucket.read(url(rented), do)
  return None if text is None else _parse(url(rented), json.loads(text))


def require(rented: Slice, do: Run) -> Order:
  """Returns the order.

  Raises:
    ValueError: there is none, or another version of the launcher wrote it.
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
    return Order(**found | {"rented": Slice(**found["rented"])})
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"{where} must be of this version of the launcher, got another's "
      f"({error}). `delete` removes it."
    ) from error
