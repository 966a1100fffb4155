"""The backward kernel: for each block of keys, it loops over blocks of queries.

A tile's weights are computed once for all three gradients. The gradient of all
queries is summed in VMEM: no array of size S x T is ever written. Longer
sequences are processed in chunks of queries. Masks cost nothing beside five
matrix products, so a kernel with masks has no code without them.
"""

import functools
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from drope_jax import softcapping
from drope_jax.attention.flash_tpu import grid, logits, pipeline, tiles
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.grid import Inputs, Step
from drope_jax.attention.rotation import rotate
from drope_jax.axes import Array

_LN2 = 0.6931471805599453
_LANES = 128
_SUM_BYTES = 16 * 2**20
"""Of VMEM for the queries' float32 gradient, at most."""


def division(inputs: Inputs, blocks: Blocks) -> tuple[Blocks, int]:
  """Returns how a call divides its work, and how many of the S queries it has.

  These are a multiple of the tile's; all S if VMEM has room for their gradient.
  Where it has none for that of one tile's queries, the tile is smaller: if 32
  query heads share a key, for one.
  """
  (S, D), G = inputs.q_BHSD.shape[2:], inputs.group_size
  # Of a query: its sum, and two blocks of the output.
  output = 2 * inputs.q_BHSD.dtype.itemsize * inputs.channels
  held = G * (4 * D + output)

  def most(blocks: Blocks) -> int:
    # Of keys: k, v and their gradients, and k once more, transposed.
    room = inputs.room(blocks, q=(2, 0), k=(4.5, 2))
    return min(room // held, _SUM_BYTES // (G * 4 * max(D, _LANES)))

  while most(blocks) < blocks.q:
    if blocks == (blocks := blocks.halved()):
      break
  chunks = -(-S // (max(most(blocks) // blocks.q, 1) * blocks.q))
  return blocks, -(-S // (chunks * blocks.q)) * blocks.q


def gradients(
  inputs: Inputs,
  d_out_BHSD: Array,
  lse_BH1S: Array,
  delta_BH1S: Array,
  blocks: Blocks,
  chunk: int,
  soft_cap: float | None = None,
  interpret: Any = False,
) -> tuple[Array, Array, Array]:
  """Returns the gradients of q_BHSD, k_BKTD and v_BKTD.

  Args:
    inputs: those of `forward.attend`.
    d_out_BHSD: the output's gradient.
    lse_BH1S: base-2 log-sum-exp, as `forward.attend` returned it.
    delta_BH1S: float32 sums over D of the output times its gradient.
    blocks: how to divide the work.
    chunk: as `division` returns it; it divides S.
    soft_cap: in base 2.
    interpret: as `pl.pallas_call` takes it.
  """
  B, H, S, D = inputs.q_BHSD.shape
  run = functools.partial(
    _gradients, blocks=blocks, soft_cap=soft_cap, interpret=interpret
  )
  if chunk == S:
    return run(inputs, d_out_BHSD, lse_BH1S, delta_BH1S)
  offset_B = inputs.mask.offset_B
  if offset_B is None:
    offset_B = jnp.zeros(B, jnp.int32)

  def one_chunk(sums, start):
    def part(x, axis):
      return jax.lax.dynamic_slice_in_dim(x, start, chunk, axis)

    mask = inputs.mask._replace(offset_B=offset_B + start)
    if mask.q_segment_BS is not None:
      mask = mask._replace(q_segment_BS=part(mask.q_segment_BS, 1))
    rotation = inputs.rotation
    if rotation is not None:
      rotation = rotation._replace(q_N2SD=part(rotation.q_N2SD, 2))
    d_q_BHsD, *more = run(
      inputs._replace(
        q_BHSD=part(inputs.q_BHSD, 2), mask=mask, rotation=rotation
      ),
      part(d_out_BHSD, 2),
      part(lse_BH1S, 3),
      part(delta_BH1S, 3),
    )
    sums = [a + b.astype(a.dtype) for a, b in zip(sums, more, strict=True)]
    return sums, d_q_BHsD

  keys = (inputs.k_BKTD, inputs.v_BKTD)
  sums, d_q_nBHsD = jax.lax.scan(
    one_chunk,
    [jnp.zeros(x.shape, jnp.float32) for x in keys],
    jnp.arange(0, S, chunk),
  )
  d_q_BHSD = jnp.moveaxis(d_q_nBHsD, 0, 2).reshape(B, H, S, D)
  return (
    d_q_BHSD,
    *(a.astype(x.dtype) for a, x in zip(sums, keys, strict=True)),
  )


def _gradients(
  inputs, d_out_BHSD, lse_BH1S, delta_BH1S, blocks, soft_cap, interpret
):
  B, H, S, D = inputs.q_BHSD.shape
  K, T = inputs.k_BKTD.shape[1:3]
  G = inputs.group_size
  causal = inputs.mask.offset_B is None
  visits = tiles.by_key((S, T), blocks.tile, causal, G)
  code = inputs.code(blocks)
  scalars = grid.scalars(inputs, visits, blocks, code)
  tables, segments = inputs.tables(), inputs.segments()

  def query_block(b, kv_head, n, *refs):
    at = dict(zip(scalars, refs, strict=True))
    latest = at["latest"][b * len(visits.q) + n]
    return b, kv_head * G + at["head"][latest], at["q"][latest]

  def key_block(b, kv_head, n, *refs):
    return b, kv_head, dict(zip(scalars, refs, strict=True))["k"][n]

  q_spec = pl.BlockSpec(
    (None, None, blocks.q, D), lambda *at: (*query_block(*at), 0)
  )
  k_spec = pl.BlockSpec(
    (None, None, blocks.k, D), lambda *at: (*key_block(*at), 0)
  )

  def row_index(*at):
    b, head, block = query_block(*at)
    return b, head, 0, block

  row_spec = pl.BlockSpec((None, None, 1, blocks.q), row_index)

  def table_spec(name, size):
    # Hidden tiles need theirs too: gradients are rotated back with it.
    def index(b, kv_head, n, *refs):
      at = dict(zip(scalars, refs, strict=True))
      return at["scheme"][0], 0, at[name][n], 0

    return pl.BlockSpec((None, 2, size, D), index)

  table_specs = [table_spec("q", blocks.q), table_spec("k", blocks.k)]
  segment_specs = [
    pl.BlockSpec(
      (None, 1, size), lambda *at, block=block: (at[0], 0, block(*at)[-1])
    )
    for size, block in ((blocks.q, query_block), (blocks.k, key_block))
  ]
  d_q_spec = pl.BlockSpec((None, G, S, D), lambda b, k, *_: (b, k, 0, 0))
  kernel = functools.partial(
    _kernel,
    tuple(scalars),
    blocks,
    code,
    G,
    soft_cap,
  )
  return pl.pallas_call(
    kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(scalars),
      grid=(B, K, len(visits.q)),
      in_specs=[
        *(q_spec, k_spec, k_spec, q_spec, row_spec, row_spec),
        table_specs[: len(tables)],
        segment_specs[: len(segments)],
      ],
      out_specs=[d_q_spec, k_spec, k_spec],
      scratch_shapes=[
        pltpu.VMEM((G, D, S), jnp.float32),
        pltpu.VMEM((D, blocks.k), inputs.k_BKTD.dtype),
        pltpu.VMEM((blocks.k, D), jnp.float32),
        pltpu.VMEM((blocks.k, D), jnp.float32),
        *inputs.rotated(blocks),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct(x.shape, x.dtype)
      for x in (inputs.q_BHSD, inputs.k_BKTD, inputs.v_BKTD)
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=blocks.vmem_bytes,
      disable_bounds_checks=True,  # Of all windows: 130 cycles a step.
    ),
    interpret=interpret,
    name="flash_backward",
  )(
    *scalars.values(),
    inputs.q_BHSD,
    inputs.k_BKTD,
    inputs.v_BKTD,
    d_out_BHSD,
    lse_BH1S,
    delta_BH1S,
    tables,
    segments,
  )


def _kernel(names, blocks, code, group_size, soft_cap, *refs):
  scalars, refs = dict(zip(names, refs, strict=False)), refs[len(names) :]
  q, k, v, d_out, lse, delta, tables, segments, d_q, d_k, d_v, *refs = refs
  d_q_GDS, k_DT, d_k_TD, d_v_TD, *rotated = refs
  q_SD, k_TD = rotated or (q, k)
  visit = pl.program_id(2)
  member = scalars["head"][visit]
  step = Step(
    scalars=scalars,
    blocks=blocks,
    code=code,
    row=pl.program_id(0),
    visit=visit,
    head=pl.program_id(1) * group_size + member,
  )
  first_query = pl.multiple_of(scalars["q"][visit] * blocks.q, blocks.q)

  @pl.when(visit == 0)
  def _():
    d_q_GDS[...] = jnp.zeros_like(d_q_GDS)

  @pl.when(step.has(tiles.FIRST))
  def _():
    d_k_TD[...] = jnp.zeros_like(d_k_TD)
    d_v_TD[...] = jnp.zeros_like(d_v_TD)
    if tables:
      k_TD[...] = rotate(k[...], tables[1][0], tables[1][1]).astype(k.dtype)
    k_DT[...] = k_TD[...].T

  if tables:

    @pl.when(step.visible)
    def _():
      q_SD[...] = rotate(q[...], tables[0][0], tables[0][1]).astype(q.dtype)

  def differentiate_part(part):
    position = step.position(part, segments)
    queries = pl.ds(part.q, part.shape[0])
    # The forward pass subtracted the bias's shift; these logits still have it.
    shift_1S = logits.bias_shift_1S(part.q, part.shape[0], step.slope)
    lse_1S, delta_1S = lse[:, queries] + shift_1S, delta[:, queries]

    def begin(unit):
      keys, queries = unit.keys(blocks), unit.queries(blocks)
      return (
        logits.matmul(k_TD[keys, :], q_SD[queries, :], (1, 1)),
        logits.matmul(v[keys, :], d_out[queries, :], (1, 1)),
      )

    def weigh(unit, products):
      logits_TS, d_weights_TS = products
      here = slice(unit.q, unit.q + blocks.unit_q)
      capped_TS = softcapping.cap(logits_TS, soft_cap)
      masked_TS = logits.mask_logits(capped_TS, unit, position)
      weights_TS = jnp.exp2(masked_TS - lse_1S[:, here])
      d_logits_TS = weights_TS * (d_weights_TS - delta_1S[:, here])
      if soft_cap is not None:
        d_logits_TS *= softcapping.slope(capped_TS, soft_cap)
      return weights_TS.astype(v.dtype), d_logits_TS.astype(k.dtype)

    def end(unit, weighed):
      weights_TS, d_logits_TS = weighed
      keys, queries = unit.keys(blocks), unit.queries(blocks)
      d_v_TD[keys, :] += logits.matmul(weights_TS, d_out[queries, :], (1, 0))
      d_k_TD[keys, :] += logits.matmul(d_logits_TS, q_SD[queries, :], (1, 0))
      start = pl.multiple_of(first_query + queries.start, blocks.unit_q)
      here = pl.ds(start, blocks.unit_q)
      d_q_GDS[member, :, here] += logits.matmul(
        k_DT[:, keys], d_logits_TS, (1, 0)
      )

    units = pipeline.units(part, blocks)
    pipeline.run(units, blocks, begin, weigh, end)

  step.for_each_part(differentiate_part)

  @pl.when(step.has(tiles.COMPLETE))
  def _():
    here = pl.ds(first_query, blocks.q)
    total_SD = (_LN2 * d_q_GDS[member, :, here]).T
    if tables:
      total_SD = rotate(total_SD, tables[0][0], -tables[0][1])
    d_q[member, here, :] = total_SD.astype(d_q.dtype)

  @pl.when(step.has(tiles.LAST))
  def _():
    total_TD = _LN2 * d_k_TD[...]
    if tables:
      total_TD = rotate(total_TD, tables[1][0], -tables[1][1])
    d_k[...] = total_TD.astype(d_k.dtype)
    d_v[...] = d_v_TD[...].astype(d_v.dtype)
