"""Holds attention on a GPU to the reference, and times a step beside torch's.

First, the error of the library's attention, forward and backward, against the
reference in float32: a Frobenius norm over the reference's. One beyond its
tolerance makes the exit status 1.

Second, tokens/s of a training step (forward, backward, clipping, AdamW;
float32 master weights) of drope_jax and of transformers' Llama of the same
shape. Each round runs either in a fresh process, one after the other. torch
computes under autocast from float32 weights, or with --torch-params bfloat16
from weights that have no float32 master; attention is flash_attention_2 if
installed, else SDPA; AdamW is fused, and on a GPU the model is compiled.

MFU is the FLOPs of drope_jax/perf/flops.py over the device's peak, by the
non-causal and by the causal count.

python tools/bench_gpu.py --json gpu.json
python tools/bench_gpu.py --model models/tiny.gin --batch 2 --tokens 64
"""

import argparse
from collections.abc import Iterator
import contextlib
import importlib.util
import json
import pathlib
import statistics
import sys
import time
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax import attention, sharding
from drope_jax.attention import Mask
from drope_jax.checkpoint.formats import hf_config
from drope_jax.cli import configure
from drope_jax.data.pipeline import DataConfig
from drope_jax.model import backend as backends
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import flops, rounds
from drope_jax.train import optimizer, phases
from drope_jax.train import state as states
from drope_jax.train import step as steps

_WARMUP_STEPS = 3

# float32's is for products in TF32, a GPU's default.
_TOLERANCES = {"bfloat16": 1e-2, "float32": 2e-3}


