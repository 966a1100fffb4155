"""Times `blockwise` attention on a CPU beside JAX's `dot_product_attention`.

Each shape is a batch of about 8,192 tokens, as an evaluation reads it, forward
and with gradients, causal, in float32. "ratio" is the time of the peer (the
backend "xla", in the same process, in turns) over ours, in the median of
rounds, and its range. "share" is our operations a second over those of a plain
product of matrices, (2048, 2048) times itself.

python tools/bench_attention_cpu.py
python tools/bench_attention_cpu.py --heads 32 --kv-heads 8 --head-dim 128
"""

import argparse
from collections.abc import Callable
import time

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import attention
from drope_jax.perf import rounds

_TOKENS = 8192
_SIDE = 2048


def main() -> None:
  """Prints a line for each length and direction."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--heads", type=int, default=4)
  parser.add_argument("--kv-heads", type=int, default=4)
  parser.add_argument("--head-dim", type=int, default=32)
  parser.add_argument(
    "--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096]
  )
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  if min(args.lengths) < 1 or args.heads % args.kv_heads:
    parser.error(
      "lengths of at least 1, and heads that kv-heads divide, are required, "
      f"got {args.lengths}, {args.heads} and {args.kv_heads}"
    )
  square = jnp.ones((_SIDE, _SIDE))
  multiply = jax.jit(jnp.matmul)
  product_s = min(_seconds(lambda: multiply(square, square)) for _ in range(5))
  peak = 2 * _SIDE**3 / product_s
  print(
    f"{'':22}{'ours, ms':>9}{'ratio':>7}{'range':>12}{'GFLOP/s':>9}{'share':>7}"
  )
  for length in args.lengths:
    for gradients in (False, True):
      calls = {
        backend: _call(backend, length, gradients, args)
        for backend in ("blockwise", "xla")
      }
      times = {name: [] for name in calls}
      for _ in range(args.rounds):
        for name, call in calls.items():
          times[name].append(_seconds(call))
      ratio = rounds.ratio(times["xla"], times["blockwise"])
      seconds = np.median(times["blockwise"])
      # Two products of a forward pass, of half of the square; five backward.
      products = 7 if gradients else 2
      width = args.heads * args.head_dim
      rate = products * _rows(length) * length**2 * width / seconds
      label = f"{length} {'with gradients' if gradients else 'forward'}"
      print(
        f"{label:22}{1e3 * seconds:9.1f}{ratio.median:7.2f}"
        f"{ratio.least:7.2f}-{ratio.most:4.2f}{rate / 1e9:9.1f}"
        f"{rate / peak:7.0%}"
      )


def _call(backend: str, length: int, gradients: bool, args) -> Callable:
  """Returns a compiled call of one batch."""
  rng = np.random.default_rng(0)

  def normal(heads: int) -> jax.Array:
    shape = (_rows(length), length, heads, args.head_dim)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  inputs = normal(args.heads), normal(args.kv_heads), normal(args.kv_heads)

  def attend(*qkv):
    return attention.attend(*qkv, mask=attention.Mask(), backend=backend)

  def differentiate(*qkv):
    return jax.grad(lambda *x: jnp.square(attend(*x)).sum(), (0, 1, 2))(*qkv)

  run = jax.jit(differentiate if gradients else attend)
  jax.block_until_ready(run(*inputs))
  return lambda: run(*inputs)


def _rows(length: int) -> int:
  return max(_TOKENS // length, 1)


def _seconds(call: Callable) -> float:
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


if __name__ == "__main__":
  main()
