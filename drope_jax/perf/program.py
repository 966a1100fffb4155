"""Sums the compiler's cycles over a whole TPU program.

There are two counts, of each operation as often as it runs:

  estimate   XLA's cost model; far above the memory's time for an operation that
             waits for memory
  schedule   the bundles of the operation's code, loops by their trips and every
             branch taken, or the time of its HBM traffic if that is longer

A Pallas kernel has no estimate: the caller gives its cycles for both counts.
Neither count includes collectives, contention or overlap: they compare programs
for the same chips, and do not predict a step's time.
"""

import collections
from collections.abc import Callable, Mapping
import pathlib
import re
from typing import NamedTuple

from drope_jax.perf import bundles, collectives, hlo
from drope_jax.perf.chips import CORES

_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_KIND = re.compile(r"((?:\(.*?\)|\S+) )([\w\-]+)\(")
_OPERANDS = re.compile(r" [\w\-]+\((.*?)\)")
_REFERENCE = re.compile(r"%([\w.\-]+)")
_VMEM = re.compile(r"S\([1-9]")
_FREE = {
  "after-all",
  "bitcast",
  "call",
  "conditional",
  "constant",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "partition-id",
  "replica-id",
  "tuple",
  "while",
}
_PRODUCT = re.compile(r" (?:convolution|dot)\(")
_COLLECTIVE = re.compile(rf" (?:{'|'.join(collectives.KINDS)})\(")


class Cycles(NamedTuple):
  """Cycles by both counts."""

  estimate: float
  schedule: float


class Sum(NamedTuple):
  """A program's cycles.

  Attributes:
    total: of all operations.
    parts: of products, kernels, and others.
  """

  total: Cycles
  parts: Mapping[str, Cycles]


def total(
  module: hlo.Module,
  folder: pathlib.Path,
  chip: str,
  kernel: Callable[[str, str], float],
) -> Sum:
  """Returns the sums of a program's cycles.

  Args:
    module: after code generation, with the estimates.
    folder: the compiler's dump of that code.
    chip: a key of `chips.CORES`.
    kernel: cycles of a Pallas kernel, from its name and its bundles' text.
  """
  code = bundles.files(folder)
  operations = [
    o for o in module.operations() if o.fusion is None and _counts(o)
  ]
  inside: dict[str, int] = collections.defaultdict(int)
  for o in module.operations():
    if o.fusion is not None:
      inside[o.fusion] += _estimate(o.text) or 0
  scheduled = {}
  for o in operations:
    if o.name in code and not _is_kernel(o.text):
      dump = code[o.name].read_text(errors="replace")
      scheduled[o.name] = bundles.cycles(dump)
  # The compiler schedules one of several equal operations.
  twins = {
    _like(o): scheduled[o.name] for o in operations if o.name in scheduled
  }
  parts: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
  for o in operations:
    if _is_kernel(o.text):
      file = code.get(o.name) or _twin_file(o.name, code)
      estimate = schedule = kernel(o.name, file.read_text(errors="replace"))
      part = "kernels"
    else:
      estimate = _estimate(o.text)
      estimate = inside[o.name] if estimate is None else estimate
      memory = _hbm_bytes(module, o) / CORES[chip].hbm_bytes
      schedule = scheduled.get(o.name, twins.get(_like(o)))
      part = "others"
      if _holds(module, o.text, _PRODUCT):
        part, schedule = "products", estimate if schedule is None else schedule
      elif _holds(module, o.text, _COLLECTIVE):
        schedule = memory = estimate
      else:
        memory = min(memory, estimate)
      schedule = max(schedule or 0, memory)
    parts[part][0] += o.times * estimate
    parts[part][1] += o.times * schedule
  each = {part: Cycles(*cycles) for part, cycles in sorted(parts.items())}
  return Sum(Cycles(*map(sum, zip(*each.values(), strict=True))), each)


def _counts(o: hlo.Operation) -> bool:
  kind = _kind(o.text)
  return kind not in _FREE and not re.search(r"-(start|done|update)$", kind)


