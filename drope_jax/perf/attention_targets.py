"""Attention kernels to compile and compare: ours, JAX's splash, tokamax's.

Each function is a target of `schedule.compiled`: it returns a function to
compile and its arguments, bfloat16 and causal.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from drope_jax.attention import FlashTpu, Rotation, flash_tpu
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.attention.mask import Mask
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Rope

HEADS = 32
"""Query heads: enough that XLA keeps the arrays in HBM, as in a model."""

OPTIONS = ("plain", "rotation", "alibi", "window", "segments")


def flash(
  tokens: int,
  head_dim: int,
  forward: Sequence[int],
  backward: Sequence[int],
  option: str = "plain",
  group_size: int = 1,
  gradient: bool = True,
):
  """Returns the gradient or the forward pass of `flash_tpu`, and its arguments.

  Heads come first, as in the peers: projections write them in that order.

  Args:
    tokens, head_dim: of the arrays, which have `HEADS` query heads.
    forward, backward: fields of `Blocks`.
    option: of `OPTIONS`; its arrays are traced.
    group_size: query heads that share a key/value head.
    gradient: whether to compile both kernels.
  """

  def attend(q_BHSD, k_BKTD, v_BKTD, ints_BS):
    mask, slopes_H, rotation = Mask(), None, None
    if option == "alibi":
      slopes_H = ints_BS[0, :HEADS].astype(jnp.float32)
    elif option == "window":
      mask = Mask(window=ints_BS[0, 0])
    elif option == "segments":
      mask = Mask(q_segment_BS=ints_BS, k_segment_BT=ints_BS)
    elif option == "rotation":
      table_N2SD = jnp.broadcast_to(
        ints_BS[:, None, :, None], (2, 2, tokens, head_dim)
      ).astype(jnp.float32)
      rotation = Rotation(table_N2SD, table_N2SD, ints_BS[0, 0])
    arrays_BSHD = (x.swapaxes(1, 2) for x in (q_BHSD, k_BKTD, v_BKTD))
    out_BSHD, *_ = flash_tpu.attend(
      *arrays_BSHD,
      mask,
      head_dim**-0.5,
      slopes_H,
      rotation=rotation,
      forward_blocks=Blocks(*forward),
      backward_blocks=Blocks(*backward),
    )
    return out_BSHD.swapaxes(1, 2)

  q_BHSD, k_BKTD = (
    jax.ShapeDtypeStruct((1, heads, tokens, head_dim), jnp.bfloat16)
    for heads in (HEADS, HEADS // group_size)
  )
  ints_BS = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
  arguments = (q_BHSD, k_BKTD, k_BKTD, ints_BS)
  return (_gradient(attend) if gradient else attend), arguments


def layers(
  positional: str,
  tokens: int,
  head_dim: int,
  forward: Sequence[int],
  backward: Sequence[int],
):
  """Returns the gradient of two Llama layers of width 2048, and its arguments.

  There are two sequences, and four query heads for each key/value head.

  Args:
    positional: "rope" or "nope".
    tokens, head_dim, forward, backward: as in `flash`.
  """
  heads = 2048 // head_dim
  config = ModelConfig(
    vocab_size=32_000,
    num_layers=2,
    width=2048,
    num_heads=heads,
    num_kv_heads=heads // 4,
    head_dim=head_dim,
    mlp_width=5632,
    context_tokens=tokens,
    positional={"rope": Rope, "nope": Nope}[positional](),
  )

  def total(params, tokens_BS):
    x_BSM = transformer.hidden(
      config,
      params,
      tokens_BS,
      backend=FlashTpu(Blocks(*forward), Blocks(*backward)),
      unroll=True,
    )
    return x_BSM.astype(jnp.float32).sum()

  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16),
    transformer.param_shapes(config),
  )
  tokens_BS = jax.ShapeDtypeStruct((2, tokens), jnp.int32)
  return jax.grad(total), (params, tokens_BS)


def splash(
  tokens: int, head_dim: int, block: Sequence[int], window: int | None = None
):
  """Returns the fused gradient of JAX's splash attention, and its arguments.

  Args:
    tokens, head_dim: as in `flash`.
    block: queries, keys, and keys computed at once.
    window: keys that a query sees; None: all up to its own.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  sizes = splash_attention_kernel.BlockSizes(
    **_block_sizes(block), use_fused_bwd_kernel=True
  )
  mask = splash_attention_mask.CausalMask((tokens, tokens))
  if window is not None:
    mask = splash_attention_mask.LocalMask(mask.shape, (window - 1, 0), 0)
  attend = splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([mask] * HEADS),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=sizes,
  )
  return _gradient(attend), _heads_first(tokens, head_dim)


def tokamax(tokens: int, head_dim: int, block: Sequence[int]):
  """Returns tokamax's gradient and its arguments: see `splash`."""
  from tokamax._src.ops.experimental.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  config = splash_attention_kernel.SplashConfig(
    **_block_sizes(block), use_experimental_scheduler=True
  )
  attend = splash_attention_kernel.make_splash_mha_single_device(
    splash_attention_mask.CausalMask((tokens, tokens)), config=config
  )
  return _gradient(attend), _heads_first(tokens, head_dim)


def _block_sizes(block: Sequence[int]) -> dict[str, int]:
  q, k, k_compute = block
  return {
    "block_q": q,
    "block_kv": k,
    "block_kv_compute": k_compute,
    "block_q_dkv": q,
    "block_kv_dkv": k,
    "block_kv_dkv_compute": k_compute,
  }


def _gradient(attend):
  def total(q, k, v, *rest):
    return attend(q, k, v, *rest).astype(jnp.float32).sum()

  return jax.grad(total, argnums=(0, 1, 2))


def _heads_first(tokens, head_dim):
  return (jax.ShapeDtypeStruct((HEADS, tokens, head_dim), jnp.bfloat16),) * 3
