"""Prints what a long run takes of TPUs: hours, dollars, reads and checkpoints.

No compiler runs, so it does not say whether the step fits: `drope plan` does.
It counts FLOPs by the causal count at an assumed MFU, and takes prices on
demand from launch/prices.toml.

  python tools/scale_table.py --tokens 30e9
  python tools/scale_table.py --teacher --models llama3_70b

Source of peaks and prices: drope_jax/perf/flops.py and launch/prices.toml.
"""

import argparse
import tomllib
from typing import NamedTuple

import jax

from drope_jax import tpus, trees
from drope_jax.cli import configure
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.perf import flops
from launch import chips, prices

SLICES = {"v5e": "v5e-256", "v5p": "v5p-512", "v6e": "v6e-256"}
"""Of 256 chips each: Google counts a v5p's cores."""

_BYTES_A_TOKEN = 2  # uint16 of a vocabulary up to 65,536; uint32 beyond it.
_BYTES_A_WEIGHT = 12  # A float32 master and AdamW's two moments.
_SAVE_MINUTES = 10


class Row(NamedTuple):
  """One model on one slice.

  Attributes:
    chip_hours, hours: of all tokens.
    dollars: on demand.
    read_mb: read from stores, MB/s of the whole slice.
    save_gib: of one save.
    save_mb: written a second, on average, by each host.
  """

  chip_hours: float
  hours: float
  dollars: float
  read_mb: float
  save_gib: float
  save_mb: float


def row(
  config: ModelConfig,
  chip: str,
  *,
  tokens: float,
  mfu: float,
  teacher: bool,
  frozen: bool,
) -> Row:
  """Returns what a model's run takes of a chip's slice in `SLICES`.

  Args:
    config: the model's; it trains at its own context.
    chip: a key of `SLICES`.
    tokens: of the run.
    mfu: by the causal count.
    teacher: whether the model before the drop runs forward on every token.
    frozen: whether only q and k are trained, by adapters of rank 16.
  """
  weights = trees.count(jax.tree.leaves(transformer.param_shapes(config)))
  adapters, trained = 0, weights
  if frozen:
    N, M, D = config.num_layers, config.width, config.head_dim
    heads = config.num_heads, config.num_kv_heads
    adapters = trained = N * 16 * sum(M + H * D for H in heads)
  work = flops.of_token(
    config,
    config.context_tokens,
    frozen=weights - config.vocab_size * config.width if frozen else 0,
    adapters=adapters,
    teacher=config if teacher else None,
  )
  peak = flops.peak(tpus.KINDS[chip][0])
  assert peak is not None
  shape = chips.parse(SLICES[chip])
  chip_hours = tokens * work.causal / (peak * mfu) / 3600
  hours = chip_hours / shape.chips
  with prices.TABLE.open("rb") as file:
    price = tomllib.load(file)["on-demand"][chip]
  size = _BYTES_A_TOKEN * (1 + (config.vocab_size > 2**16))
  save_bytes = _BYTES_A_WEIGHT * trained
  return Row(
    chip_hours,
    hours,
    chip_hours * price,
    tokens / (hours * 3600) * size / 1e6,
    save_bytes / 2**30,
    save_bytes / (60 * _SAVE_MINUTES * shape.hosts) / 1e6,
  )


def main() -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--tokens", type=float, default=30e9)
  parser.add_argument("--mfu", type=float, default=0.5)
  parser.add_argument("--teacher", action="store_true")
  parser.add_argument("--lora", action="store_true", help="of q and k, rank 16")
  parser.add_argument(
    "--models",
    nargs="+",
    default=["smollm_360m", "smollm_1_7b", "llama2_7b", "llama3_70b"],
  )
  args = parser.parse_args()
  if min(args.tokens, args.mfu) <= 0:
    parser.error(
      "--tokens and --mfu must be above 0, got "
      f"{args.tokens:g} and {args.mfu:g}"
    )
  try:
    configs = {
      name: configure.build(f"models/{name}.gin", ModelConfig)
      for name in args.models
    }
  except FileNotFoundError as error:
    parser.error(str(error))
  print("| model | slice | chip-hours | hours | on demand | read | a save |")
  print("| --- | --- | --- | --- | --- | --- | --- |")
  for name, config in configs.items():
    for chip, slice_name in SLICES.items():
      found = row(
        config,
        chip,
        tokens=args.tokens,
        mfu=args.mfu,
        teacher=args.teacher,
        frozen=args.lora,
      )
      print(
        f"| {name} | {slice_name} | {found.chip_hours:,.0f} | "
        f"{found.hours:,.1f} | ${found.dollars:,.0f} | "
        f"{found.read_mb:,.1f} MB/s | {found.save_gib:,.1f} GiB, "
        f"{found.save_mb:,.2f} MB/s a host |"
      )


if __name__ == "__main__":
  main()
