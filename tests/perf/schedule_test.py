"""Cycles are counted where the compiler's dump says they are."""

import importlib.util

import pytest

from drope_jax.perf import schedule

EMPTY = "{}"
PRODUCT = "{ %1043 = vmatmul.bf16.vlgmr.msra.gmra.mxu0 %v47805_v18 }"
SPILL = (
  "{ %83897 = vst [vmem:[#allocation36_spill] sm:$0xff] "
  "/*vst_source=*/%v54589_v34 }"
)


def branch(target: int) -> str:
  """As the compiler prints one, taken or not by a predicate."""
  return (
    f"{{ %700 = sbr.rel (!%p41640_p2) target bundleno = {target} "
    f"({target:#x}), region = 59  ;;  %s18 = sshll.u32 %s82, 4 }}"
  )


DELAY = [EMPTY] * 4
BUNDLES = [
  "{ %s9 = smov.u32 0 /* not a vmatmul */ }",
  EMPTY,
  # 2: the loop's first. Everything up to 36 is for steps with a tile alone.
  *(branch(37), *DELAY),
  # 7: before the tile, three cycles at some steps; of them two may be left.
  *(branch(15), branch(15), *DELAY[1:], EMPTY, EMPTY, EMPTY),
  # 15: a tile of five cycles.
  *(branch(25), *DELAY, PRODUCT, SPILL, EMPTY, PRODUCT, SPILL),
  # 25: another, of two.
  *(branch(32), *DELAY, PRODUCT, EMPTY),
  # 32: a region of no cycles.
  *(branch(37), *DELAY),
  # 37: after the tiles, two cycles at some steps.
  *(branch(44), *DELAY, EMPTY, EMPTY),
  # 44: the loop's end.
  *(branch(2), *DELAY),
  "{ %41438 = vsyncpa [#allocation14], 1 }",
]


def dump(bundles: list[str]) -> str:
  lines = ["LB: loop body", ""]
  for n, bundle in enumerate(bundles):
    address = hex(n) if n else "0"
    lines.append(f"{address:>6} LB: > {bundle} /* End region {n} */")
  return "\n".join(lines)


def test_every_cycle_of_the_loop_is_counted_once():
  kernel = schedule.read_kernel("flash", dump(BUNDLES))
  assert kernel.tiles == (5, 2)
  assert kernel.before == (3,)
  assert kernel.after == (2,)
  assert kernel.spills == 2
  in_loop = range(2, 49)
  once = (*kernel.tiles, *kernel.before, *kernel.after)
  assert kernel.step + sum(once) == len(in_loop)


def test_branches_of_a_loop_within_the_grid_are_parts():
  code = [
    EMPTY,
    # 1: the grid's first; a tile of two cycles outside of the loop.
    *(branch(8), *DELAY, PRODUCT, EMPTY),
    # 8: the loop's first, with a cycle of its own.
    EMPTY,
    # 9: a part of three cycles, 17: another of two.
    *(branch(17), *DELAY, PRODUCT, EMPTY, EMPTY),
    *(branch(24), *DELAY, PRODUCT, EMPTY),
    # 24: the loop's end, 29: the grid's.
    *(branch(8), *DELAY),
    *(branch(1), *DELAY),
  ]
  kernel = schedule.read_kernel("flash", dump(code))
  assert kernel.tiles == (2,)
  assert kernel.parts == (3, 2)
  # Its own cycle, and three branches of five cycles.
  assert kernel.part_step == 1 + 3 * 5
  assert kernel.step == 2 * 5


def test_a_region_of_a_tile_that_may_be_passed_over_is_not_the_tile():
  tile = [*BUNDLES[:20], *(branch(29), *DELAY, *[EMPTY] * 4), PRODUCT]
  tile[15] = branch(30)
  kernel = schedule.read_kernel("flash", dump([*tile, branch(2), *DELAY]))
  assert kernel.tiles == (6,)
  assert kernel.after == (4,)


def test_a_kernel_without_products_has_no_tiles():
  idle = [EMPTY if bundle == PRODUCT else bundle for bundle in BUNDLES]
  assert schedule.read_kernel("copy", dump(idle)) is None


def test_a_dump_of_another_form_is_refused():
  lines = dump(BUNDLES).splitlines()
  with pytest.raises(ValueError, match="in order, got 0x5 after 4"):
    schedule.read_kernel("flash", "\n".join(lines[:6] + lines[7:]))


def test_without_a_compiler_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="pip install 'drope_jax.tpu.'`.$"):
    schedule.compiled("module:function", "v5e:2x2", {})


def test_a_kernel_is_found_by_name_or_refused():
  kernel = schedule.read_kernel("flash_forward.1", dump(BUNDLES))
  program = schedule.Program({kernel.name: kernel}, 0, 0)
  assert program.kernel("forward") is kernel
  with pytest.raises(ValueError, match="must match 'backward'"):
    program.kernel("backward")
