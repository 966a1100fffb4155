"""Attention by blocks of one head's queries, in plain XLA.

It is for devices without a kernel, and for long evaluations on a CPU. Each
sequence is cut into strips of queries. The keys of a strip end where it does,
so that little above the diagonal is computed. A loop runs over the blocks of
queries in a strip. On a CPU loops run over sequences and heads too, so that the
logits of one iteration stay in a core's cache.
"""

import functools

import jax
import jax.numpy as jnp

from drope_jax import softcapping
from drope_jax.attention import bias
from drope_jax.attention import scale as scales
from drope_jax.attention.mask import Mask
from drope_jax.axes import Array

# Strips are unrolled. With n of them, (n + 1) / 2n of the square is computed:
# 0.56 of it with 8. Narrower than 128 queries, matrix products run slower than
# the skipped work costs.
MAX_STRIPS = 8
MIN_STRIP = 128

# Logits of MIN_STRIP queries of all sequences and heads. A CPU takes up to so
# many at once: gradients of 256 and 512 tokens are faster without loops.
AT_ONCE = 3 * 2**20

# Keys that a block of queries at an offset reads at once. Logits of all keys of
# a long prompt would not stay in a core's cache.
KEYS_AT_ONCE = 512


def attend(
  q_BSHD: Array,
  k_BTKD: Array,
  v_BTKD: Array,
  mask: Mask,
  scale: Array | float,
  slopes_H: Array | None = None,
  soft_cap: float | None = None,
  *,
  bias_HT: Array | None = None,
  block: int = 256,
  at_once: int = AT_ONCE,
) -> tuple[Array, Array, Array]:
  """See `backends.Backend`; holds block * T logits at once.

  An iteration has at most `block` queries, counted over the heads that share a
  key head. `at_once` replaces `AT_ONCE`.
  """
  B, S, H, D = q_BSHD.shape
  T, K = k_BTKD.shape[1:3]
  # Heads lead, so that each product is one of plain matrices. T is last, for
  # then the gradients of k and v are such products too; but values at an offset
  # are those of a cache, which has D last.
  q_BSKGD = scales.fold(q_BSHD, scale).reshape(B, S, K, H // K, D)
  q_BKGSD = q_BSKGD.transpose(0, 2, 3, 1, 4)
  k_BKDT = k_BTKD.transpose(0, 2, 3, 1)
  by_offset = mask.offset_B is not None
  values_BK = v_BTKD.transpose((0, 2, 1, 3) if by_offset else (0, 2, 3, 1))
  slopes_KG = None if slopes_H is None else slopes_H.reshape(K, -1)
  bias_KGT = None if bias_HT is None else bias_HT.reshape(K, H // K, -1)
  arrays = mask._replace(window=None)

  def run(each, attend_head, rows):
    def of_row(row):
      *heads, arrays = row
      own = jax.tree.map(lambda x: x[None], arrays)
      own = own._replace(window=mask.window)
      return each(
        lambda head: attend_head(*head, own, soft_cap, block),
        (*heads, slopes_KG, bias_KGT),
      )

    return each(of_row, rows)

  # vmap would run every branch of a switch.
  one_by_one = _of_head_at_offset if by_offset else _of_head
  in_loops = functools.partial(run, jax.lax.map, one_by_one)
  together = functools.partial(run, lambda f, xs: jax.vmap(f)(xs), _of_head)
  rows = (q_BKGSD, k_BKDT, values_BK, arrays)
  if B * H * min(S, MIN_STRIP) * T <= at_once:
    results = together(rows)
  else:  # Small operations would leave devices other than CPUs idle.
    results = jax.lax.platform_dependent(rows, cpu=in_loops, default=together)
  out_BKGSD, lse_BKGS, max_BKGS = results
  return (
    out_BKGSD.transpose(0, 3, 1, 2, 4).reshape(B, S, H, D),
    lse_BKGS.reshape(B, H, S),
    max_BKGS.reshape(B, H, S),
  )


def _of_head(
  q_GSD: Array,
  k_DT: Array,
  values: Array,
  slopes_G: Array | None,
  bias_GT: Array | None,
  mask: Mask,
  soft_cap: float | None,
  block: int,
) -> tuple[Array, Array, Array]:
  """Returns out_GSD, lse_GS and max_GS of one row's queries of one key head.

  Values are v_DT, or v_TD at an offset.
  """
  G, S, _ = q_GSD.shape
  strip = max(MIN_STRIP, -(-S // MAX_STRIPS))
  # Iterations share memory; strips of one iteration may be held side by side.
  # The narrowest strips have one: their gradient needs no second forward pass.
  block = max(min(block, MIN_STRIP), min(block // G, strip // 2))
  parts = []
  for start in range(0, S, strip):
    stop = min(start + strip, S)
    keys = stop if mask.offset_B is None else None
    attend_block = _block_attention(
      q_GSD, k_DT[:, :keys], values[:, :keys], mask, slopes_G, bias_GT, soft_cap
    )
    parts.extend(_by_block(attend_block, start, stop, block))
  return tuple(jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True))


def _of_head_at_offset(
  q_GSD: Array,
  k_DT: Array,
  values: Array,
  slopes_G: Array | None,
  bias_GT: Array | None,
  mask: Mask,
  soft_cap: float | None,
  block: int,
) -> tuple[Array, Array, Array]:
  """Returns what `_of_head` does, without the keys that no query sees.

  The offset is known when it runs. Blocks of queries read blocks of keys, and
  skip those that are hidden from all of their queries.
  """
  (G, S, D), T = q_GSD.shape, k_DT.shape[1]
  step = min(KEYS_AT_ONCE, T)
  # The keys added are in every query's future.
  k_DT = jnp.pad(k_DT, ((0, 0), (0, -T % step)))
  v_TD = jnp.pad(values, ((0, -T % step), (0, 0)))

  def attend_block(first: Array | int, count: int) -> tuple[Array, ...]:
    assert mask.offset_B is not None
    position = mask.offset_B[0] + first
    nearest = 0
    if mask.window is not None:
      nearest = jnp.maximum(position - mask.window + 1, 0)

    def add(partial, start):
      of_keys = _block_attention(
        q_GSD,
        jax.lax.dynamic_slice_in_dim(k_DT, start, step, axis=1),
        jax.lax.dynamic_slice_in_dim(v_TD, start, step),
        mask,
        slopes_G,
        bias_GT,
        soft_cap,
        start,
      )
      is_seen = (start < position + count) & (start + step > nearest)
      partial = jax.lax.cond(
        is_seen,
        lambda: _merged(partial, of_keys(first, count)),
        lambda: partial,
      )
      return partial, None

    least_Gc = jnp.full((G, count), -jnp.inf)
    nothing = (jnp.zeros((G, count, D)), least_Gc, least_Gc)
    starts = jnp.arange(0, k_DT.shape[1], step)
    (out_GcD, *stats), _ = jax.lax.scan(add, nothing, starts)
    return out_GcD.astype(v_TD.dtype), *stats

  parts = _by_block(attend_block, 0, S, max(MIN_STRIP, block // G))
  return tuple(jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True))


def _merged(
  one: tuple[Array, ...], other: tuple[Array, ...]
) -> tuple[Array, ...]:
  """Returns float32 out_GcD, lse_Gc and max_Gc over the keys of both."""
  lse_Gc = jnp.logaddexp(one[1], other[1])
  finite_Gc = jnp.maximum(lse_Gc, jnp.finfo(jnp.float32).min)
  out_GcD = sum(
    out_GcD * jnp.exp(part_Gc - finite_Gc)[..., None]
    for out_GcD, part_Gc, _ in (one, other)
  )
  return out_GcD, lse_Gc, jnp.maximum(one[2], other[2])


def _block_attention(
  q_GSD, k_DT, values, mask, slopes_G, bias_GT, soft_cap, first_key=0
):
  """Returns a function from (first query, count) to their results."""
  G, _, D = q_GSD.shape
  keys = first_key + jnp.arange(k_DT.shape[1])

  def attend_block(first: Array | int, count: int) -> tuple[Array, ...]:
    q_GcD = jax.lax.dynamic_slice_in_dim(q_GSD, first, count, axis=1)
    rows = first + jnp.arange(count)
    logits_GcT = jnp.matmul(
      q_GcD.reshape(G * count, D), k_DT, preferred_element_type=jnp.float32
    ).reshape(G, count, -1)
    logits_GcT = softcapping.cap(logits_GcT, soft_cap)
    if slopes_G is not None:
      distance_cT = mask.distance_BST(rows, keys)[0].astype(jnp.float32)
      logits_GcT -= slopes_G[:, None, None] * distance_cT
    if bias_GT is not None:
      position_BS = mask.position_BS(rows) - first_key
      logits_GcT += bias.by_key(bias_GT, position_BS, len(keys))[0]
    visible_cT = mask.visible_BST(rows, keys)[0]
    logits_GcT = jnp.where(visible_cT, logits_GcT, -jnp.inf)
    max_Gc1 = jax.lax.stop_gradient(jnp.max(logits_GcT, axis=-1, keepdims=True))
    # Finite, so that a row that sees nothing has weights of 0, not NaN.
    shift_Gc1 = jnp.maximum(max_Gc1, jnp.finfo(jnp.float32).min)
    weights_GcT = jnp.exp(logits_GcT - shift_Gc1)
    # Dividing the D outputs, not the T weights, saves a pass over the block.
    sum_Gc1 = jnp.sum(weights_GcT, axis=-1, keepdims=True)
    out_RD = jnp.einsum(
      "rt,dt->rd" if mask.offset_B is None else "rt,td->rd",
      weights_GcT.astype(values.dtype).reshape(G * count, -1),
      values,
      preferred_element_type=jnp.float32,
    )
    out_GcD = out_RD.reshape(G, count, D)
    divisor_Gc1 = jnp.where(sum_Gc1 > 0, sum_Gc1, 1)
    out_GcD /= divisor_Gc1
    lse_Gc1 = jnp.where(sum_Gc1 > 0, shift_Gc1 + jnp.log(divisor_Gc1), -jnp.inf)
    return out_GcD.astype(values.dtype), lse_Gc1[..., 0], max_Gc1[..., 0]

  return attend_block


def _by_block(
  attend_block, start: int, stop: int, block: int
) -> list[tuple[Array, ...]]:
  """Returns the results of queries start to stop, computed block by block."""

  def attend(first: Array | int, count: int) -> tuple[Array, ...]:
    out_GcD, *stats = attend_block(first, count)
    return out_GcD, *jax.lax.stop_gradient(stats)

  whole = (stop - start) // block
  parts = []
  if whole > 1:
    firsts = start + block * jnp.arange(whole)
    # Remat: the backward pass recomputes a block rather than keep all logits.
    one_block = jax.checkpoint(lambda first: attend(first, block))
    results = jax.lax.map(one_block, firsts)
    parts.append(tuple(_joined_rows(x_nGc) for x_nGc in results))
    start += whole * block
  if start < stop:
    parts.append(attend(start, stop - start))
  return parts


def _joined_rows(x_nGc: Array) -> Array:
  x_Gnc = jnp.moveaxis(x_nGc, 0, 1)
  return x_Gnc.reshape(x_Gnc.shape[0], -1, *x_Gnc.shape[3:])
