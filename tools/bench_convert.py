"""Measures a conversion's memory and time on a made checkpoint.

Writes a Llama of random bfloat16 weights in shards, converts it by
`drope convert` in a process of its own, and copies the same bytes with `cp`
and a flush to the same disk, in turns. What they write stays until the end, so
that the page cache fills the memory, as on a machine in use: a virtual machine
may have to fetch memory that was free from its host, at up to ten times the
cost of the write, which the first rounds show.

python tools/bench_convert.py --folder /disk/with/room --layers 22
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from drope_jax import trees
from drope_jax.checkpoint.formats import (
  families,
  hf_config,
  leaves,
  safetensors_io,
  tensors,
)
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

# Runs the command and then says what it took at most, in KiB. (getrusage would
# count what this process held when it forked.)
_MEASURED = """
import re, sys
from drope_jax.cli import main
status = main.main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
sys.exit(status)
"""


def main() -> None:
  """Prints the figures, one a line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--folder",
    default=tempfile.gettempdir(),
    help="of a disk with room for the checkpoint 1 + 2 x rounds times",
  )
  parser.add_argument(
    "--layers",
    type=int,
    default=22,
    help="of 101 million parameters each, beside 788 million in embedding and "
    "head (default: %(default)s)",
  )
  parser.add_argument("--rounds", type=int, default=4)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
    _measure(pathlib.Path(scratch), args.layers, args.rounds)


def _measure(folder: pathlib.Path, num_layers: int, rounds: int) -> None:
  source = folder / "source"
  largest = _make(source, num_layers)
  files = sorted(source.glob("*.safetensors"))
  total = sum(file.stat().st_size for file in files)
  print(f"checkpoint: {total / 1e9:.2f} GB in {len(files)} shards")
  print(f"largest tensor: {largest / 2**30:.2f} GiB")
  copying, converting, peaks = [], [], []
  for i in range(rounds):
    copying.append(_copy(source, folder / f"copy{i}"))
    seconds, peak = _convert(source, folder / f"out{i}")
    converting.append(seconds)
    peaks.append(peak)
    print(f"cp {copying[-1]:.1f} s, convert {seconds:.1f} s", flush=True)
  bound = 2 * largest + 2**30
  print(f"peak memory: {max(peaks) / 2**30:.2f} GiB of {bound / 2**30:.2f} GiB")
  print(f"cp and flush: {min(copying):.1f} s")
  print(f"drope convert and flush: {min(converting):.1f} s")
  print(f"ratio: {min(converting) / min(copying):.2f}")


def _copy(source: pathlib.Path, copy: pathlib.Path) -> float:
  """Returns the seconds `cp` and a flush take."""
  start = time.perf_counter()
  subprocess.run(["cp", "-r", source, copy], check=True)
  subprocess.run(["sync", "-f", copy], check=True)
  return time.perf_counter() - start


def _convert(source: pathlib.Path, out: pathlib.Path) -> tuple[float, int]:
  """Returns the seconds `drope convert` and a flush take, and peak bytes."""
  start = time.perf_counter()
  ran = subprocess.run(
    [sys.executable, "-c", _MEASURED, "convert", source, "--out", out],
    check=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    text=True,
  )
  subprocess.run(["sync", "-f", out], check=True)
  return time.perf_counter() - start, 1024 * int(ran.stdout.split()[-1])


def _make(folder: pathlib.Path, num_layers: int) -> int:
  """Writes the checkpoint; returns the largest tensor's bytes."""
  config = ModelConfig(
    vocab_size=128_256,
    num_layers=num_layers,
    width=3072,
    num_heads=24,
    num_kv_heads=8,
    head_dim=128,
    mlp_width=8192,
    context_tokens=8192,
  )
  folder.mkdir()
  fields = hf_config.to_dict(config, "llama")
  (folder / hf_config.FILENAME).write_text(json.dumps(fields))
  bfloat16 = tensors.FLOATS["bfloat16"]
  names = families.FAMILIES["llama"].names
  shapes = trees.flatten(transformer.param_shapes(config))
  entries = [
    safetensors_io.Entry(name, leaves.source_shape(path, leaf.shape), bfloat16)
    for path, leaf in shapes.items()
    for name in leaves.source_names(config, names, path)
  ]
  # One random tensor, cut to each shape: to make each would take longer.
  largest = max(math.prod(entry.shape) for entry in entries)
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(largest, np.float32).astype(bfloat16)
  safetensors_io.write(
    folder,
    entries,
    (noise[: math.prod(e.shape)].reshape(e.shape) for e in entries),
  )
  return largest * bfloat16.itemsize


if __name__ == "__main__":
  main()
