"""The cycles of attention kernels over a causal sequence, by their schedules.

A kernel's schedule has the cycles of each piece of its code. Here each piece is
counted as often as the kernel runs it for one head. The sums are static lower
bounds from the compiler, not hardware timings.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import importlib.util
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.attention.flash_tpu import backward, blocks, forward, tiles
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.grid import Inputs
from drope_jax.attention.mask import Mask
from drope_jax.attention.rotation import Rotation
from drope_jax.perf import chips, schedule

Direction = Literal["forward", "backward"]

PRODUCTS: dict[Direction, int] = {"forward": 2, "backward": 5}
"""Matrix products of a tile, by direction."""
MASK_TOKENS = 1024
"""The window of the option "window", and the documents of "segments"."""

_NAMES = {"forward": "fwd|forward", "backward": "dkv|backward"}
_TARGETS = "drope_jax.perf.attention_targets"


@dataclasses.dataclass(frozen=True)
class Case:
  """One kernel, forward and backward, for one chip and shape.

  Attributes:
    kernel: "flash", "splash" or "tokamax".
    chip: a key of `chips.CORES`.
    tokens, head_dim: of the sequence.
    block: that of `attention_targets.splash`; None for "flash", which has a
      table of blocks.
    option: of `attention_targets.OPTIONS`; "plain" for the peers, or "window"
      to compile splash alone.
    group_size: query heads that share a key/value head; 1 for the peers.
  """

  kernel: str
  chip: str
  tokens: int
  head_dim: int
  block: tuple[int, ...] | None = None
  option: str = "plain"
  group_size: int = 1

  def compiled(self) -> schedule.Program:
    """Compiles the gradient; see `schedule.compiled` for what it raises."""
    return schedule.compiled(*self._target())

  def compile_cpu_s(self) -> float:
    """Compiles the gradient; see `schedule.compile_cpu_s`."""
    return schedule.compile_cpu_s(*self._target())

  def _target(self) -> tuple[str, str, dict[str, Any]]:
    kwargs: dict[str, Any] = {"tokens": self.tokens, "head_dim": self.head_dim}
    if self.kernel == "flash":
      kwargs |= {"option": self.option, "group_size": self.group_size}
      for direction in PRODUCTS:
        kwargs[direction] = dataclasses.astuple(self.blocks(direction))
    else:
      kwargs["block"] = self.block
      if self.option == "window":
        kwargs["window"] = MASK_TOKENS
    return f"{_TARGETS}:{self.kernel}", f"{self.chip}:2x2", kwargs

  def blocks(self, direction: Direction) -> Blocks:
    """Returns the blocks of `flash_tpu`."""
    return blocks.nearest(self.chip, self.head_dim, direction)

  def cycles(self, direction: Direction, kernel: schedule.Kernel) -> float:
    """Returns the cycles of one query head."""
    if self.block is None:
      division = self.blocks(direction)
      return flash_cycles(
        direction,
        kernel,
        division,
        self.tokens,
        self.head_dim,
        option=self.option,
        group_size=self.group_size,
      )
    return splash_cycles(direction, kernel, self.block, self.tokens)

  def mfu(self, direction: Direction, cycles: float) -> float:
    """Returns the visible multiply-adds over those of the matrix units' peak.

    A product has D of them for each of T * T / 2 causal scores, T without
    padding; fewer with a window or documents.
    """
    T = self.tokens
    width = min(T, MASK_TOKENS)
    scores = {
      "window": T * width - width**2 / 2,
      "segments": T * width / 2,
    }.get(self.option, T**2 / 2)
    macs = PRODUCTS[direction] * self.head_dim * scores
    return macs / chips.CORES[self.chip].macs / cycles


def kernel_of(
  program: schedule.Program, direction: Direction
) -> schedule.Kernel:
  """Returns a program's forward or backward kernel, of any library."""
  return program.kernel(_NAMES[direction])


def flash_cycles(
  direction: Direction,
  kernel: schedule.Kernel,
  division: Blocks,
  tokens: int,
  head_dim: int,
  *,
  option: str = "plain",
  group_size: int = 1,
) -> float:
  """Returns the cycles of `flash_tpu` for one query head.

  Args:
    direction: "forward" or "backward".
    kernel: its schedule for these shapes.
    division: how the kernel divides its work.
    tokens, head_dim: of the sequence, which is padded to whole tiles.
    option: "window" and "segments" are of `MASK_TOKENS`; others are causal.
    group_size: query heads that share a key/value head.
  """
  q_BHSD, k_BKTD = (
    jax.ShapeDtypeStruct((1, heads, tokens, head_dim), jnp.bfloat16)
    for heads in (group_size, 1)
  )
  table = jax.ShapeDtypeStruct((1, 2, tokens, head_dim), jnp.float32)
  index = jax.ShapeDtypeStruct((1,), jnp.int32)
  rotation = Rotation(table, table, index) if option == "rotation" else None
  inputs = Inputs(q_BHSD, k_BKTD, k_BKTD, Mask(), None, rotation)
  division = division.fitted(tokens, tokens)
  if direction == "forward":
    calls, heads = [_forward_call(inputs, division, option)], 1
  else:
    calls, heads = _backward_calls(inputs, division, option), group_size
  return sum(_call_cycles(direction, kernel, *call) for call in calls) / heads


