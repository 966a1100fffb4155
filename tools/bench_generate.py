"""Compares generation on a CPU with others, and with what memory allows.

All have the same shape, random weights and the same prompts. Ours are loaded
from a checkpoint, and are float32 or, with --dtype, of fewer bits. transformers
makes its own, float32; it runs SDPA with a static cache, eager and compiled.
llama.cpp reads ours from a GGUF file, and has a float32 cache. Each prefills,
then decodes greedily. A round runs all of them and the bounds, one after the
other, in processes of their own. The bounds are the products of prefill at the
rate of one large matrix product, and reading all float32 weights once for each
decoding step. Peak memory is the largest resident set of a process. Figures are
medians over the rounds; ratios are taken within each.

  python tools/bench_generate.py
  python tools/bench_generate.py --batch 16
  python tools/bench_generate.py --dtype int8
  python tools/bench_generate.py --prompt-tokens 16384 --new-tokens 8 --once \
      --rounds 1 --rows ours transformers

llama.cpp is left out where llama-cpp-python and gguf are not installed.

Hardware: two CPU cores. Time: two minutes a round at the defaults.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import ctypes
import dataclasses
import functools
import importlib.util
import json
import os
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
from drope_jax.inference import batching, choice, decode, weights
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
  parser.add_argument(
    "--rows", nargs="+", choices=_ROWS, default=[*_ROWS], help="(default: all)"
  )
  parser.add_argument(
    "--once",
    action="store_true",
    help="run each once, for its peak memory; times include compilation",
  )
  parser.add_argument(
    "--cpu-time",
    action="store_true",
    help="measure CPU seconds, on one core that has other work too",
  )
  parser.add_argument("--row", choices=_ROWS, help=argparse.SUPPRESS)
  parser.add_argument("--checkpoint", help=argparse.SUPPRESS)
  args = parser.parse_args()
  config = configure.build(args.model, ModelConfig)
  if args.row is not None:
    print(json.dumps(dataclasses.asdict(_ROWS[args.row](config, args))))
    return
  rows = [row for row in _ROWS if row in args.rows]
  if "llama.cpp" in rows and not (
    importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("gguf")
  ):
    rows.remove("llama.cpp")
    print("Without llama.cpp, for which: pip install llama-cpp-python gguf")
  with tempfile.TemporaryDirectory() as folder:
    checkpoint = f"{folder}/random"
    init = jax.jit(transformer.init, static_argnums=0)
    params = init(config, jax.random.key(0))
    store.save_model(checkpoint, params, Manifest(config))
    if "llama.cpp" in rows:
      _write_gguf(config, params, f"{checkpoint}.gguf")
    del params

    def in_process(row: str) -> Mapping[str, float]:
      return rounds.in_process(row, "--checkpoint", checkpoint)

    found = rounds.in_turn(rows, args.rounds, in_process)
  _print_table(config, args, found)


def _ours(config: ModelConfig, args: argparse.Namespace) -> Measured:
  memory.keep_freed_memory()  # As the command does.
  with memory.while_loading():
    params, _ = store.load_model(
      args.checkpoint, convert=weights.holder(args.dtype, mesh=None)
    )
  B, S = args.batch, args.prompt_tokens
  tokens_BS = np.zeros((B, batching.bucket(S)), np.int32)
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
      max_tokens=tokens_BS.shape[1] + batching.LENGTH_MULTIPLE,
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


def _transformers(
  config: ModelConfig, args: argparse.Namespace, *, compiled: bool
) -> Measured:
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
  if compiled:
    model.forward = torch.compile(model.forward)
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


def _llama_cpp(config: ModelConfig, args: argparse.Namespace) -> Measured:
  import llama_cpp

  quiet = llama_cpp.llama_log_callback(lambda *_: None)
  llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
  (B, S), n = (args.batch, args.prompt_tokens), args.new_tokens
  cores = len(os.sched_getaffinity(0))
  model = llama_cpp.llama_model_load_from_file(
    f"{args.checkpoint}.gguf".encode(),
    llama_cpp.llama_model_default_params(),
  )
  options = llama_cpp.llama_context_default_params()
  options.n_ctx, options.n_seq_max, options.n_batch = B * (S + n), B, B * S
  options.n_outputs_max = B
  options.n_threads = options.n_threads_batch = cores
  options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
  context = llama_cpp.llama_init_from_model(model, options)
  batch = llama_cpp.llama_batch_init(B * S, 0, 1)

  def read(tokens_Bn: np.ndarray, first: int) -> np.ndarray:
    """Returns each row's next token."""
    last = tokens_Bn.shape[1] - 1
    batch.n_tokens = tokens_Bn.size
    for i, ((row, t), token) in enumerate(np.ndenumerate(tokens_Bn)):
      batch.token[i], batch.pos[i] = int(token), first + t
      batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
      batch.logits[i] = t == last
    if llama_cpp.llama_decode(context, batch):
      raise RuntimeError("llama.cpp could not decode.")
    return np.array(
      [
        np.ctypeslib.as_array(
          llama_cpp.llama_get_logits_ith(context, (row + 1) * (last + 1) - 1),
          (config.vocab_size,),
        ).argmax()
        for row in range(B)
      ]
    )

  def prefill() -> np.ndarray:
    memory = llama_cpp.llama_get_memory(context)
    llama_cpp.llama_memory_clear(memory, True)
    return read(_prompts(config, args), 0)

  def write(token_B: np.ndarray) -> np.ndarray:
    for i in range(n):
      token_B = read(token_B[:, None], S + i)
    return token_B

  return _measure(args, prefill, write, lambda state: state)


