"""Cross-entropy against its formula in numpy, and its gradient."""

import jax
import numpy as np

from drope_jax.train import loss


def _case():
  rng = np.random.default_rng(0)
  logits_BSV = rng.normal(size=(2, 3, 7)).astype(np.float32)
  # Beyond what float32 exponentials hold.
  logits_BSV[0, 0] += 300
  logits_BSV[1, 2] = [1000, 0, 0, -1000, 0, 0, 0]
  targets_BS = np.array([[0, 6, 3], [2, 2, 4]])
  return logits_BSV, targets_BS


def _log_p(logits_BSV):
  x_BSV = logits_BSV.astype(np.float64)
  top_BS1 = x_BSV.max(-1, keepdims=True)
  return (
    x_BSV - top_BS1 - np.log(np.exp(x_BSV - top_BS1).sum(-1, keepdims=True))
  )


def test_the_loss_is_minus_log_softmax_of_the_target():
  logits_BSV, targets_BS = _case()
  want_BS = -np.take_along_axis(_log_p(logits_BSV), targets_BS[..., None], -1)
  got_BS = loss.token_losses(logits_BSV, targets_BS)
  assert got_BS.dtype == np.float32
  # Float32 rounding of logits of 300.
  np.testing.assert_allclose(got_BS, want_BS[..., 0], rtol=1e-6, atol=5e-5)


def test_its_gradient_is_softmax_minus_the_target():
  logits_BSV, targets_BS = _case()
  got_BSV = jax.grad(lambda x: loss.token_losses(x, targets_BS).sum())(
    logits_BSV
  )
  want_BSV = np.exp(_log_p(logits_BSV)) - np.eye(7)[targets_BS]
  np.testing.assert_allclose(got_BSV, want_BSV, atol=5e-5)
