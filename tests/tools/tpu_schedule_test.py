"""Cycles are counted where the compiler's dump says they are."""

import importlib.util
import pathlib

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / "tools"

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


@pytest.fixture
def tool(monkeypatch):
  monkeypatch.syspath_prepend(TOOLS)
  import tpu_schedule

  return tpu_schedule


def test_every_cycle_of_the_loop_is_counted_once(tool):
  kernel = tool.read_kernel("flash", dump(BUNDLES))
  assert kernel.tiles == (5, 2)
  assert kernel.before == (3,)
  assert kernel.after == (2,)
  assert kernel.spills == 2
  in_loop = range(2, 49)
  counted = kernel.step + sum(kernel.tiles) + kernel.conditional
  assert counted == len(in_loop)


def test_a_region_of_a_tile_that_may_be_passed_over_is_not_the_tile(tool):
  tile = [*BUNDLES[:20], *(branch(29), *DELAY, *[EMPTY] * 4), PRODUCT]
  tile[15] = branch(30)
  kernel = tool.read_kernel("flash", dump([*tile, branch(2), *DELAY]))
  assert kernel.tiles == (6,)
  assert kernel.after == (4,)


def test_a_kernel_without_products_has_no_tiles(tool):
  idle = [EMPTY if bundle == PRODUCT else bundle for bundle in BUNDLES]
  assert tool.read_kernel("copy", dump(idle)) is None


def test_a_dump_of_another_form_is_refused(tool):
  lines = dump(BUNDLES).splitlines()
  with pytest.raises(ValueError, match="in order, got 0x5 after 4"):
    tool.read_kernel("flash", "\n".join(lines[:6] + lines[7:]))


def test_without_a_compiler_one_line_says_what_to_install(tool, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(tool.Unavailable, match="Run: pip install libtpu$"):
    tool.compiled("attention_schedule:flash", "v5e:2x2", {})


def test_a_kernel_is_found_by_name_or_refused(tool):
  kernel = tool.read_kernel("flash_forward.1", dump(BUNDLES))
  program = tool.Program({kernel.name: kernel}, 0, 0)
  assert program.kernel("forward") is kernel
  with pytest.raises(ValueError, match="must match 'backward'"):
    program.kernel("backward")
