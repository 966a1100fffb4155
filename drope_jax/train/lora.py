"""Low-rank adapters: what is trained beside a projection that is frozen."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from drope_jax.axes import Array


@dataclasses.dataclass(frozen=True)
class Lora:
  """Adapters A and B of projections: y = x W + (alpha / rank) x A B.

  Attributes:
    projections: names, as of `TrainPhase.trainable`, of the layers' kernels W,
      [in, out].
    rank: R; A is [in, R], normal at first with deviation 1 / sqrt(in), and B
      [R, out], 0 at first.
    alpha: of their scale.

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
    """What multiplies A B."""
    return self.alpha / self.rank

  def init(self, key: Array, shape: tuple[int, int, int]) -> dict[str, Array]:
    """Returns the adapters of kernels, float32.

    Args:
      key: of A.
      shape: of the kernels, [N, in, out].
    """
    N, in_size, out_size = shape
    a = jax.random.normal(key, (N, in_size, self.rank), jnp.float32)
    return {
      "lora_a": in_size**-0.5 * a,
      "lora_b": jnp.zeros((N, self.rank, out_size), jnp.float32),
    }

  def merged(self, kernel: Array, a: Array, b: Array) -> Array:
    """Returns kernels [N, in, out] with their adapters, in their own dtype.

    The product and the sum are float32, of a layer at a time.
    """

    def merge(layer: tuple[Array, Array, Array]) -> Array:
      kernel, a, b = layer
      product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
      return (kernel + self.scale * product).astype(kernel.dtype)

    return jax.lax.map(merge, (kernel, a, b))
