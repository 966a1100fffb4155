"""A set of evals over length factors and position methods, alike for each.

`steps` runs it.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import math

from drope_jax.evals import needles as needles_lib
from drope_jax.evals import paper, registry
from drope_jax.evals.task import Group, Task


@dataclasses.dataclass(frozen=True)
class Suite:
  """What to evaluate.

  Attributes:
    evals: names in `registry`, of tasks or of groups of tasks; or such groups
      with settings, such as `Ruler`.
    methods: "model" (the checkpoint as it is), "crop" (`cropped`), "rope",
      "pi", "ntk", "yarn", "longrope2"; "dynamic_pi", "dynamic_ntk" and
      "dynamic_yarn" scale by each text's own length, for texts of many lengths.
    factors: tested length / trained length.
    samples: of each task with questions, one number for each factor.
    excerpts: documents of the longest length, for perplexity.
    max_new_tokens: of an answer; None is each task's own.
    needles: what is hidden, for tasks without needles of their own.
    begin_with_bos: whether every input begins with BOS. Imported Llamas expect
      it; models that were trained on documents joined by EOS do not.
    fit_factor: at which c of beta = 1 + c ln s is fitted for each method; c is
      then used at every factor. None: only the model's own scale is used.
    fit_excerpts: documents of plain text that it is fitted on.
    fit_needle_documents: documents with needles and answered questions that it
      is fitted on as well.
    fit_evaluations: passes over these documents, for each method.
    scale_by_own_length: whether the softmax scale follows each text's own
      length, for texts of many lengths; else it is that of the tested length.
    scale_by_query: whether a fitted softmax scale is each query's own:
      s is then its place in the text / trained length.
    seed: of all draws.
    paper_table: the table of the DroPE paper that this makes, whose figures
      the report shows beside ours; None: none.
  """

  evals: tuple[str | Group, ...] = ("perplexity", "passkey", "multi_key")
  methods: tuple[str, ...] = ("model",)
  factors: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
  samples: tuple[int, ...] = (100, 100, 100, 100)
  excerpts: int = 8
  max_new_tokens: int | None = None
  needles: needles_lib.Needles = dataclasses.field(
    default_factory=needles_lib.Needles
  )
  begin_with_bos: bool = False
  fit_factor: float | None = 4.0
  fit_excerpts: int = 4
  fit_needle_documents: int = 0
  fit_evaluations: int = 9
  scale_by_own_length: bool = False
  scale_by_query: bool = False
  seed: int = 0
  paper_table: str | None = None

  def __post_init__(self):
    registry.tasks(self.evals)  # Refuses unknown names.
    if not self.factors or not all(1 <= f < math.inf for f in self.factors):
      raise ValueError(
        f"Suite.factors must be 1 or more, got {self.factors}. They are tested "
        "length / trained length."
      )
    for field in ("evals", "methods", "factors"):
      names = getattr(self, field)
      if not names or len(set(names)) < len(names):
        raise ValueError(
          f"Suite.{field} must be at least one, each named once, got {names}. "
          "Two results of one sample would be taken for two seeds."
        )
    if len(self.samples) != len(self.factors) or min(self.samples) < 1:
      raise ValueError(
        "Suite.samples needs a count of at least 1 for each of the factors "
        f"{self.factors}, got {self.samples}. Give as many."
      )
    for field, least in (
      ("excerpts", 1),
      ("fit_excerpts", 0),
      ("fit_needle_documents", 0),
      ("fit_evaluations", 3),
      ("max_new_tokens", 1),
      ("seed", 0),
    ):
      count = getattr(self, field)
      if count is not None and count < least:
        raise ValueError(
          f"Suite.{field} must be at least {least}, got {count}. Raise it."
        )
    if self.fit_factor is not None and not (
      self.fit_excerpts or self.fit_needle_documents
    ):
      raise ValueError(
        "Suite.fit_factor fits a scale on text, got no fit_excerpts and no "
        "fit_needle_documents. Ask for one of them, or set fit_factor to None."
      )
    if self.fit_factor is not None and self.fit_factor <= 1:
      raise ValueError(
        "Suite.fit_factor must be above 1, where no slope shows, got "
        f"{self.fit_factor}. Raise it, or set None."
      )
    if self.scale_by_own_length and self.scale_by_query:
      raise ValueError(
        "A softmax scale has one form, got Suite.scale_by_own_length and "
        "scale_by_query. Set one of them to False."
      )
    if self.paper_table not in (None, *paper.TABLES):
      raise ValueError(
        f"Suite.paper_table must be one of {', '.join(paper.TABLES)}, got "
        f"{self.paper_table!r}. Name one of these, or None."
      )

  @property
  def tasks(self) -> tuple[Task, ...]:
    """The tasks that `evals` stand for."""
    return registry.tasks(self.evals)

  def only(self, names: Iterable[str]) -> tuple[str | Group, ...]:
    """Returns evals of these names, with the suite's settings where it has any.

    A task that the suite does not hold has the settings of the first group that
    could hold it.

    Args:
      names: of tasks of the suite or of `registry`, or of groups there. A
        group's name stands for those of its tasks that the suite holds with
        settings, or for all.

    Raises:
      ValueError: a name is unknown.
    """
    groups = [entry for entry in self.evals if not isinstance(entry, str)]
    held = {task.name for group in groups for task in group.expand()}
    wanted = dict.fromkeys(
      task for name in names for task in self._members(name, groups)
    )
    left = [name for name in wanted if name not in held]
    found: list[str | Group] = []
    for group in groups:
      own = {task.name for task in group.expand()} & wanted.keys()
      if kept := group.only([*own, *left]):
        found.append(kept)
        taken = {task.name for task in kept.expand()}
        left = [name for name in left if name not in taken]
    registry.tasks(left)  # Refuses unknown names.
    return (*found, *left)

  def _members(self, name: str, groups: Iterable[Group]) -> Iterable[str]:
    """Returns the tasks that a name stands for."""
    if name not in registry.GROUPS:
      return [name]
    others = {
      task
      for group, tasks in registry.GROUPS.items()
      if group != name
      for task in tasks
    }
    own = [
      task.name
      for group in groups
      if isinstance(group, registry.GROUP_CLASSES.get(name, ()))
      for task in group.expand()
      if task.name not in others
    ]
    return own or registry.GROUPS[name]


@dataclasses.dataclass(frozen=True)
class Material:
  """The text that a suite reads; `overlap` checks that the two share none."""

  test: Sequence[str]
  fit: Sequence[str]
