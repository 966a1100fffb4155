"""No positional embedding: the causal mask alone carries position."""

import dataclasses

from drope_jax.positional.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Nope(Scheme):
  """Does nothing to attention: q and k are not rotated, logits have no bias.

  Source: Kazemnejad et al. 2023 (arXiv:2305.19466); DroPE (arXiv:2512.12167)
  recalibrates a RoPE model under it.
  """
