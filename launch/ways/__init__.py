"""The ways by which Google Cloud rents a slice, by name."""

from launch.slice import Slice
from launch.ways import group, jobset, queued
from launch.ways.way import Way

WAYS: dict[str, type[Way]] = {
  "group": group.Group,
  "queued": queued.Queued,
  "jobset": jobset.JobSet,
}


def of(rented: Slice) -> Way:
  """Returns the way of a slice."""
  return WAYS[rented.way](rented)
