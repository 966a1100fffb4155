"""Trains the ladder of drops: how much of RoPE to keep, and for how long.

A rung keeps the fastest pairs of the demo's base (none: the paper's drop; all:
RoPE trained on), or RoPE in layer 0 alone, within a window, or all of RoPE with
theta raised. Every rung reads the same data in the same steps, for three seeds,
and answers the same questions. At 1.0M tokens the base teaches each drop, as in
`drope demo`; at 6.2M the text alone does. Each is evaluated as soon as it is
trained, and the base before all. Started again, the ladder goes on where it
stopped; several at once need rungs of their own and a base already evaluated.

  python tools/demo_data.py --out runs/demo_data
  python tools/ladder.py --data runs/demo_data --out runs/ladder
  python tools/ladder.py --data runs/demo_data --out runs/ladder_10k --base CKPT

What `drope demo` trains and compares, with three seeds and more questions:
--tokens 1.0M --drops keep12 keep16 --suite evals/demo_many.gin

Leaves OUT/NAME/results.json of each NAME, and --keep copies those and the
training's metrics.jsonl to a folder of their own, without the checkpoints.

Hardware: a CPU core. Time, at 1,900 tokens/s: of a rung 4 minutes at 0.4M
tokens, 10 at 1.2M, an hour at 6.2M, and about 5 minutes of evaluation.
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
  """How long a rung trains.

  Attributes:
    recipe: shipped.
    phases: of its training.
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
_ALL = "Surgery.keep_turns = None"  # Not what a recipe says of its own.


def _keep(pairs: int) -> tuple[str, ...]:
  return _ALL, f"Surgery.keep_pairs = {pairs}"


_DROPS = {
  "keep12": _keep(12),
  "keep0": (_ALL,),
  "keep16": None,  # No surgery: RoPE trained on.
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
_THETA_TIMES = 20
_BASE = "packaged:checkpoints/demo_base"
_BASE_WAYS = "model,pi,ntk,yarn,crop"
_SUITE = "evals/ladder.gin"


@dataclasses.dataclass(frozen=True)
class Rung:
  """One training of the ladder.

  Attributes:
    drop: a name in `_DROPS`.
    tokens: a name in `SIZES`.
    seed: of the data's order.
  """

  drop: str
  tokens: str
  seed: int

  @property
  def name(self) -> str:
    return f"{self.drop}_{self.tokens}_s{self.seed}"

  @property
  def ways(self) -> str:
    """By which methods it is read: of RoPE, by YaRN too."""
    return "model,yarn" if self.drop in ("keep16", "theta") else "model"

  def overrides(self, base: str, theta: float) -> Iterator[str]:
    """Yields the bindings that make the shipped recipe this rung's.

    Args:
      base: the checkpoint that it starts from.
      theta: of that checkpoint's RoPE.
    """
    yield f"Recipe.seed = {self.seed}"
    yield f"Recipe.init_from = {base!r}"
    size = SIZES[self.tokens]
    if (bindings := _DROPS[self.drop]) is not None:
      for binding in bindings:
        yield binding.format(raised_theta=_THETA_TIMES * theta)
    else:
      phases = "".join(f"@{name}/TrainPhase(), " for name in size.phases)
      yield f"Recipe.phases = ({phases})"
      # It has the base's positions: there is nothing to learn from it.
      for name in size.phases:
        yield f"{name}/TrainPhase.teacher = None"


def rungs(drops: list[str], tokens: list[str], seeds: int) -> list[Rung]:
  """Returns the rungs: few tokens first, then each drop's first seed."""
  return [
    Rung(drop, size, seed)
    for size in tokens
    for seed in range(seeds)
    for drop in drops
  ]


def main() -> int:
  """Trains what is left of the ladder; returns the first failure's status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data", required=True, metavar="DIR", help="the stores")
  parser.add_argument("--out", required=True, metavar="DIR")
  parser.add_argument(
    "--base", default=_BASE, metavar="CKPT", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--keep", metavar="DIR", help="for the small files (default: nowhere)"
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
  status = _evaluate("base", args.base, _BASE_WAYS, out, args)
  for rung in rungs(args.drops, args.tokens, args.seeds):
    if status:
      break
    command = ["train", SIZES[rung.tokens].recipe, "--data", args.data]
    for binding in rung.overrides(args.base, theta):
      command += ["--set", binding]
    status = _run(rung.name, *command, "--out", out / rung.name) or _evaluate(
      rung.name, out / rung.name / "recalibrate", rung.ways, out, args
    )
  return status


def _evaluate(name, checkpoint, ways, out, args) -> int:
  """Evaluates a model, and copies what is small; returns the status."""
  folder = out / name
  status = _run(
    f"{name}: evaluation",
    *("evaluate", f"{name}={checkpoint}", "--suite", args.suite),
    *("--positions", ways, "--out", folder),
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
