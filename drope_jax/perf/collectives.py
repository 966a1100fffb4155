"""What a compiled program sends between devices."""

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
"""What leaves a slice, by whichever collective."""

_COLLECTIVE = re.compile(rf"(.*?) ({'|'.join(KINDS)})(-start)?\(")
_SENT = re.compile(r"\((.*?), .* send\(.*xla_megascale_runtime")


class Collective(NamedTuple):
  """All collectives of one kind.

  Attributes:
    count: of a step.
    bytes: of their results on a device, in a step; between slices, of what it
      sends.
  """

  count: int
  bytes: int


def read(hlo: str) -> dict[str, Collective]:
  """Returns a program's collectives by kind, a loop's as often as it runs.

  Args:
    hlo: the optimised program's text.
  """
  counts, sizes = collections.Counter(), collections.Counter()
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
  """Returns those of a collective's result.

  What is started has its operands before it, but for an all-reduce, and may
  have scalars of the network's behind.
  """
  if not start or kind == "all-reduce":
    return sum(hlo_text.array_bytes(shape))
  arrays = hlo_text.array_bytes(re.sub(r"u32\[\]\S*", "", shape))
  return sum(arrays[len(arrays) // 2 :])
