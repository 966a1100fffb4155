"""No positional embedding: the causal mask alone carries position."""

import dataclasses

from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Nope:
  """Leaves q and k as they are, and bypasses rotation outright.

  Source: Kazemnejad et al. 2023 (arXiv:2305.19466); DroPE (arXiv:2512.12167)
  recalibrates a RoPE model under it.
  """

  def prepare(self, pos_BS: Array, head_dim: int) -> None:
    del pos_BS, head_dim

  def bias_slopes(self, num_heads: int) -> None:
    del num_heads
