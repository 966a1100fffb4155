"""Trains and evaluates a sweep of drops: which part of RoPE to keep.

A variant of the demo's base keeps its fastest pairs (no pair: the paper's drop;
all pairs: RoPE with more training), or RoPE only in layer 0 within a window, or
all of RoPE with theta raised. All variants have the same data and steps, for
three seeds, and the same questions. At 1.0M tokens the base is the teacher of
each drop, as in `drope demo`; at 6.2M there is no teacher. The base is
evaluated first, and each variant directly after its training. The same command
resumes. To run several commands at once, give each its own variants, and
evaluate the base before.

  python tools/demo_data.py --out runs/demo_data
  python tools/ladder.py --data runs/demo_data --out runs/ladder
  python tools/ladder.py --data runs/demo_data --out runs/ladder_10k --base CKPT

The models of `drope demo`, with three seeds and more questions:
--tokens 1.0M --drops keep12 keep16 --suite evals/demo_many.gin

It writes OUT/NAME/results.json for each NAME. --keep copies these files and
metrics.jsonl to another folder, without the checkpoints.

Hardware: a CPU core. Time of a variant, at 1,900 tokens/s: 9 minutes at 1.0M
tokens, an hour at 6.2M, and about 5 minutes of evaluation.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

from drope_jax.checkpoint import store
from drope_jax.data import paths


class Size(NamedTuple):
  """How long a variant trains.

  Attributes:
    recipe: a shipped recipe.
    phases: names of its training phases.
  """

  recipe: str
  phases: tuple[str, ...]


SIZES = {
  "1.0M": Size("recipes/demo_live.gin", ("recalibrate",)),
  "6.2M": Size(
    "recipes/demo_drope.gin",
    ("recalibrate_128", "recalibrate_256", "recalibrate"),
  ),
}
_ALL = "Surgery.keep_rotations = None"  # Undoes the recipe's own choice.


def _keep(pairs: int) -> tuple[str, ...]:
  return _ALL, f"Surgery.keep_pairs = {pairs}"


_DROPS = {
  "keep12": _keep(12),
  "keep0": (_ALL,),
  "keep16": None,  # No surgery: RoPE with more training.
  "keep8": _keep(8),
  "keep6": _keep(6),
  "window": (
    _ALL,
    "Surgery.drop = (1, 2, 3, 4, 5)",
    "Surgery.windows = ((0, 32),)",
  ),
  "keep3": _keep(3),
  "theta": (_ALL, "Surgery.drop = 'none'", "Surgery.theta = {raised_theta}"),
}
_THETA_FACTOR = 20
_BASE = "packaged:checkpoints/demo_base"
_BASE_METHODS = "model,pi,ntk,yarn,crop"
_SUITE = "evals/ladder.gin"


@dataclasses.dataclass(frozen=True)
class Variant:
  """One training run of the sweep.

  Attributes:
    drop: a key of `_DROPS`.
    tokens: a key of `SIZES`.
    seed: of the data's order.
  """

  drop: str
  tokens: str
  seed: int

  @property
  def name(self) -> str:
    return f"{self.drop}_{self.tokens}_s{self.seed}"

  @property
  def methods(self) -> str:
    """How it is evaluated: a variant with all of RoPE also with YaRN."""
    return "model,yarn" if self.drop in ("keep16", "theta") else "model"

  def overrides(self, base: str, theta: float) -> Iterator[str]:
    """Yields the bindings that turn the shipped recipe into this variant's.

    Args:
      base: the checkpoint to start from.
      theta: of that checkpoint's RoPE.
    """
    yield f"Recipe.seed = {self.seed}"
    yield f"Recipe.init_from = {base!r}"
    size = SIZES[self.tokens]
    if (bindings := _DROPS[self.drop]) is not None:
      for binding in bindings:
        yield binding.format(raised_theta=_THETA_FACTOR * theta)
    else:
      phases = "".join(f"@{name}/TrainPhase(), " for name in size.phases)
      yield f"Recipe.phases = ({phases})"
      # It equals the base, so there is nothing to learn from a teacher.
      for name in size.phases:
        yield f"{name}/TrainPhase.teacher = None"


def variants(drops: list[str], tokens: list[str], seeds: int) -> list[Variant]:
  """Returns all variants, ordered by tokens, then by seed."""
  return [
    Variant(drop, size, seed)
    for size in tokens
    for seed in range(seeds)
    for drop in drops
  ]


def main() -> int:
  """Trains what is missing; returns the exit status of the first failure."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "--data", required=True, metavar="DIR", help="token stores"
  )
  parser.add_argument("--out", required=True, metavar="DIR")
  parser.add_argument(
    "--base", default=_BASE, metavar="CKPT", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--keep", metavar="DIR", help="copy small files to DIR (default: no copy)"
  )
  parser.add_argument(
    "--drops", nargs="+", choices=_DROPS, default=list(_DROPS), metavar="DROP"
  )
  parser.add_argument("--tokens", nargs="+", choices=SIZES, default=list(SIZES))
  parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
  parser.add_argument(
    "--suite",
    default=_SUITE,
    metavar="SUITE.gin",
    help="(default: %(default)s)",
  )
  args = parser.parse_args()
  out = pathlib.Path(args.out)
  base = store.locate(paths.resolve(args.base))
  theta = store.describe(base)[0].model.positional.theta
  status = _evaluate("base", args.base, _BASE_METHODS, out, args)
  for variant in variants(args.drops, args.tokens, args.seeds):
    if status:
      break
    command = ["train", SIZES[variant.tokens].recipe, "--data", args.data]
    for binding in variant.overrides(args.base, theta):
      command += ["--set", binding]
    folder = out / variant.name
    status = _run(variant.name, *command, "--out", folder) or _evaluate(
      variant.name, folder / "recalibrate", variant.methods, out, args
    )
  return status


def _evaluate(name, checkpoint, methods, out, args) -> int:
  """Evaluates a model, and copies the small files; returns the status."""
  folder = out / name
  status = _run(
    f"{name}: evaluation",
    *("evaluate", f"{name}={checkpoint}", "--suite", args.suite),
    *("--positions", methods, "--out", folder),
  )
  if args.keep is not None and not status:
    kept = pathlib.Path(args.keep) / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in ("results.json", "metrics.jsonl"):
      if (folder / file).exists():
        shutil.copy(folder / file, kept)
  return status


def _run(what, *command) -> int:
  print(what, flush=True)
  program = [sys.executable, "-m", "drope_jax.cli.main"]
  return subprocess.run([*program, *command]).returncode


if __name__ == "__main__":
  sys.exit(main())
