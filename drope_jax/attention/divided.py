"""A backend on the devices of a mesh, each with its part of the arrays."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from drope_jax.attention.mask import Mask
from drope_jax.attention.rotation import Rotation
from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Divided:
  """Runs a backend on each device's sequences, heads and queries.

  Kernels need it, since `jit` does not partition them: `shard_map` does. Where
  queries are split, each device gathers the keys and values that its heads
  read. Causal work grows along a sequence, so queries are placed zig-zag: a
  device trades the second half of its queries with the device as far from the
  end as it is from the start. All devices then have equal work.

  Attributes:
    backend: a name, or a backend with settings of its own.
    mesh: of the devices.
    batch, tokens, heads: mesh axes over which B, S and H are split.
  """

  backend: Any
  mesh: jax.sharding.Mesh
  batch: tuple[str, ...] = ()
  tokens: tuple[str, ...] = ()
  heads: tuple[str, ...] = ()

  def ways(self, axes: tuple[str, ...]) -> int:
    """Returns into how many parts mesh axes split an array."""
    return math.prod(self.mesh.shape[axis] for axis in axes)

  def attend(
    self,
    run: Callable[..., tuple[Array, Array | None, Array | None]],
    q_BSHD: Array,
    k_BTKD: Array,
    v_BTKD: Array,
    mask: Mask,
    scale: Array | float,
    slopes_H: Array | None,
    soft_cap: float | None,
    rotation: Rotation | None = None,
  ) -> tuple[Array, Array | None, Array | None]:
    """See `backends.Backend`; `run` is the backend's own `attend`.

    Raises:
      ValueError: sequences, tokens or heads do not divide.
    """
    (B, S, H, _), (T, K) = q_BSHD.shape, k_BTKD.shape[1:3]
    ways = self.ways(self.tokens)
    _require_divisible("sequences", self.ways(self.batch), B)
    _require_divisible("keys", ways, T)
    _require_divisible("queries", ways if ways == 1 else 2 * ways, S)
    _require_divisible("query and key/value heads", self.ways(self.heads), H, K)

    def part(own: _Operands):
      q_BSHD, segment_BS, scale_BS, tables_N2SD = own.queries
      more = {}
      if rotation is not None:
        more["rotation"] = rotation._replace(q_N2SD=tables_N2SD)
      return run(
        q_BSHD,
        own.k_BTKD,
        own.v_BTKD,
        Mask(own.offset_B, mask.window, segment_BS, own.k_segment_BT),
        scale if scale_BS is None else scale_BS,
        own.slopes_H,
        soft_cap,
        **more,
      )

    def balanced(own: _Operands):
      own = self._with_all_keys(own)
      device, half = jax.lax.axis_index(self.tokens), S // (2 * ways)

      def attended(queries: _Queries, place: Array):
        offset_B = own.offset_B + place * half
        return part(own._replace(queries=queries, offset_B=offset_B))

      first, second = own.queries.halves()
      first = attended(first, 2 * device)
      second = attended(self._traded(second), 2 * (ways - device) - 1)
      return tuple(
        None if halves[0] is None else jnp.concatenate(halves, axis)
        for *halves, axis in zip(
          first, self._traded(second), (1, 2, 2), strict=True
        )
      )

    batch, tokens, heads = self.batch, self.tokens, self.heads
    rows = P(batch, heads, tokens)
    return jax.shard_map(
      part if ways == 1 else balanced,
      mesh=self.mesh,
      in_specs=(
        _Operands(
          queries=_Queries(
            q_BSHD=P(batch, tokens, heads),
            segment_BS=P(batch, tokens),
            scale_BS=P(batch, tokens),
            tables_N2SD=P(None, None, tokens),
          ),
          k_BTKD=P(batch, tokens, heads),
          v_BTKD=P(batch, tokens, heads),
          k_segment_BT=P(batch, tokens),
          offset_B=P(batch),
          slopes_H=P(heads),
        ),
      ),
      out_specs=(P(batch, tokens, heads), rows, rows),
      # A kernel does not say over which axes its results vary.
      check_vma=False,
    )(
      _Operands(
        _Queries(
          q_BSHD,
          mask.q_segment_BS,
          scale if jnp.ndim(scale) else None,
          None if rotation is None else rotation.q_N2SD,
        ),
        k_BTKD,
        v_BTKD,
        mask.k_segment_BT,
        mask.offset_B,
        slopes_H,
      )
    )

  def _with_all_keys(self, own: "_Operands") -> "_Operands":
    def gathered(x_BT):
      return jax.lax.all_gather(x_BT, self.tokens, axis=1, tiled=True)

    offset_B = own.offset_B
    if offset_B is None:
      offset_B = jnp.zeros(own.k_BTKD.shape[0], jnp.int32)
    k_BTKD, v_BTKD, k_segment_BT = jax.tree.map(
      gathered, (own.k_BTKD, own.v_BTKD, own.k_segment_BT)
    )
    return _Operands(
      own.queries, k_BTKD, v_BTKD, k_segment_BT, offset_B, own.slopes_H
    )

  def _traded(self, tree: Any) -> Any:
    """Returns what the device at the mirrored place has."""
    last = self.ways(self.tokens) - 1
    pairs = [(index, last - index) for index in range(last + 1)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, self.tokens, pairs), tree)


class _Queries(NamedTuple):
  """The arrays with an entry for each query."""

  q_BSHD: Array
  segment_BS: Array | None
  scale_BS: Array | None
  tables_N2SD: Array | None

  def halves(self) -> tuple["_Queries", "_Queries"]:
    """Returns the first and the second half of the queries."""
    axes = _Queries(1, 1, 1, 2)
    split = [
      (None, None) if x is None else jnp.split(x, 2, axis)
      for x, axis in zip(self, axes, strict=True)
    ]
    first, second = zip(*split, strict=True)
    return _Queries(*first), _Queries(*second)


class _Operands(NamedTuple):
  """The arrays that are split; the rest is the same on every device."""

  queries: _Queries
  k_BTKD: Array
  v_BTKD: Array
  k_segment_BT: Array | None
  offset_B: Array | None
  slopes_H: Array | None


def _require_divisible(what: str, parts: int, *sizes: int) -> None:
  if any(size % parts for size in sizes):
    raise ValueError(
      f"Attention on a mesh needs {what} that it divides, got "
      f"{' and '.join(map(str, sizes))} for {parts} parts. Change MeshConfig."
    )
