"""A grid of changes to one recipe, over seeds."""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import re

_NAME = r"[\w.%+-]+"


@dataclasses.dataclass(frozen=True)
class Axis:
  """One question of a sweep.

  Attributes:
    name: of what is changed.
    values: by a short label, the bindings that make the change:
      {'none': (), 'qk': ("Surgery.qk_norm = 'qk'",)}.
  """

  name: str
  values: Mapping[str, tuple[str, ...]] = dataclasses.field(hash=False)

  def __post_init__(self):
    wrong = [x for x in self.values if not re.fullmatch(_NAME, x)]
    if not self.values or wrong:
      raise ValueError(
        "An Axis needs at least one value, with labels of letters, digits and "
        f"any of . % + - _, got {wrong or 'none'}. They are parts of folders' "
        "names."
      )


@dataclasses.dataclass(frozen=True)
class Point:
  """One training of a sweep.

  Attributes:
    labels: of its value on each axis.
    seed: of weights and data.
    overrides: bindings that turn the recipe into this point's.
  """

  labels: tuple[str, ...]
  seed: int
  overrides: tuple[str, ...]

  @property
  def name(self) -> str:
    """Of its folder."""
    return "_".join([*self.labels, f"s{self.seed}"])


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Trainings of one recipe with every combination of changes.

  Attributes:
    recipe: a file, or the name of a shipped one.
    axes: of the grid.
    seeds: `Recipe.seed` of each combination's trainings.
    overrides: bindings of all trainings, before those of the axes.
    suite: what the model of the last phase is evaluated by, a file or the name
      of a shipped one; None: it is not.
    shown: names of the scores in its table and its plot: "loss" (the mean over
      the end of the last phase's log), "held-out loss", "spikes", or a result
      such as "multi_key accuracy 4x" or "perplexity tail_loss 4x yarn".
    references: checkpoints that are evaluated beside them, by name; relative
      paths start at the working directory.
  """

  recipe: str
  axes: tuple[Axis, ...]
  seeds: tuple[int, ...] = (0, 1, 2)
  overrides: tuple[str, ...] = ()
  suite: str | None = None
  shown: tuple[str, ...] = ("loss", "spikes")
  references: Mapping[str, str] = dataclasses.field(
    default_factory=dict, hash=False
  )

  def __post_init__(self):
    names = [point.name for point in self.points()]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        "A Sweep needs at least one axis and one seed, and points whose names "
        f"differ, got {', '.join(names) or 'none'}. Change its axes or seeds."
      )
    taken = sorted({*self.references} & {*names})
    wrong = [x for x in self.references if not re.fullmatch(_NAME, x)]
    if taken or wrong or (self.references and self.suite is None):
      raise ValueError(
        "A Sweep's references need names that no point has, of letters, digits "
        f"and any of . % + - _, and a suite, got {taken or wrong} and the "
        f"suite {self.suite}. Rename them, or name a suite."
      )

  def points(self) -> Iterator[Point]:
    """Yields all points: for each seed, the whole grid."""
    values = [axis.values.items() for axis in self.axes]
    for seed in self.seeds:
      for chosen in itertools.product(*values) if values else ():
        labels, changes = zip(*chosen, strict=True)
        overrides = (
          f"Recipe.seed = {seed}",
          *self.overrides,
          *itertools.chain(*changes),
        )
        yield Point(labels, seed, overrides)
