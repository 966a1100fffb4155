"""The forward kernel: it loops over the keys of each block of queries."""

import functools
from typing import Any

import jax
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from drope_jax import softcapping
from drope_jax.attention.flash_tpu import grid, logits, pipeline, tiles
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.flash_tpu.grid import Inputs, Step
from drope_jax.attention.rotation import rotate
from drope_jax.axes import Array

_START = logits.HIDDEN / 2


def division(inputs: Inputs, blocks: Blocks) -> Blocks:
  """Returns how a call divides its work: in tiles for which VMEM has room."""
  while inputs.room(blocks, q=(2, 1), k=(2, 0)) < 0:
    if blocks == (blocks := blocks.halved()):
      break
  return blocks


def attend(
  inputs: Inputs,
  blocks: Blocks,
  soft_cap: float | None = None,
  interpret: Any = False,
) -> tuple[Array, Array, Array]:
  """Returns out_BHSD, and each query's log-sum-exp and largest logit, as BH1S.

  Args:
    inputs: S and T are multiples of the tile's.
    blocks: how to divide the work.
    soft_cap: in base 2, as are the last two results.
    interpret: as `pl.pallas_call` takes it.
  """
  B, H, S, D = inputs.q_BHSD.shape
  T, G, mask = inputs.k_BKTD.shape[2], inputs.group_size, inputs.mask
  visits = tiles.by_query((S, T), blocks.tile, mask.offset_B is None)
  code = inputs.code(blocks)
  scalars = grid.scalars(inputs, visits, blocks, code)
  tables, segments = inputs.tables(), inputs.segments()

  def named(refs):
    return dict(zip(scalars, refs, strict=True))

  def query_block(b, h, n, *refs):
    return b, h, named(refs)["q"][n]

  def key_block(b, h, n, *refs):
    at = named(refs)
    latest = at["latest"][b * len(visits.q) + n]
    return b, lax.div(h, G), at["k"][latest]

  q_spec = pl.BlockSpec(
    (None, None, blocks.q, D), lambda *at: (*query_block(*at), 0)
  )
  k_spec = pl.BlockSpec(
    (None, None, blocks.k, D), lambda *at: (*key_block(*at), 0)
  )
  v_spec = pl.BlockSpec(
    (None, None, D, blocks.k), lambda *at: _zero_before_last(key_block(*at))
  )
  row_spec = pl.BlockSpec(
    (None, None, 1, blocks.q), lambda *at: _zero_before_last(query_block(*at))
  )
  table_specs = [
    pl.BlockSpec(
      (None, 2, size, D),
      lambda *at, block=block: (
        named(at[3:])["scheme"][0],
        0,
        block(*at)[-1],
        0,
      ),
    )
    for size, block in ((blocks.q, query_block), (blocks.k, key_block))
  ]
  segment_specs = [
    pl.BlockSpec(
      (None, 1, size), lambda *at, block=block: (at[0], 0, block(*at)[-1])
    )
    for size, block in ((blocks.q, query_block), (blocks.k, key_block))
  ]
  row = jax.ShapeDtypeStruct((B, H, 1, S), jnp.float32)
  kernel = functools.partial(
    _kernel,
    tuple(scalars),
    blocks,
    code,
    soft_cap,
  )
  return pl.pallas_call(
    kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=len(scalars),
      grid=(B, H, len(visits.q)),
      in_specs=[
        *(q_spec, k_spec, v_spec),
        table_specs[: len(tables)],
        segment_specs[: len(segments)],
      ],
      out_specs=[q_spec, row_spec, row_spec],
      scratch_shapes=[
        pltpu.VMEM((D, blocks.q), jnp.float32),
        pltpu.VMEM((1, blocks.q), jnp.float32),
        pltpu.VMEM((1, blocks.q), jnp.float32),
        *inputs.rotated(blocks),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((B, H, S, D), inputs.q_BHSD.dtype),
      row,
      row,
    ],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel", "arbitrary"),
      vmem_limit_bytes=blocks.vmem_bytes,
      disable_bounds_checks=True,  # Of all windows: 130 cycles a step.
    ),
    interpret=interpret,
    name="flash_forward",
  )(
    *scalars.values(),
    inputs.q_BHSD,
    inputs.k_BKTD,
    # Once, not in the kernel, which would transpose for each block of queries.
    inputs.v_BKTD.swapaxes(2, 3),
    tables,
    segments,
  )


