"""Times a training step on a CPU beside transformers' with torch's AdamW.

A step is forward, backward, clipping and AdamW in float32: as `drope train`
compiles it here, and as transformers' Llama takes it with torch's fused AdamW,
eager or under torch.compile. Each row is a fresh process on the same cores that
starts from the same weights and reads the same batch; rows take turns, round
after round, so that a busy neighbor slows all alike. Exit status 1: the losses
of the first steps differ by more than 1e-4. One row more is our step with a
teacher, which is the first weights; its losses are others.

"ratio" is our tokens/s over the row's, in the median of rounds, and its range;
"CPU" is that of the processor's seconds, which a busy neighbor changes less.
"peak" is the rate of the model's own matrix products (of each kernel with the
batch, forward and twice backward), each timed alone in the same process, and
"share" the step's operations a second over that, attention's count causal.

python tools/bench_train.py --json train.json
python tools/bench_train.py --model models/smollm_135m.gin --batch 4
"""

import argparse
from collections.abc import Callable
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import parameters, sharding, trees
from drope_jax.checkpoint.formats import families, hf_config, leaves
from drope_jax.cli import configure, memory
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import backend as backends
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import flops, rounds
from drope_jax.train import optimizer, phases
from drope_jax.train import state as states
from drope_jax.train import step as steps
from drope_jax.train.teacher import Teacher

_WARM_UP_STEPS = 2
_PRODUCT_RUNS = 5
_RATE = 1e-4
_LOSS_ATOL = 1e-4
_TAUGHT = "drope_jax, with a teacher"


