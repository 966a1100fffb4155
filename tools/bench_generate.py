"""Compares generation on a CPU with transformers, and with what memory allows.

Both have the same shape, random weights and the same prompts. Ours are loaded
from a checkpoint, and are float32 or, with --dtype, of fewer bits; transformers
makes its own, float32. Each prefills, then decodes greedily; transformers runs
SDPA with a static cache. A
round runs both and the bounds, one after the other, in processes of their own.
The bounds are the products of prefill at the rate of one large matrix product,
and reading all float32 weights once for each decoding step. Peak memory is the
largest resident set of a process. Figures are medians over the rounds; ratios
are taken within each.

  python tools/bench_generate.py
  python tools/bench_generate.py --batch 16
  python tools/bench_generate.py --dtype int8
  python tools/bench_generate.py --prompt-tokens 16384 --new-tokens 8

Hardware: two CPU cores. Time: a minute a round at the defaults.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import trees
from drope_jax.checkpoint import store
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.cli import configure, memory
from drope_jax.inference import choice, decode, weights
from drope_jax.inference import lm as lms
from drope_jax.model import packed, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import flops, rounds


@dataclasses.dataclass(frozen=True)
class Measured:
  """What one process measured.

  Attributes:
    prefill_s: of all prompts.
    decode_s: of one token of each row.
    peak_mib: the largest resident set.
  """

  prefill_s: float
  decode_s: float
  peak_mib: float


def main() -> None:
  """Prints the comparison, or, in a process of its own, measures one row."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model",
    default="models/smollm_135m.gin",
    metavar="MODEL.gin",
    help="a shipped model (default: %(default)s)",
  )
  parser.add_argument("--batch", type=int, default=1, help="(default: 1)")
  parser.add_argument(
    "--prompt-tokens", type=int, default=512, help="(default: %(default)s)"
  )
  parser.add_argument(
    "--new-tokens", type=int, default=64, help="(default: %(default)s)"
  )
  parser.add_argument(
    "--dtype", choices=packed.DTYPES, default="float32", help="of our weights"
  )
  parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
  parser.add_argument("--row", choices=_ROWS, help=argparse.SUPPRESS)
  parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
  args = parser.parse_args()
  config = configure.build(args.model, ModelConfig)
  if args.row is not None:
    print(json.dumps(dataclasses.asdict(_ROWS[args.row](config, args))))
    return
  with tempfile.TemporaryDirectory() as folder:
    checkpoint = f"{folder}/random"
    init = jax.jit(transformer.init, static_argnums=0)
    params = init(config, jax.random.key(0))
    store.save_model(checkpoint, params, Manifest(config))

    def in_process(row: str) -> Mapping[str, float]:
      return rounds.in_process(row, "--checkpoint", checkpoint)

    found = rounds.in_turn(_ROWS, args.rounds, in_process)
  _print_table(config, args, found)


def _ours(config: ModelConfig, args: argparse.Namespace) -> Measured:
  memory.keep_freed_memory()  # As the command does.
  params, _ = store.load_model(
    args.checkpoint, convert=weights.holder(args.dtype, mesh=None)
  )
  B, S = args.batch, args.prompt_tokens
  tokens_BS = np.zeros((B, lms.bucket(S)), np.int32)
  tokens_BS[:, :S] = _prompts(config, args)
  chunked = tokens_BS.shape[1] > lms.BATCH_TOKENS
  scale_B = jnp.ones(B)

  def prefill() -> decode.Rows:
    return decode.start(
      config,
      None,
      params,
      tokens_BS,
      jnp.full(B, S),
      scale_B,
      max_tokens=tokens_BS.shape[1] + lms.LENGTH_MULTIPLE,
      chunk_tokens=lms.CHUNK_TOKENS if chunked else None,
      backend="blockwise",
    )

  def write(rows: decode.Rows) -> jax.Array:
    return decode.advance(
      config,
      None,
      params,
      rows,
      scale_B,
      choice.GREEDY.arrays(),
      jax.random.split(jax.random.key(0), B),
      jnp.int32(args.new_tokens),
      steps=args.new_tokens,
      end_ids=(-1,),
      backend="blockwise",
    )[1]

  return _measure(args, prefill, write, jax.block_until_ready)


