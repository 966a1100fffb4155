"""A program's cycles are its operations', as often as each runs."""

import textwrap

from drope_jax.perf import bundles, hlo, program
from drope_jax.perf.chips import CORES

PROGRAM = textwrap.dedent("""\
  HloModule jit_step

  %part (p0: f32[4,256], p1: s32[]) -> f32[1,256] {
    %p0 = f32[4,256]{1,0} parameter(0)
    %p1 = s32[] parameter(1)
    ROOT %cut = f32[1,256]{1,0} dynamic-slice(%p0, %p1, %p1)
  }

  %product (p0: f32[256,256], p1: f32[256,256]) -> f32[256,256] {
    %p0 = f32[256,256]{1,0} parameter(0)
    %p1 = f32[256,256]{1,0:S(1)} parameter(1)
    ROOT %dot = f32[256,256]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
  }

  ENTRY %main (a: f32[256,256], b: f32[4,256], n: s32[]) -> f32[256,256] {
    %a = f32[256,256]{1,0} parameter(0)
    %b = f32[4,256]{1,0} parameter(1)
    %n = s32[] parameter(2)
    %near = f32[256,256]{1,0:S(1)} copy(%a), ESTIMATE"9"
    %cut.1 = f32[1,256]{1,0} fusion(%b, %n), calls=%part, ESTIMATE"700"
    %kernel.2 = f32[256,256]{1,0} custom-call(%a), KERNEL
    ROOT %big = f32[256,256]{1,0} fusion(%a, %near), calls=%product, ESTIMATE"5"
  }
  """)
PROGRAM = PROGRAM.replace("ESTIMATE", '"estimated_cycles":').replace(
  "KERNEL", 'custom_call_target="tpu_custom_call"'
)


def dump(*lines: str) -> str:
  return "\n".join(f"  {n:#x}   : {{ {line} }}" for n, line in enumerate(lines))


LOOP = (
  "%s1 = smov.u32 0",
  "%p1_p0 = scmp.ge.s32.totalorder %s1, 10 /* loop exit test */",
  "%2 = sbr.rel (!%p1_p0) target bundleno = 1 (0x1), region = 3",
  *["%3 = nop"] * 4,
  "%4 = nop",
)


def test_a_loop_counts_by_its_trips():
  # One before it, six in it with the branch's delay, one after.
  assert bundles.cycles(dump(*LOOP)) == 1 + 10 * 6 + 1


def test_a_program_is_the_sum_of_its_parts(tmp_path):
  for name, lines in {"big": LOOP, "kernel.2": ["%1 = nop"]}.items():
    file = tmp_path / f"17-{name}-00-packed-bundles-post-ra.txt"
    file.write_text(dump(*lines))
  found = program.total(hlo.Module(PROGRAM), tmp_path, "v5e", lambda *_: 1000)
  rate = CORES["v5e"].hbm_bytes
  # It reads one operand of 256 KiB, the other is in VMEM, and writes as much.
  assert found.parts["products"] == (5, max(62, 2 * 2**18 / rate))
  assert found.parts["kernels"] == (1000, 1000)
  # The copy takes no more than its estimate, the slice the time of its rows.
  assert found.parts["others"] == (709, 9 + (2 * 1024 + 4) / rate)
  assert found.total == tuple(map(sum, zip(*found.parts.values(), strict=True)))