def _write_gguf(
  config: ModelConfig, params: transformer.Params, path: str
) -> None:
  """Writes a model of the Llama family, float32, without a tokenizer."""
  import gguf

  writer = gguf.GGUFWriter(path, "llama")
  writer.add_context_length(config.context_tokens)
  writer.add_embedding_length(config.width)
  writer.add_block_count(config.num_layers)
  writer.add_feed_forward_length(config.mlp_width)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  writer.add_rope_freq_base(config.positional.theta)
  writer.add_vocab_size(config.vocab_size)
  writer.add_tokenizer_model("no_vocab")
  found = {
    path: np.asarray(leaf) for path, leaf in trees.flatten(params).items()
  }
  writer.add_tensor("token_embd.weight", found["embed/table"])
  writer.add_tensor("output_norm.weight", found["final_norm/gain"])
  if not config.tied_embeddings:
    writer.add_tensor("output.weight", found["head/kernel"].T.copy())
  for i in range(config.num_layers):
    for theirs, ours in _GGUF_NAMES.items():
      leaf = found[f"layers/{ours}"][i]
      if theirs in ("attn_q", "attn_k"):  # Their rotary pairs are adjacent.
        leaf = leaf.reshape(config.width, -1, 2, config.head_dim // 2)
        leaf = leaf.swapaxes(2, 3).reshape(config.width, -1)
      writer.add_tensor(f"blk.{i}.{theirs}.weight", leaf.T.copy())
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


_GGUF_NAMES = {
  "attn_norm": "attention_norm/gain",
  "attn_q": "attention/q/kernel",
  "attn_k": "attention/k/kernel",
  "attn_v": "attention/v/kernel",
  "attn_output": "attention/o/kernel",
  "ffn_norm": "mlp_norm/gain",
  "ffn_gate": "mlp/gate/kernel",
  "ffn_up": "mlp/up/kernel",
  "ffn_down": "mlp/down/kernel",
}


def _measure(
  args: argparse.Namespace,
  prefill: Callable,
  write: Callable,
  finish: Callable,
) -> Measured:
  """Returns the times of a second run, after one that compiles."""
  clock = time.process_time if args.cpu_time else time.perf_counter
  if not args.once:
    finish(write(finish(prefill())))
  started = clock()
  state = finish(prefill())
  read = clock()
  finish(write(state))
  written = clock()
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
  clock = time.process_time if args.cpu_time else time.perf_counter
  byte_s = _best(clock, jax.jit(jnp.sum), x) / x.nbytes
  flop_s = _best(clock, jax.jit(jnp.matmul), square, square) / (2 * n**3)
  work = args.batch * flops.of_prefill(config, args.prompt_tokens)
  shapes = trees.flatten(transformer.param_shapes(config))
  held = trees.num_bytes(shapes.values())
  return Measured(work * flop_s, held * byte_s, held / 2**20)


def _best(clock: Callable, function: Callable, *inputs: jax.Array) -> float:
  """Returns the seconds of the fastest of five runs."""
  jax.block_until_ready(function(*inputs))
  times = []
  for _ in range(5):
    started = clock()
    jax.block_until_ready(function(*inputs))
    times.append(clock() - started)
  return min(times)


_ROWS = {
  "ours": _ours,
  "transformers": functools.partial(_transformers, compiled=False),
  "torch.compile": functools.partial(_transformers, compiled=True),
  "llama.cpp": _llama_cpp,
  "bound": _bounds,
}


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
  for row in [*found][1:] if "ours" in found else []:
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
