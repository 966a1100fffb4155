"""A backend on the devices of a mesh, each with its part of the work."""

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
  """Runs a backend on each device's texts, heads and queries by `shard_map`.

  For kernels, which `jit` does not divide. Where queries are split, a device
  gathers the keys and values that its heads read.

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
      ValueError: texts, tokens or heads do not divide.
    """
    (B, S, H, _), (T, K) = q_BSHD.shape, k_BTKD.shape[1:3]
    self._require_divisible("texts", self.batch, B)
    self._require_divisible("queries and keys", self.tokens, S, T)
    self._require_divisible("query and key/value heads", self.heads, H, K)

    def part(own: _Operands):
      split = own
      if self.ways(self.tokens) > 1:
        split = self._with_all_keys(own)
      more = {}
      if rotation is not None:
        more["rotation"] = rotation._replace(q_N2SD=split.q_N2SD)
      return run(
        split.q_BSHD,
        split.k_BTKD,
        split.v_BTKD,
        Mask(
          split.offset_B, mask.window, split.q_segment_BS, split.k_segment_BT
        ),
        scale if split.scale_BS is None else split.scale_BS,
        split.slopes_H,
        soft_cap,
        **more,
      )

    batch, tokens, heads = self.batch, self.tokens, self.heads
    rows = P(batch, heads, tokens)
    return jax.shard_map(
      part,
      mesh=self.mesh,
      in_specs=(
        _Operands(
          q_BSHD=P(batch, tokens, heads),
          k_BTKD=P(batch, tokens, heads),
          v_BTKD=P(batch, tokens, heads),
          offset_B=P(batch),
          q_segment_BS=P(batch, tokens),
          k_segment_BT=P(batch, tokens),
          scale_BS=P(batch, tokens),
          slopes_H=P(heads),
          q_N2SD=P(None, None, tokens),
        ),
      ),
      out_specs=(P(batch, tokens, heads), rows, rows),
      # A kernel does not say over which axes its results vary.
      check_vma=False,
    )(
      _Operands(
        q_BSHD,
        k_BTKD,
        v_BTKD,
        mask.offset_B,
        mask.q_segment_BS,
        mask.k_segment_BT,
        scale if jnp.ndim(scale) else None,
        slopes_H,
        None if rotation is None else rotation.q_N2SD,
      )
    )

  def _with_all_keys(self, own: "_Operands") -> "_Operands":
    B, S = own.q_BSHD.shape[:2]

    def gathered(x_BT):
      return jax.lax.all_gather(x_BT, self.tokens, axis=1, tiled=True)

    offset_B = jnp.zeros(B, jnp.int32) if own.offset_B is None else own.offset_B
    segments = own.k_segment_BT
    return own._replace(
      k_BTKD=gathered(own.k_BTKD),
      v_BTKD=gathered(own.v_BTKD),
      offset_B=offset_B + jax.lax.axis_index(self.tokens) * S,
      k_segment_BT=None if segments is None else gathered(segments),
    )

  def _require_divisible(self, what: str, axes: tuple[str, ...], *sizes: int):
    ways = self.ways(axes)
    if any(size % ways for size in sizes):
      raise ValueError(
        f"Attention on a mesh needs {what} that it divides, got "
        f"{' and '.join(map(str, sizes))} for {ways} parts. Change MeshConfig."
      )


class _Operands(NamedTuple):
  """What is split; the rest is the same everywhere."""

  q_BSHD: Array
  k_BTKD: Array
  v_BTKD: Array
  offset_B: Array | None
  q_segment_BS: Array | None
  k_segment_BT: Array | None
  scale_BS: Array | None
  slopes_H: Array | None
  q_N2SD: Array | None