def _kind(text: str) -> str:
  return _KIND.findall(text)[0][1]


def _estimate(text: str) -> int | None:
  found = _ESTIMATE.search(text)
  return int(found[1]) if found and int(found[1]) < 2**62 else None


def _is_kernel(text: str) -> bool:
  return 'custom_call_target="tpu_custom_call"' in text


def _like(o: hlo.Operation) -> tuple:
  return _kind(o.text), _estimate(o.text), o.text.split(" ", 1)[0]


def _twin_file(name: str, code: Mapping[str, pathlib.Path]) -> pathlib.Path:
  stem = name.rsplit(".", 1)[0]
  return next(file for other, file in code.items() if other.startswith(stem))


def _holds(module: hlo.Module, text: str, kind: re.Pattern) -> bool:
  """Returns whether an operation, or one that it calls, is of a kind."""
  return bool(kind.search(text)) or any(
    _holds(module, inner, kind)
    for name in hlo.called(text)
    for inner in module.computations.get(name, {}).values()
  )


def _shape(text: str) -> str:
  """Returns the text of an operation's result shape."""
  return _KIND.findall(text)[0][0]


def _operands(text: str) -> list[str]:
  found = _OPERANDS.search(text[len(_shape(text)) - 1 :])
  return _REFERENCE.findall(found[1]) if found else []


def _outside(shape: str) -> float:
  """Returns the bytes of a shape's arrays that are in HBM."""
  arrays = re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", shape)
  return sum(
    sum(hlo.array_bytes(array)) for array in arrays if not _VMEM.search(array)
  )


def _hbm_bytes(module: hlo.Module, o: hlo.Operation) -> float:
  """Returns the bytes that an operation reads from HBM and writes to it.

  A slice reads only its part, and an update in place writes only its part.
  """
  names = hlo.called(o.text) if _kind(o.text) == "fusion" else []
  body = module.computations[names[0]] if names else None
  size = 0.0
  for index, operand in enumerate(_operands(o.text)):
    full = _outside(_shape(o.around[operand])) if operand in o.around else 0
    if full and body:
      full = min(full, _read(module, body, index))
    elif full and _kind(o.text) in ("dynamic-slice", "slice"):
      full = min(full, _outside(_shape(o.text)))
    size += full
  return size + _written(module, o.text, o.around)


def _read(module: hlo.Module, body: hlo.Computation, index: int) -> float:
  """Returns the bytes of a parameter that a fusion's body reads."""
  name = next(
    n for n, text in body.items() if n and f" parameter({index})" in text
  )
  return _read_of(module, body, name)


def _read_of(module: hlo.Module, body: hlo.Computation, name: str) -> float:
  full, size = sum(hlo.array_bytes(_shape(body[name]))), 0.0
  for other, text in body.items():
    for place, operand in enumerate(_operands(text) if other else ()):
      if operand != name:
        continue
      kind = _kind(text)
      if kind in ("bitcast", "reshape"):
        size += _read_of(module, body, other)
      elif kind == "fusion":
        size += _read(module, module.computations[hlo.called(text)[0]], place)
      elif kind in ("dynamic-slice", "slice", "gather") and not place:
        size += sum(hlo.array_bytes(_shape(text)))
      elif not (kind == "dynamic-update-slice" and not place):
        size += full
  return min(size, full)


def _written(module: hlo.Module, text: str, around: hlo.Computation) -> float:
  """Returns the bytes of HBM that an operation writes."""
  full = _outside(_shape(text))
  if not full:
    return 0
  while _kind(text) in ("fusion", "bitcast", "copy", "convert", "reshape"):
    if _kind(text) == "fusion":
      around = module.computations[hlo.called(text)[0]]
      text = around[hlo.ROOT]
    else:
      operand = _operands(text)[:1]
      if not operand or operand[0] not in around:
        break
      text = around[operand[0]]
  if _kind(text) == "dynamic-update-slice":
    return sum(hlo.array_bytes(_shape(around[_operands(text)[1]])))
  return full
