"""Next-token cross-entropy."""

import jax
import jax.numpy as jnp

from drope_jax.axes import Array


def token_losses(logits_BSV: Array, targets_BS: Array) -> Array:
  """Returns -log p(target) in nats, float32 losses_BS."""
  # A masked sum instead of a gather: its gradient is elementwise, where the
  # gather's is a scatter, and a vocabulary sharded over devices stays so.
  ids_V = jnp.arange(logits_BSV.shape[-1])
  is_target_BSV = targets_BS[..., None] == ids_V
  target_BS = jnp.sum(jnp.where(is_target_BSV, logits_BSV, 0.0), axis=-1)
  return jax.nn.logsumexp(logits_BSV, axis=-1) - target_BS
