"""Times a training step on this machine, as ratios within one run.

Each row is a fresh process that compiles a step and times it; the rows take
turns, round after round, so that a busy neighbour slows all alike. Time is a
ratio to the first row's and, as "matmul", the share of the step that its
matrix products alone would take at the rate of one [tokens, width] @ [width,
mlp_width] product, timed in the same process (causal count of attention).

python tools/bench_step.py
python tools/bench_step.py --model models/demo.gin --batch 32 --tokens 128
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import sharding
from drope_jax.cli import configure, memory
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.train import flops, optimizer, recipe
from drope_jax.train import step as steps

_ROWS = {
  "blockwise": ["--backend", "blockwise"],
  "reference": ["--backend", "reference"],
  "blockwise, layers unrolled": ["--backend", "blockwise", "--unroll"],
  "blockwise, remat full": ["--backend", "blockwise", "--remat", "full"],
  "blockwise, freed memory given back": ["--give-back"],
}


def main() -> None:
  """Times every row in turn, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", default="models/demo.gin", metavar="MODEL.gin")
  parser.add_argument("--batch", type=int, default=8, metavar="B")
  parser.add_argument("--tokens", type=int, default=512, metavar="S")
  parser.add_argument("--accumulation", type=int, default=1, metavar="N")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--backend", default="blockwise", help=argparse.SUPPRESS)
  parser.add_argument("--remat", default="none", help=argparse.SUPPRESS)
  parser.add_argument("--unroll", action="store_true", help=argparse.SUPPRESS)
  parser.add_argument(
    "--give-back", action="store_true", help=argparse.SUPPRESS
  )
  parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.row:
    print(json.dumps(_time_row(args)))
    return
  times = {name: [] for name in _ROWS}
  shares = {name: [] for name in _ROWS}
  for _ in range(args.rounds):
    for name, flags in _ROWS.items():
      command = [sys.executable, __file__, *sys.argv[1:], *flags, "--row"]
      out = subprocess.run(command, check=True, stdout=subprocess.PIPE)
      step_s, share = json.loads(out.stdout)
      times[name].append(step_s)
      shares[name].append(share)
  first = next(iter(_ROWS))
  print(f"{'':36}{'ms':>8}{'tokens/s':>10}{'ratio':>7}{'matmul':>8}")
  for name in _ROWS:
    step_s = statistics.median(times[name])
    ratio = statistics.median(
      a / b for a, b in zip(times[name], times[first], strict=True)
    )
    print(
      f"{name:36}{step_s * 1e3:8.0f}{args.batch * args.tokens / step_s:10.0f}"
      f"{ratio:7.2f}{statistics.median(shares[name]):8.2f}"
    )


def _time_row(args: argparse.Namespace) -> tuple[float, float]:
  """Returns the median seconds of a step, and its products' share of them."""
  if not args.give_back:
    memory.keep_freed_memory()
  config = configure.build(args.model, ModelConfig)
  phase = recipe.TrainPhase(
    name="bench",
    data=DataConfig(stores=("none",)),
    batch_size=args.batch,
    context_tokens=args.tokens,
    optimizer=optimizer.Muon(),
    schedule=optimizer.Constant(1e-3),
    steps=1000,
    accumulation=args.accumulation,
    remat=args.remat,
    unroll=args.unroll,
  )
  params = transformer.init(config, jax.random.key(0))
  state = steps.init_state(phase, params, 0)
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  schedule = phase.schedule.over(phase.num_steps, phase.step_tokens)
  step = jax.jit(
    steps.make_step(config, phase, schedule, args.backend, mesh),
    donate_argnums=0,
  )
  ids_BS = np.random.default_rng(0).integers(
    0, config.vocab_size, (args.batch, args.tokens), dtype=np.int32
  )
  batch = {
    "inputs_BS": ids_BS,
    "targets_BS": ids_BS,
    "segments_BS": np.ones_like(ids_BS),
    "weights_BS": np.ones(ids_BS.shape, np.float32),
  }
  step_times = []
  for _ in range(10):
    start = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))
    step_times.append(time.perf_counter() - start)
  step_s = statistics.median(step_times[2:])
  products = flops.of_token(config, args.tokens).causal * ids_BS.size
  bound_s = products / _rate(ids_BS.size, config)
  return step_s, bound_s / step_s


def _rate(tokens: int, config: ModelConfig) -> float:
  """Returns operations a second of one of the model's products."""
  x = jnp.ones((tokens, config.width))
  kernel = jnp.ones((config.width, config.mlp_width))
  product = jax.jit(jnp.matmul)
  product_times = []
  for _ in range(50):
    start = time.perf_counter()
    jax.block_until_ready(product(x, kernel))
    product_times.append(time.perf_counter() - start)
  return 2 * x.size * config.mlp_width / statistics.median(product_times)


if __name__ == "__main__":
  main()