def _transformers(config: ModelConfig, args: argparse.Namespace) -> Measured:
  import torch
  import transformers

  theirs = transformers.LlamaConfig(
    vocab_size=config.vocab_size,
    hidden_size=config.width,
    intermediate_size=config.mlp_width,
    num_hidden_layers=config.num_layers,
    num_attention_heads=config.num_heads,
    num_key_value_heads=config.num_kv_heads,
    head_dim=config.head_dim,
    tie_word_embeddings=config.tied_embeddings,
    max_position_embeddings=args.prompt_tokens + args.new_tokens,
    attn_implementation="sdpa",
  )
  model = transformers.LlamaForCausalLM(theirs).eval()
  prompts_BS = torch.asarray(_prompts(config, args).astype(np.int64))
  slots = args.prompt_tokens + args.new_tokens

  @torch.inference_mode()
  def prefill():
    cache = transformers.StaticCache(config=theirs, max_cache_len=slots)
    out = model(prompts_BS, past_key_values=cache, logits_to_keep=1)
    return cache, out.logits[:, -1].argmax(-1)

  @torch.inference_mode()
  def write(state):
    cache, token_B = state
    for n in range(args.new_tokens):
      at = torch.tensor([[args.prompt_tokens + n]])
      logits = model(
        token_B[:, None], past_key_values=cache, position_ids=at
      ).logits
      token_B = logits[:, -1].argmax(-1)
    return token_B

  return _measure(args, prefill, write, lambda state: state)


def _measure(
  args: argparse.Namespace,
  prefill: Callable,
  write: Callable,
  finish: Callable,
) -> Measured:
  """Returns the times of a second run, after one that compiles."""
  finish(write(finish(prefill())))
  started = time.perf_counter()
  state = finish(prefill())
  read = time.perf_counter()
  finish(write(state))
  written = time.perf_counter()
  return Measured(
    read - started, (written - read) / args.new_tokens, _peak_mib()
  )


def _peak_mib() -> float:
  """Returns the largest resident set of this process, on Linux.

  getrusage would count what the process that started it had.
  """
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def _prompts(config: ModelConfig, args: argparse.Namespace) -> np.ndarray:
  shape = args.batch, args.prompt_tokens
  return np.random.default_rng(0).integers(0, config.vocab_size, shape)


def _bounds(config: ModelConfig, args: argparse.Namespace) -> Measured:
  """Returns the least times that this machine's memory and products allow."""
  n, x = 2048, jnp.ones(2**27, jnp.float32)  # Larger than any cache.
  square = jnp.ones((n, n), jnp.float32)
  byte_s = _best(jax.jit(jnp.sum), x) / x.nbytes
  flop_s = _best(jax.jit(jnp.matmul), square, square) / (2 * n**3)
  work = args.batch * flops.of_prefill(config, args.prompt_tokens)
  held = _weight_bytes(config)
  return Measured(work * flop_s, held * byte_s, held / 2**20)


def _weight_bytes(config: ModelConfig) -> int:
  shapes = trees.flatten(transformer.param_shapes(config))
  return sum(4 * leaf.size for leaf in shapes.values())


def _best(function: Callable, *inputs: jax.Array) -> float:
  """Returns the seconds of the fastest of five runs."""
  jax.block_until_ready(function(*inputs))
  times = []
  for _ in range(5):
    started = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    times.append(time.perf_counter() - started)
  return min(times)


_ROWS = {"ours": _ours, "transformers": _transformers, "bound": _bounds}


def _print_table(
  config: ModelConfig,
  args: argparse.Namespace,
  found: Mapping[str, Sequence[Mapping[str, float]]],
) -> None:
  B, S = args.batch, args.prompt_tokens
  print(f"{args.model}: batch {B}, {S:,} prompt tokens, {args.new_tokens} new")
  print(f"{'':14}{'prefill tok/s':>15}{'decode tok/s':>15}{'peak MiB':>11}")
  times = {
    (row, name): [one[name] for one in all_rounds]
    for row, all_rounds in found.items()
    for name in ("prefill_s", "decode_s", "peak_mib")
  }
  for row in found:
    prefill, step, peak = (
      statistics.median(times[row, name])
      for name in ("prefill_s", "decode_s", "peak_mib")
    )
    print(f"{row:14}{B * S / prefill:15,.0f}{B / step:15,.1f}{peak:11,.0f}")
  for row in ("transformers", "bound"):
    prefill, decode, peak = (
      rounds.ratio(times[above, name], times[below, name])
      for above, below, name in (
        (row, "ours", "prefill_s"),
        (row, "ours", "decode_s"),
        ("ours", row, "peak_mib"),
      )
    )
    print(
      f"ours, of {row}: prefill {prefill.median:.2f} times the rate, decode "
      f"{decode.median:.2f}, peak memory {peak.median:.2f}"
    )


if __name__ == "__main__":
  main()