def main() -> None:
  """Times every row in turn, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model", default="models/stories_15m.gin", metavar="MODEL.gin"
  )
  parser.add_argument("--batch", type=int, default=8, metavar="B")
  parser.add_argument("--tokens", type=int, default=256, metavar="S")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--steps", type=int, default=5, help="timed, a round")
  parser.add_argument("--rows", nargs="+", choices=_ROWS, default=[*_ROWS])
  parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
  parser.add_argument("--row", choices=_ROWS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.row:
    print(json.dumps(_ROWS[args.row](args)))
    return
  found = rounds.in_turn(args.rows, args.rounds, rounds.in_process)
  _print(found, args)
  if args.json:
    figures = vars(args) | {"json": None, "found": found}
    args.json.write_text(json.dumps(figures, indent=1) + "\n")
  losses = [
    row["losses"]
    for name, rows in found.items()
    for row in rows
    if name != _TAUGHT
  ]
  if losses and np.ptp(losses, axis=0).max() > _LOSS_ATOL:
    sys.exit(f"Losses must agree to {_LOSS_ATOL}, got {losses}.")


def _print(found: dict[str, list[dict[str, Any]]], args) -> None:
  def column(name: str, key: str) -> np.ndarray:
    return np.array([row[key] for row in found[name]])

  print(
    f"{'':28}{'tokens/s':>9}{'ratio':>7}{'range':>12}{'CPU':>6}"
    f"{'GFLOP/s':>9}{'peak':>6}{'share':>7}"
  )
  first = args.rows[0]
  for name in found:
    step_s = column(name, "step_s")
    ratio = rounds.ratio(step_s, column(first, "step_s"))
    cpu = rounds.ratio(column(name, "cpu_s"), column(first, "cpu_s"))
    rates = column(name, "flops") / step_s
    peaks = column(name, "peak")
    print(
      f"{name:28}{args.batch * args.tokens / np.median(step_s):9.0f}"
      f"{ratio.median:7.2f}{ratio.least:7.2f}-{ratio.most:4.2f}"
      f"{cpu.median:6.2f}"
      f"{np.median(rates) / 1e9:9.0f}{np.median(peaks) / 1e9:6.0f}"
      f"{np.median(rates / peaks):7.0%}"
    )


def _ours(args: argparse.Namespace, taught: bool = False) -> dict[str, Any]:
  memory.keep_freed_memory()
  config = configure.build(args.model, ModelConfig)
  phase = phases.TrainPhase(
    name="bench",
    data=DataConfig(stores=("none",)),
    batch_size=args.batch,
    context_tokens=args.tokens,
    optimizer=optimizer.AdamW(),
    schedule=optimizer.Constant(_RATE),
    steps=_WARM_UP_STEPS + args.steps,
    teacher=Teacher() if taught else None,
  )
  backend = backends.resolve("auto", config, "float32", jax.devices()[0])
  mesh = sharding.make_mesh(sharding.MeshConfig())
  state = states.start(phase, config, mesh, _params(config), 0)
  step = steps.jitted(
    config,
    phase,
    phase.schedule.over(phase.num_steps, phase.step_tokens),
    backend,
    mesh,
    (config, backend) if taught else None,
  )
  ids_BS = _ids(config, args)
  # The last token's target is in the next batch.
  weights_BS = np.ones(ids_BS.shape, np.float32)
  weights_BS[:, -1] = 0
  batch = {
    "inputs_BS": ids_BS,
    "targets_BS": np.roll(ids_BS, -1, axis=1),
    "segments_BS": np.ones_like(ids_BS),
    "weights_BS": weights_BS,
  }

  teacher_params = _params(config) if taught else None

  def take() -> float:
    nonlocal state
    state, metrics = step(state, batch, {}, teacher_params)
    jax.block_until_ready(state)
    return float(metrics["loss"])

  def multiply(*shapes):
    product = jax.jit(jnp.matmul)
    x, y = (jnp.ones(shape) for shape in shapes)
    return lambda: jax.block_until_ready(product(x, y))

  return _timed(take, multiply, config, args, config if taught else None)


def _theirs(args: argparse.Namespace, compiled: bool) -> dict[str, Any]:
  # Here alone: our own row needs neither.
  import torch
  import transformers

  config = configure.build(args.model, ModelConfig)
  fields = hf_config.to_dict(config, "llama")
  model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
  names = families.FAMILIES["llama"].names
  weights = {}
  for path, leaf in trees.flatten(_params(config)).items():
    parameter = parameters.describe(path)
    layers = leaf if parameter.is_stacked else leaf[None]
    turned = layers.mT if parameter.is_matrix else layers
    sources = leaves.source_names(config, names, path)
    for name, array in zip(sources, turned, strict=True):
      weights[name] = torch.tensor(np.asarray(array))
  if config.tied_embeddings:
    weights[names["head/kernel"]] = weights[names["embed/table"]]
  model.load_state_dict(weights)
  model.train()
  adamw = torch.optim.AdamW(
    model.parameters(), lr=_RATE, weight_decay=0.0, fused=True
  )
  forward = torch.compile(model) if compiled else model
  ids_BS = torch.tensor(_ids(config, args)).long()

  def take() -> float:
    loss = forward(input_ids=ids_BS, labels=ids_BS, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad()
    return loss.item()

  def multiply(*shapes):
    x, y = (torch.ones(shape) for shape in shapes)
    return lambda: x @ y

  return _timed(take, multiply, config, args)


_ROWS = {
  "drope_jax": _ours,
  _TAUGHT: lambda args: _ours(args, taught=True),
  "transformers, torch": lambda args: _theirs(args, compiled=False),
  "transformers, torch.compile": lambda args: _theirs(args, compiled=True),
}


def _params(config: ModelConfig) -> transformer.Params:
  return transformer.init(config, jax.random.key(0))


def _ids(config: ModelConfig, args: argparse.Namespace) -> np.ndarray:
  return np.random.default_rng(0).integers(
    0, config.vocab_size, (args.batch, args.tokens), dtype=np.int32
  )


def _timed(
  take: Callable[[], float],
  multiply: Callable[..., Callable[[], Any]],
  config: ModelConfig,
  args: argparse.Namespace,
  teacher: ModelConfig | None = None,
) -> dict[str, Any]:
  tokens = args.batch * args.tokens
  operations = flops.of_token(config, args.tokens, teacher=teacher)
  losses, step_times, cpu_times = [], [], []
  for _ in range(_WARM_UP_STEPS + args.steps):
    start, cpu_start = time.perf_counter(), time.process_time()
    losses.append(take())
    step_times.append(time.perf_counter() - start)
    cpu_times.append(time.process_time() - cpu_start)
  return {
    "losses": losses[: _WARM_UP_STEPS + 1],
    "step_s": statistics.median(step_times[_WARM_UP_STEPS:]),
    "cpu_s": statistics.median(cpu_times[_WARM_UP_STEPS:]),
    "flops": tokens * operations.causal,
    "peak": _peak(multiply, config, tokens),
  }


def _peak(multiply, config: ModelConfig, tokens: int) -> float:
  """Returns operations a second of the products with the model's kernels."""
  shapes = trees.flatten(transformer.param_shapes(config))
  kernels = [
    (leaf.shape[-2:], leaf.size)
    for path, leaf in shapes.items()
    if parameters.describe(path).is_matrix
  ]
  if config.tied_embeddings:
    table = shapes["embed/table"]
    kernels.append((table.shape[::-1], table.size))
  operations = total_s = 0
  for (M, I), size in kernels:
    for x, y in (
      ((tokens, M), (M, I)),
      ((tokens, I), (I, M)),
      ((M, tokens), (tokens, I)),
    ):
      product = multiply(x, y)
      product()
      times = []
      for _ in range(_PRODUCT_RUNS):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
      operations += 2 * tokens * size
      total_s += statistics.median(times) * size / (M * I)
  return operations / total_s


if __name__ == "__main__":
  main()
