"""A bias that falls with the logarithm of distance, at learned rates."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Kerple(Scheme):
  """KERPLE in its logarithmic form: the bias is -p ln(1 + a * distance).

  Every head of every layer learns its p and a, which are kept at `least` or
  above.

  Attributes:
    least: of p and a, above 0.

  Source: Chi et al. 2022 (arXiv:2205.09921), its logarithmic kernel. The
    authors' code starts p uniform in (0, 2) and a in (0, 1).
  """

  least: float = 0.01

  def __post_init__(self):
    if not 0 < self.least < 1:
      raise ValueError(
        f"Kerple needs least between 0 and 1, got {self.least}. The authors' "
        "is 0.01."
      )

  def init(self, num_heads: int, key: Array) -> dict[str, Array]:
    p_key, a_key = jax.random.split(key)
    drawn = {
      "p": 2 * jax.random.uniform(p_key, (num_heads,), jnp.float32),
      "a": jax.random.uniform(a_key, (num_heads,), jnp.float32),
    }
    return {name: jnp.maximum(x_H, self.least) for name, x_H in drawn.items()}

  def learned_bias(
    self, learned: Mapping[str, Array], distance_T: Array
  ) -> Array:
    def kept(x_H: Array) -> Array:
      # The gradient passes where x_H is below, so that it can come back.
      x_H = x_H.astype(jnp.float32)
      return x_H + jax.lax.stop_gradient(jnp.maximum(self.least - x_H, 0))

    p_H1, a_H1 = (kept(learned[name])[:, None] for name in ("p", "a"))
    return -p_H1 * jnp.log1p(a_H1 * distance_T)
