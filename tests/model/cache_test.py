"""Reading through a key-value cache is reading at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax.model import cache as caches
from drope_jax.model import transformer
from drope_jax.positional import Alibi, Dynamic, Nope, Pattern, Rope

SCHEMES = {
  "Rope": Rope(),
  "Nope": Nope(),
  "Alibi": Alibi(),
  "windowed Rope and Nope": Pattern((Rope(), Nope()), (4, None)),
  "a window in each layer": Pattern((Rope(),), (5,)),
  "windows of two sizes": Pattern((Rope(), Nope()), (4, 6)),
  "windowed Alibi": Pattern((Alibi(), Nope()), (4, None)),
}
RING_LAYERS = {"windowed Rope and Nope": 1, "a window in each layer": 2}


@functools.partial(jax.jit, static_argnums=0, static_argnames="from_empty")
def _read(config, params, tokens_BS, cache, **options):
  x_BSM, cache = transformer.forward_cached(
    config, params, tokens_BS, cache, **options
  )
  return transformer.unembed(config, params, x_BSM), cache


@pytest.mark.parametrize("name", SCHEMES)
def test_reading_token_by_token_is_reading_at_once(
  config, params, forward, tokens_BS, name
):
  """Rows whose prompts differ in length, padded, then decoded together."""
  config = dataclasses.replace(config, positional=SCHEMES[name])
  want_BSV = forward(config, params, tokens_BS)
  prompt, lengths, steps = 8, np.array([5, 8]), 7
  rows = np.arange(2)
  got_BSV, cache = _read(
    config,
    params,
    tokens_BS[:, :prompt],
    caches.empty(config, 2, 24, jnp.float32),
    from_empty=True,
    kept_B=lengths,
  )
  assert (cache.ring is not None) == (name in RING_LAYERS)
  # Sums in another order, of logits of order one.
  same = functools.partial(np.testing.assert_allclose, atol=1e-5)
  same(got_BSV, want_BSV[:, :prompt])
  for step in range(steps):
    pos_B = lengths + step
    next_B1 = tokens_BS[rows, pos_B][:, None]
    got_B1V, cache = _read(config, params, next_B1, cache)
    same(got_B1V[:, 0], want_BSV[rows, pos_B], err_msg=f"step {step}")
  np.testing.assert_array_equal(cache.length_B, lengths + steps)


@pytest.mark.parametrize("chunk", [3, 8])
@pytest.mark.parametrize("name", SCHEMES)
def test_several_tokens_at_once_continue_a_cache(
  config, params, forward, tokens_BS, name, chunk
):
  """Rows end in the third chunk and in the second; padding follows."""
  config = dataclasses.replace(config, positional=SCHEMES[name])
  want_BSV = forward(config, params, tokens_BS)
  rows, lengths = np.arange(2), np.array([2 * chunk + 1, 2 * chunk - 2])
  cache = caches.empty(config, 2, 3 * chunk + 2, jnp.float32)
  padding_BS = np.full_like(tokens_BS, 7)
  real_BS = np.arange(tokens_BS.shape[1]) < lengths[:, None]
  for start in range(0, 3 * chunk, chunk):
    part = slice(start, start + chunk)
    got_BSV, cache = _read(
      config,
      params,
      np.where(real_BS, tokens_BS, padding_BS)[:, part],
      cache,
      kept_B=np.clip(lengths - start, 0, chunk),
    )
    np.testing.assert_allclose(
      got_BSV[real_BS[:, part]],
      want_BSV[:, part][real_BS[:, part]],
      atol=1e-5,
    )
  next_B1 = tokens_BS[rows, lengths][:, None]
  got_B1V, _ = _read(config, params, next_B1, cache)
  np.testing.assert_allclose(got_B1V[:, 0], want_BSV[rows, lengths], atol=1e-5)


def test_an_empty_cache_has_the_dtype_and_the_room_asked_for(config):
  cache = caches.empty(config, 3, 7, jnp.bfloat16)
  lead, D = (config.num_layers, 3, config.num_kv_heads), config.head_dim
  assert cache.k_NBKDT.shape == (*lead, D, 7)
  assert cache.v_NBKTD.shape == (*lead, 7, D)
  assert cache.k_NBKDT.dtype == cache.v_NBKTD.dtype == jnp.bfloat16
  np.testing.assert_array_equal(cache.length_B, [0, 0, 0])


@pytest.mark.parametrize("name", RING_LAYERS)
def test_layers_with_a_window_keep_no_more_than_it(config, name):
  positional, n = SCHEMES[name], RING_LAYERS[name]
  config = dataclasses.replace(config, positional=positional)
  cache = caches.empty(config, 3, 99, jnp.float32)
  shape = (3, config.num_kv_heads, config.head_dim)
  assert cache.k_NBKDT.shape == (config.num_layers - n, *shape, 99)
  W = positional.windows[0]
  assert cache.ring.k_nBKDW.shape == (n, *shape, W)
  assert cache.ring.v_nBKWD.shape == (n, *shape[:2], W, shape[2])
  # Of a cache that is no longer than the window nothing can be left out.
  assert caches.empty(config, 3, W, "float32").ring is None


def test_positions_that_change_with_length_cannot_be_cached(config, params):
  dynamic = Pattern((Rope(), Dynamic()))
  config = dataclasses.replace(config, positional=dynamic)
  message = r"do not change with length, got Dynamic.*its at\(length\)"
  with pytest.raises(ValueError, match=message):
    _read(
      config,
      params,
      jnp.zeros((1, 4), jnp.int32),
      caches.empty(config, 1, 8, jnp.float32),
    )


@pytest.mark.parametrize("from_empty", [False, True])
def test_more_tokens_than_slots_are_refused(config, params, from_empty):
  cache = caches.empty(config, 1, 3, jnp.float32)
  message = r"got 3 slots for 4 tokens\. Make it with a max_tokens"
  with pytest.raises(ValueError, match=message):
    _read(
      config, params, jnp.zeros((1, 4), jnp.int32), cache, from_empty=from_empty
    )