def _zero_before_last(block):
  return *block[:-1], 0, block[-1]


def _kernel(names, blocks, code, soft_cap, *refs):
  scalars, refs = dict(zip(names, refs, strict=False)), refs[len(names) :]
  q, k, v_DT, tables, segments, out, lse, largest, *refs = refs
  sum_DS, max_1S, total_1S, *rotated = refs
  q_SD, k_TD = rotated or (q, k)
  step = Step(
    scalars=scalars,
    blocks=blocks,
    code=code,
    row=pl.program_id(0),
    visit=pl.program_id(2),
    head=pl.program_id(1),
  )
  D = v_DT.shape[0]

  @pl.when(step.has(tiles.FIRST))
  def _():
    sum_DS[...] = jnp.zeros_like(sum_DS)
    total_1S[...] = jnp.zeros_like(total_1S)
    max_1S[...] = jnp.full_like(max_1S, _START)
    if tables:
      q_SD[...] = rotate(q[...], tables[0][0], tables[0][1]).astype(q.dtype)

  if tables:

    @pl.when(step.visible)
    def _():
      k_TD[...] = rotate(k[...], tables[1][0], tables[1][1]).astype(k.dtype)

  def attend_part(part):
    position = step.position(part, segments)

    def begin(unit):
      keys, queries = unit.keys(blocks), unit.queries(blocks)
      return logits.matmul(k_TD[keys, :], q_SD[queries, :], (1, 1))

    def add_to_total(here, decay_1S, more_1S):
      total_1S[:, here] = decay_1S * total_1S[:, here] + more_1S

    def weigh(unit, logits_TS):
      here = unit.queries(blocks)
      logits_TS = softcapping.cap(logits_TS, soft_cap)
      logits_TS = logits.mask_logits(logits_TS, unit, position)
      before_1S = max_1S[:, here]
      now_1S = jnp.maximum(before_1S, logits_TS.max(0, keepdims=True))
      weights_TS = jnp.exp2(logits_TS - now_1S)
      decay_1S = jnp.exp2(before_1S - now_1S)
      max_1S[:, here] = now_1S
      if not blocks.mxu_total:
        add_to_total(here, decay_1S, weights_TS.sum(0, keepdims=True))
      return weights_TS.astype(v_DT.dtype), decay_1S

    def end(unit, weighed):
      weights_TS, decay_1S = weighed
      here = unit.queries(blocks)
      values_DT = v_DT[:, unit.keys(blocks)]
      if blocks.mxu_total:
        values_DT = jnp.concatenate([values_DT, jnp.ones_like(values_DT[:8])])
      more_DS = logits.matmul(values_DT, weights_TS, (1, 0))
      if blocks.mxu_total:
        add_to_total(here, decay_1S, more_DS[D : D + 1])
      sum_DS[:, here] = decay_1S * sum_DS[:, here] + more_DS[:D]

    units = pipeline.units(part, blocks)
    pipeline.run(units, blocks, begin, weigh, end)

  step.for_each_part(attend_part)

  @pl.when(step.has(tiles.LAST))
  def _():
    total = total_1S[...]
    sees_1S = total > 0
    inverse_1S = jnp.where(sees_1S, 1 / total, 0)
    out[...] = (sum_DS[...] * inverse_1S).T.astype(out.dtype)
    shifted_1S = max_1S[...] - logits.bias_shift_1S(0, blocks.q, step.slope)
    largest[...] = shifted_1S
    lse[...] = jnp.where(sees_1S, shifted_1S + jnp.log2(total), logits.EMPTY)