def _mask(option: str, queries: int, keys: int) -> Mask:
  if option == "window":
    return Mask(window=jnp.int32(MASK_TOKENS))
  if option != "segments":
    return Mask()
  q_BS, k_BT = (jnp.arange(n)[None] // MASK_TOKENS for n in (queries, keys))
  return Mask(q_segment_BS=q_BS, k_segment_BT=k_BT)


def _forward_call(inputs, division, option):
  tokens = inputs.q_BHSD.shape[2]
  division = forward.division(inputs, division)
  S, T = (-(-tokens // size) * size for size in division.tile)
  visits = tiles.by_query((S, T), division.tile, causal=True)
  mask = _mask(option, S, T)
  return visits, division, mask


def _backward_calls(inputs, division, option) -> Iterator[tuple]:
  """Yields one call of the kernel for each chunk of queries."""
  tokens, group_size = inputs.q_BHSD.shape[2], inputs.group_size
  division, chunk = backward.division(inputs, division)
  S, T = (-(-tokens // size) * size for size in (chunk, division.k))
  whole = _mask(option, S, T)
  for start in range(0, S, chunk):
    mask = whole
    if chunk < S:
      mask = mask._replace(offset_B=jnp.array([start]))
      if mask.q_segment_BS is not None:
        part_BS = mask.q_segment_BS[:, start : start + chunk]
        mask = mask._replace(q_segment_BS=part_BS)
    visits = tiles.by_key((chunk, T), division.tile, chunk == S, group_size)
    yield visits, division, mask


def _call_cycles(direction, kernel, visits, division, mask) -> int:
  """Returns the cycles of one call, for all heads of a group."""
  tile, part = division.tile, division.parts
  code = tiles.code(mask, tile, part, division.undivided)
  kinds = np.asarray(
    code.of_tiles(tiles.kinds_Bn(visits.q, visits.k, tile, mask))
  )[0]
  cycles = _work("tile", kernel.tiles, code.tile, kinds)
  divided = kinds == tiles.DIVIDED
  if divided.any():
    q, k = tiles.parts(visits, tile, part)
    part_kinds = np.asarray(code.of_parts(tiles.kinds_Bn(q, k, part, mask)))[0]
    part_kinds = part_kinds.reshape(len(kinds), -1)[divided]
    cycles += _work("part", kernel.parts, code.part, part_kinds)
    cycles += part_kinds.size * kernel.part_step
  first, last, complete = (
    int(((visits.flags & flag) != 0).sum())
    for flag in (tiles.FIRST, tiles.LAST, tiles.COMPLETE)
  )
  if direction == "forward":
    before, after = (first,), (last,)
  else:
    before, after = (1, first), (complete, last)
  cycles += len(kinds) * kernel.step
  return cycles + _conditional(kernel, before, after)


def _work(name, cycles, code, kinds) -> int:
  if len(cycles) != len(code):
    raise ValueError(
      f"A kernel with code for {len(code)} kinds of {name} must have as many "
      f"branches with products, got cycles {cycles}. Compile the kernel for "
      "the same shapes and options."
    )
  return sum(
    each * int((kinds == kind).sum())
    for kind, each in zip(code, cycles, strict=True)
  )


def splash_cycles(
  direction: Direction,
  kernel: schedule.Kernel,
  block: Sequence[int],
  tokens: int,
) -> int:
  """Returns a peer's cycles for one head.

  Hidden tiles have a step of the grid too, except in tokamax's forward kernel,
  which is the one that has code of its own for whole tiles.

  Args:
    direction: "forward" or "backward".
    kernel: its schedule.
    block: that of `attention_targets.splash`.
    tokens: of the sequence, in whole blocks.
  """
  q, k = np.mgrid[0 : tokens : block[0], 0 : tokens : block[1]]
  seen = k <= q + block[0] - 1
  whole = k + block[1] - 1 <= q
  two_kinds = len(kernel.tiles) == 2
  steps = seen.sum() if two_kinds and direction == "forward" else seen.size
  work = kernel.tiles[0] * whole.sum()
  work += kernel.tiles[-1] * (seen & ~whole).sum()
  rows = len(q) if direction == "forward" else q.shape[1]
  once = _conditional(kernel, (rows,), (rows,))
  return int(steps * kernel.step + work + once)


def _conditional(kernel, before, after) -> int:
  """Returns the cycles of branches without products, each by how often it runs.

  If the compiler divided the code into other branches, each counts as often as
  the most frequent.
  """
  total = 0
  for pieces, times in ((kernel.before, before), (kernel.after, after)):
    if len(pieces) != len(times):
      times = [max(times)] * len(pieces)
    total += sum(a * b for a, b in zip(pieces, times, strict=True))
  return total


def has_tokamax() -> bool:
  """Returns whether tokamax is installed."""
  return importlib.util.find_spec("tokamax") is not None
