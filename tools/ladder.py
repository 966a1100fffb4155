"""Trains the ladder of drops: how much of RoPE to keep, and for how long.

A rung keeps the fastest pairs of the demo's base (none: the paper's drop; all:
RoPE trained on), or RoPE in layer 0 alone, within a window. Every rung reads
the same data in the same steps, for three seeds. Started again, it goes on
where it stopped. `drope evaluate` reads what it leaves.

  python tools/demo_data.py --out runs/demo_data
  python tools/ladder.py --data runs/demo_data --out runs/ladder
  python tools/ladder.py --data runs/demo_data --out runs/ladder_10k --base CKPT

Hardware: a CPU core. Time: of a rung 3 minutes at 1.2M tokens, 13 at 6.2M.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import pathlib
import subprocess
import sys

_RECIPES = {"1.2M": "recipes/demo_live.gin", "6.2M": "recipes/demo_drope.gin"}
_PHASES = {
  "1.2M": ("recalibrate",),
  "6.2M": ("recalibrate_128", "recalibrate_256", "recalibrate"),
}
_DROPS = {
  "keep12": ("Surgery.keep_pairs = 12",),
  "keep0": (),
  "keep16": None,  # No surgery: RoPE trained on.
  "keep6": ("Surgery.keep_pairs = 6",),
  "window": (
    "Surgery.drop = (1, 2, 3, 4, 5)",
    "Surgery.windows = ((0, 32),)",
  ),
  "keep3": ("Surgery.keep_pairs = 3",),
}


@dataclasses.dataclass(frozen=True)
class Rung:
  """One training of the ladder.

  Attributes:
    drop: a name in `_DROPS`.
    tokens: a name in `_RECIPES`.
    seed: of the data's order.
  """

  drop: str
  tokens: str
  seed: int

  @property
  def name(self) -> str:
    return f"{self.drop}_{self.tokens}_s{self.seed}"

  def overrides(self, base: str | None) -> Iterator[str]:
    """Yields the bindings that make the shipped recipe this rung's."""
    yield f"Recipe.seed = {self.seed}"
    if base is not None:
      yield f"Recipe.init_from = {str(pathlib.Path(base).absolute())!r}"
    if (bindings := _DROPS[self.drop]) is not None:
      yield from bindings
    else:
      phases = "".join(
        f"@{name}/TrainPhase(), " for name in _PHASES[self.tokens]
      )
      yield f"Recipe.phases = ({phases})"


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
    "--base", metavar="CKPT", help="(default: the packaged one)"
  )
  parser.add_argument(
    "--drops", nargs="+", choices=_DROPS, default=list(_DROPS), metavar="DROP"
  )
  parser.add_argument(
    "--tokens", nargs="+", choices=_RECIPES, default=list(_RECIPES)
  )
  parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
  args = parser.parse_args()
  for rung in rungs(args.drops, args.tokens, args.seeds):
    folder = pathlib.Path(args.out) / rung.name
    if (folder / "recalibrate").exists():
      continue
    print(rung.name, flush=True)
    command = [sys.executable, "-m", "drope_jax.cli.main", "train"]
    command += [_RECIPES[rung.tokens], "--data", args.data, "--out", folder]
    for binding in rung.overrides(args.base):
      command += ["--set", binding]
    status = subprocess.run(command).returncode
    if status:
      return status
  return 0


if __name__ == "__main__":
  sys.exit(main())