def main() -> None:
  """Runs both parts, each process in turn, and prints what they found."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--model", default="models/smollm_360m.gin", metavar="MODEL.gin"
  )
  parser.add_argument("--batch", type=int, default=8, metavar="B")
  parser.add_argument("--tokens", type=int, default=2048, metavar="S")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=20, help="timed, a round")
  parser.add_argument("--part", choices=["correctness", "speed"])
  parser.add_argument("--dtype", choices=_TOLERANCES, default="bfloat16")
  parser.add_argument(
    "--torch-params", choices=_TOLERANCES, default="float32", help="its weights"
  )
  parser.add_argument("--no-compile", action="store_true", help="of torch's")
  parser.add_argument("--unroll", action="store_true", help="our layers")
  parser.add_argument(
    "--peak-tflops", type=float, help="of the device; known of A100, H100, H200"
  )
  parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
  parser.add_argument("--row", choices=_ROWS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.row:
    print(json.dumps(_ROWS[args.row](args)))
    return
  required = () if args.part == "correctness" else ("torch", "transformers")
  missing = [name for name in required if not importlib.util.find_spec(name)]
  if missing:
    _refuse(
      "The comparison needs torch and transformers, got no "
      f"{' and no '.join(missing)}. Install them, or pass --part correctness."
    )
  found: dict[str, Any] = {}
  if args.part != "speed":
    found["correctness"] = rounds.in_process("correctness")
    _print_correctness(found["correctness"])
  if args.part != "correctness":
    found["speed"] = _compare_speed(args)
    _print_speed(found["speed"])
  if args.json:
    args.json.write_text(json.dumps(found, indent=2) + "\n")
  if not all(row["passed"] for row in found.get("correctness", [])):
    sys.exit(1)


def attention_errors(
  config: ModelConfig, context_tokens: int
) -> Iterator[dict[str, Any]]:
  """Yields a row for each library backend and mask.

  cuDNN runs on a GPU alone, and in bfloat16 alone. A row names backend, dtype
  and mask, and says whether it passed; it has "errors" of out, dq, dk and dv,
  or "refused", what the backend raised.

  Args:
    config: whose heads attend.
    context_tokens: keys; queries too, but with an offset, where half as many.
  """
  kinds = [("xla", "bfloat16"), ("xla", "float32")]
  if jax.default_backend() == "gpu":
    kinds.insert(0, ("cudnn", "bfloat16"))
  B, T, D = 2, context_tokens, config.head_dim
  H, K = config.num_heads, config.num_kv_heads
  # Documents that end apart in the two rows, and off any tile's edge.
  segments_BT = np.stack(
    [np.arange(T) * 3 // T, np.arange(T) > 0.4 * T]
  ).astype(np.int32)
  masks = {
    "causal": (T, Mask()),
    "window": (T, Mask(window=T // 3)),
    "segments": (T, Mask(q_segment_BS=segments_BT, k_segment_BT=segments_BT)),
    "offset": (T // 2, Mask(offset_B=np.array([T // 2, T // 4], np.int32))),
  }
  for backend, dtype in kinds:
    for name, (S, mask) in masks.items():
      row = {"backend": backend, "dtype": dtype, "mask": name}
      keys = jax.random.split(jax.random.key(0), 4)
      shapes = [(B, S, H, D), (B, T, K, D), (B, T, K, D), (B, S, H, D)]
      *inputs, cotangent_BSHD = (
        jax.random.normal(key, shape, dtype)
        for key, shape in zip(keys, shapes, strict=True)
      )
      want = _outputs("reference", mask, inputs, cotangent_BSHD, "float32")
      try:
        got = _outputs(backend, mask, inputs, cotangent_BSHD, dtype)
      except (RuntimeError, ValueError) as error:
        yield row | {"passed": False, "refused": str(error).splitlines()[0]}
        continue
      errors = [
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(got, want, strict=True)
      ]
      passed = all(error <= _TOLERANCES[dtype] for error in errors)
      yield row | {"passed": passed, "errors": errors}


def _outputs(backend, mask, inputs, cotangent_BSHD, dtype) -> list[np.ndarray]:
  """Returns out, dq, dk and dv, in float64."""

  # The mask's window is a constant, as a layer's is.
  def run(inputs, cotangent_BSHD):
    out_BSHD, pull_back = jax.vjp(
      lambda q, k, v: attention.attend(q, k, v, mask=mask, backend=backend),
      *(x.astype(dtype) for x in inputs),
    )
    return out_BSHD, *pull_back(cotangent_BSHD.astype(dtype))

  outputs = jax.jit(run)(inputs, cotangent_BSHD)
  return [np.asarray(x, np.float64) for x in outputs]


def _devices_row(args: argparse.Namespace) -> dict[str, str]:
  import torch

  on_gpu = torch.cuda.is_available()
  return {
    "jax": jax.devices()[0].device_kind,
    "torch": torch.cuda.get_device_name() if on_gpu else "cpu",
  }


def _correctness_row(args: argparse.Namespace) -> list[dict[str, Any]]:
  config = configure.build(args.model, ModelConfig)
  return list(attention_errors(config, args.tokens))


def _ours_row(args: argparse.Namespace) -> dict[str, Any]:
  config = configure.build(args.model, ModelConfig)
  backend = backends.resolve("auto", config, args.dtype, jax.devices()[0])
  phase = phases.TrainPhase(
    name="bench",
    data=DataConfig(stores=("none",)),
    batch_size=args.batch,
    context_tokens=args.tokens,
    optimizer=optimizer.AdamW(),
    schedule=optimizer.Constant(1e-4),
    steps=_WARMUP_STEPS + args.steps,
    compute_dtype=args.dtype,
    unroll=args.unroll,
  )
  params = transformer.init(config, jax.random.key(0))
  num_params = sum(x.size for x in jax.tree.leaves(params))
  mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
  state = states.start(phase, config, mesh, params, 0)
  schedule = phase.schedule.over(phase.num_steps, phase.step_tokens)
  step = steps.jitted(config, phase, schedule, backend, mesh)
  ids_BS = jnp.asarray(_token_ids(config, args))
  batch = {
    "inputs_BS": ids_BS,
    "targets_BS": ids_BS,
    "segments_BS": jnp.ones_like(ids_BS),
    "weights_BS": jnp.ones(ids_BS.shape),
  }

  def take() -> None:
    nonlocal state
    state, metrics = step(state, batch)
    jax.block_until_ready((state, metrics))

  return {
    "how": f"jax {jax.__version__}, {backend} attention, {args.dtype}",
    "parameters": num_params,
    "step_s": _median_step_s(take, args.steps),
  }


def _theirs_row(args: argparse.Namespace) -> dict[str, Any]:
  # Here alone: the correctness part needs neither.
  import torch
  import transformers

  on_gpu = torch.cuda.is_available()
  device = "cuda" if on_gpu else "cpu"
  flash = transformers.utils.is_flash_attn_2_available()
  kernel = "flash_attention_2" if flash else "sdpa"
  config = configure.build(args.model, ModelConfig)
  fields = hf_config.to_dict(config, "llama") | {"use_cache": False}
  model = transformers.AutoModelForCausalLM.from_config(
    transformers.LlamaConfig(**fields), attn_implementation=kernel
  )
  model = model.to(device, getattr(torch, args.torch_params)).train()
  num_params = model.num_parameters()
  adamw = torch.optim.AdamW(
    model.parameters(), lr=1e-4, weight_decay=0.0, fused=True
  )
  compiled = on_gpu and not args.no_compile
  forward = torch.compile(model) if compiled else model
  ids_BS = torch.as_tensor(_token_ids(config, args), device=device).long()
  cast = contextlib.nullcontext()
  if args.dtype != args.torch_params:
    cast = torch.autocast(device, getattr(torch, args.dtype))

  def take() -> None:
    with cast:
      loss = forward(input_ids=ids_BS, labels=ids_BS).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad()
    if on_gpu:
      torch.cuda.synchronize()

  return {
    "how": f"torch {torch.__version__}, transformers "
    f"{transformers.__version__}, {kernel}, {args.dtype} from "
    f"{args.torch_params} weights, {'' if compiled else 'not '}compiled",
    "parameters": num_params,
    "step_s": _median_step_s(take, args.steps),
  }


_ROWS = {
  "devices": _devices_row,
  "correctness": _correctness_row,
  "ours": _ours_row,
  "theirs": _theirs_row,
}


def _token_ids(config: ModelConfig, args: argparse.Namespace) -> np.ndarray:
  return np.random.default_rng(0).integers(
    0, config.vocab_size, (args.batch, args.tokens), dtype=np.int32
  )


def _median_step_s(take, num_steps: int) -> float:
  for _ in range(_WARMUP_STEPS):
    take()
  step_times = []
  for _ in range(num_steps):
    start = time.perf_counter()
    take()
    step_times.append(time.perf_counter() - start)
  return statistics.median(step_times)


def _refuse(message: str) -> NoReturn:
  print(message, file=sys.stderr)
  sys.exit(2)


def _compare_speed(args: argparse.Namespace) -> dict[str, Any]:
  devices = rounds.in_process("devices")
  device = devices["jax"]
  if device != devices["torch"]:
    _refuse(
      f"A comparison needs one device, got {device} in JAX and "
      f"{devices['torch']} in torch. Install both for the same device."
    )
  found = rounds.in_turn(("ours", "theirs"), args.rounds, rounds.in_process)
  num_params = found["ours"][0]["parameters"]
  assert num_params == found["theirs"][0]["parameters"]
  peak = None
  if args.peak_tflops:
    peak = args.peak_tflops * 1e12
  elif args.dtype == "bfloat16":
    peak = flops.peak(device)
  step_tokens = args.batch * args.tokens
  work = flops.of_token(
    configure.build(args.model, ModelConfig), args.tokens
  )._asdict()
  step_s = {
    name: [row["step_s"] for row in rows] for name, rows in found.items()
  }
  sides = {}
  for name, rows in found.items():
    tokens_per_s = step_tokens / statistics.median(step_s[name])
    sides[name] = {"how": rows[0]["how"], "tokens_per_s": tokens_per_s}
    for count in work if peak else ():
      sides[name][f"mfu_{count}"] = work[count] * tokens_per_s / peak
  return {
    "device": device,
    "peak_tflops": peak and peak / 1e12,
    "parameters": num_params,
    "batch": args.batch,
    "context_tokens": args.tokens,
    **sides,
    "ratio": rounds.ratio(step_s["theirs"], step_s["ours"]).median,
    "step_s": step_s,
  }


def _print_correctness(rows: list[dict[str, Any]]) -> None:
  print(f"{'':26}{'out':>9}{'dq':>9}{'dk':>9}{'dv':>9}")
  for row in rows:
    errors = "".join(f"{error:9.1e}" for error in row.get("errors", []))
    verdict = "pass" if row["passed"] else "FAIL"
    label = f"{row['backend']} {row['dtype']} {row['mask']}"
    print(f"{label:26}{errors}  {verdict} {row.get('refused', '')}".rstrip())


def _print_speed(speed: dict[str, Any]) -> None:
  print(
    f"{speed['device']}: {speed['parameters']:,} parameters, "
    f"{speed['batch']} x {speed['context_tokens']} tokens a step"
  )
  for name in ("ours", "theirs"):
    side = speed[name]
    shares = ""
    if speed["peak_tflops"]:
      shares = (
        f", MFU {side['mfu_noncausal']:.1%} non-causal, "
        f"{side['mfu_causal']:.1%} causal"
      )
    print(f"{name}: {side['tokens_per_s']:,.0f} tokens/s{shares}")
    print(f"  {side['how']}")
  print(f"ratio of tokens/s, ours to theirs: {speed['ratio']:.2f}")
  if not speed["peak_tflops"]:
    print("no MFU: the device's peak is not known; pass --peak-tflops")


if __name__ == "__main__":
  main()
