"""The collectives of a compiled program, and what they send."""

import collections
import re
from typing import NamedTuple

from drope_jax.perf import hlo as hlo_text

KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
BETWEEN_SLICES = "between slices"
"""Everything that leaves a slice, whatever its collective."""

_COLLECTIVE = re.compile(rf"(.*?) ({'|'.join(KINDS)})(-start)?\(")
_SENT = re.compile(r"\((.*?), .* send\(.*xla_megascale_runtime")


class Collective(NamedTuple):
  """All collectives of one kind.

  Attributes:
    count: how often they run in a step.
    bytes: of their results on one device in a step; between slices, of what a
      device sends.
  """

  count: int  # type: ignore[assignment]  # A tuple's method of that name.
  bytes: int


def read(hlo: str) -> dict[str, Collective]:
  """Returns a program's collectives by kind, a loop's once for each trip.

  Args:
    hlo: the text of the optimized program.
  """
  counts: dict[str, int] = collections.defaultdict(int)
  sizes: dict[str, float] = collections.defaultdict(float)
  for operation in hlo_text.Module(hlo).operations():
    if found := _COLLECTIVE.match(operation.text):
      counts[found[2]] += operation.times
      sizes[found[2]] += operation.times * _result_bytes(*found.groups())
    if found := _SENT.match(operation.text):
      sent = sum(hlo_text.array_bytes(found[1]))
      counts[BETWEEN_SLICES] += operation.times
      sizes[BETWEEN_SLICES] += operation.times * sent
  return {
    kind: Collective(counts[kind], int(sizes[kind])) for kind in sorted(counts)
  }


def _result_bytes(shape: str, kind: str, start: str | None) -> float:
  """Returns the bytes of a collective's result.

  The shape of an asynchronous start has the operands first (but for an
  all-reduce), then the results, then scalars for the network.
  """
  if not start or kind == "all-reduce":
    return sum(hlo_text.array_bytes(shape))
  arrays = hlo_text.array_bytes(re.sub(r"u32\[\]\S*", "", shape))
  return sum(arrays[len(arrays) // 2 :])
