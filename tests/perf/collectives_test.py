"""Collectives are counted as often as they run."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from drope_jax import sharding
from drope_jax.perf import collectives
from drope_jax.perf.collectives import Collective

PROGRAM = """
HloModule step

body.1 (arg: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %x = f32[8,128]{1,0} get-tuple-element(%arg), index=1
  %g = (f32[8,16]{1,0}, f32[8,128]{1,0}) all-gather-start(%x), dimensions={1}
  %d = f32[8,128]{1,0} all-gather-done(%g)
}

%fused (p: bf16[4]) -> bf16[4] {
  ROOT %s = bf16[4]{0} reduce-scatter(%p), dimensions={0}
}

%less (arg.2: (f32[2], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(9), backend_config={}
  %i = u32[]{:T(128)} get-tuple-element(%arg.2), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%turn (arg.3: (f32[2], u32[])) -> (f32[2], u32[]) {
  %y = f32[2]{0} get-tuple-element(%arg.3), index=0
  %j = u32[]{:T(128)} get-tuple-element(%arg.3), index=1
  %two = u32[] constant(2)
  %p = (f32[2]{0}, f32[2]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%y), channel_id=4
  %q = f32[2]{0} collective-permute-done(%p)
  %next = u32[] add(%j, %two)
  ROOT %out = (f32[2], u32[]) tuple(%q, %next)
}

ENTRY %main (p0: f32[8,128]) -> f32[] {
  %w = (s32[], f32[8,128]) while(%t), condition=%cond, body=%body.1, \
backend_config={"known_trip_count":{"n":"32"}}
  %c = bf16[4]{0} fusion(%q), kind=kLoop, calls=%fused
  %one = u32[] constant(1)
  %first = u32[] copy(%one)
  %begin = (f32[2], /*index=1*/u32[]) tuple(%z, /*index=1*/%first)
  %turned = (f32[2], u32[]) while(%begin), condition=%less, body=%turn
  %s = (f32[2,8]{1,0:T(2,128)}, u32[]{:S(2)}, token[]) send(%x, %after), \
channel_id=2, frontend_attributes={_handler="xla_megascale_runtime"}
  %h = (f32[64]{0}, u32[]{:S(2)}, token[]) send(%x, %after), channel_id=3
  ROOT %r = (f32[], pred[4]) all-reduce(%a, %b), to_apply=%add
}
"""


def test_a_loop_counts_by_its_trips_and_a_start_by_its_result():
  turns = 4  # 1, 3, 5, 7
  assert collectives.read(PROGRAM) == {
    "all-gather": Collective(32, 32 * 8 * 128 * 4),
    "all-reduce": Collective(1, 4 + 4),
    "between slices": Collective(1, 2 * 8 * 4),
    "collective-permute": Collective(turns, turns * 2 * 4),
    "reduce-scatter": Collective(1, 8),
  }


def test_what_a_real_program_sends_is_read():
  mesh = sharding.make_mesh(sharding.MeshConfig())
  split = NamedSharding(mesh, P("fsdp"))
  whole = NamedSharding(mesh, P())
  program = jax.jit(lambda x: 2 * x, in_shardings=split, out_shardings=whole)
  text = program.lower(jnp.zeros((64, 4))).compile().as_text()
  assert collectives.read(text) == {"all-gather": Collective(1, 64 * 4 * 4)}


def test_what_a_scan_sends_counts_once_a_step_of_it():
  mesh = sharding.make_mesh("fsdp")
  split = NamedSharding(mesh, P("fsdp"))
  whole = NamedSharding(mesh, P())

  def gather(total, x):
    return total + jax.lax.with_sharding_constraint(jnp.sin(x), whole), None

  program = jax.jit(
    lambda xs: jax.lax.scan(gather, jnp.zeros(64), xs)[0],
    in_shardings=NamedSharding(mesh, P(None, "fsdp")),
    out_shardings=split,
  )
  text = program.lower(jnp.zeros((5, 64))).compile().as_text()
  assert collectives.read(text)["all-gather"] == Collective(5, 5 * 64 * 4)
