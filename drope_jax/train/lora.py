"""Low-rank adapters of frozen projections."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Lora:
  """Adapters A and B of projections: y = x W + (alpha / rank) x A B.

  Attributes:
    projections: names of the kernels W [in, out] of layers, written as in
      `TrainPhase.trainable`.
    rank: R. A is [in, R], at first normal with deviation 1 / sqrt(in); B is
      [R, out], at first 0.
    alpha: alpha / rank is the scale of A B.

  Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1.
  """

  projections: tuple[str, ...]
  rank: int = 16
  alpha: float = 16.0

  def __post_init__(self):
    if not self.projections or self.rank < 1 or not 0 < self.alpha < math.inf:
      raise ValueError(
        "Lora needs projections, a rank of at least 1 and a finite alpha above "
        f"0, got {self}. Change it."
      )

  @property
  def scale(self) -> float:
    """The factor of A B: alpha / rank."""
    return self.alpha / self.rank

  def init(self, key: Array, shape: tuple[int, int, int]) -> dict[str, Array]:
    """Returns the initial adapters of kernels, float32.

    Args:
      key: A is drawn from it.
      shape: of the kernels, [N, in, out].
    """
    N, in_size, out_size = shape
    a = jax.random.normal(key, (N, in_size, self.rank), jnp.float32)
    return {
      "lora_a": in_size**-0.5 * a,
      "lora_b": jnp.zeros((N, self.rank, out_size), jnp.float32),
    }

  def merged(self, kernel: Array, a: Array, b: Array) -> Array:
    """Returns kernels [N, in, out] plus their adapters, in the kernels' dtype.

    Products and sums are float32, and computed one layer at a time.
    """

    def merge(layer: tuple[Array, Array, Array]) -> Array:
      kernel, a, b = layer
      product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
      return (kernel + self.scale * product).astype(kernel.dtype)

    return jax.lax.map(merge, (kernel, a, b))
