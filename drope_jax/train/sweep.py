"""A grid of changes to one recipe, over seeds."""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import re

_NAME = r"[\w.%+-]+"
_SCORE = r"loss|held-out loss|spikes|\S+ \S+ [\d.]+x( \+scale)?"


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
    init_from: the checkpoint that all trainings start from; None: the recipe's
      own start.
    suite: what the model of the last phase is evaluated by, a file or the name
      of a shipped one; None: it is not.
    methods: position methods that these models are read by; None: the suite's.
    references: checkpoints that are evaluated beside them, by name, by all
      methods of the suite; relative paths start at the working directory.
    shown: names of the scores in its table and its plot: "loss" (the mean over
      the end of the last phase's log), "held-out loss", "spikes", or a result
      such as "multi_key accuracy 4x", with a fitted softmax scale
      "perplexity tail_loss 4x +scale".
    against: a row of the table, such as "base · YaRN": every other row is
      compared with it on the same samples; None: there is no comparison.
  """

  recipe: str
  axes: tuple[Axis, ...]
  seeds: tuple[int, ...] = (0, 1, 2)
  overrides: tuple[str, ...] = ()
  init_from: str | None = None
  suite: str | None = None
  methods: tuple[str, ...] | None = None
  references: Mapping[str, str] = dataclasses.field(
    default_factory=dict, hash=False
  )
  shown: tuple[str, ...] = ("loss", "spikes")
  against: str | None = None

  def __post_init__(self):
    names = [point.name for point in self.points()]
    if not names or len(set(names)) < len(names):
      raise ValueError(
        "A Sweep needs at least one axis and one seed, and points whose names "
        f"differ, got {', '.join(names) or 'none'}. Change its axes or seeds."
      )
    taken = sorted({*self.references} & {*names})
    wrong = [x for x in self.references if not re.fullmatch(_NAME, x)]
    if taken or wrong:
      raise ValueError(
        "A Sweep's references need names that no point has, of letters, digits "
        f"and any of . % + - _, got {', '.join(taken or wrong)}. Rename them."
      )
    evaluated = {
      "methods": self.methods,
      "references": self.references,
      "against": self.against,
    }
    given = [name for name, value in evaluated.items() if value]
    if given and self.suite is None:
      raise ValueError(
        f"Sweep.{given[0]} is of evaluations, which need a suite, got "
        f"{evaluated[given[0]]!r} without one. Set Sweep.suite, or leave it "
        "out."
      )
    if wrong := [x for x in self.shown if not re.fullmatch(_SCORE, x)]:
      raise ValueError(
        "Sweep.shown takes loss, held-out loss, spikes, or a result's task, "
        f"metric and length, such as multi_key accuracy 4x, got {wrong[0]!r}. "
        "Correct it; methods are rows of the table by themselves."
      )

  def points(self) -> Iterator[Point]:
    """Yields all points: for each seed, the whole grid."""
    values = [axis.values.items() for axis in self.axes]
    start: tuple[str, ...] = ()
    if self.init_from is not None:
      start = (f"Recipe.init_from = {self.init_from!r}",)
    for seed in self.seeds:
      for chosen in itertools.product(*values) if values else ():
        labels, changes = zip(*chosen, strict=True)
        overrides = (
          f"Recipe.seed = {seed}",
          *start,
          *self.overrides,
          *itertools.chain(*changes),
        )
        yield Point(labels, seed, overrides)
