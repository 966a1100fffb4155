"""RULER's 13 tasks (arXiv:2404.06654), by its names, templates and scores.

Prompts are RULER's to the letter, given its keys, values, haystack and depths.
Samples are our own draws: the same for every model, and independent of how many
are drawn. Beside RULER's score stands a strict one (`retrieval`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from drope_jax.evals import needles as needles_lib
from drope_jax.evals import retrieval
from drope_jax.evals.metric import Metric
from drope_jax.evals.ruler import frequency, niah, questions, task, tracking
from drope_jax.evals.task import Order

TASKS = (
  "niah_single_1",
  "niah_single_2",
  "niah_single_3",
  "niah_multikey_1",
  "niah_multikey_2",
  "niah_multikey_3",
  "niah_multivalue",
  "niah_multiquery",
  "vt",
  "cwe",
  "fwe",
  "qa_1",
  "qa_2",
)


@dataclasses.dataclass(frozen=True)
class Ruler:
  """RULER's tasks with settings of yours.

  Attributes:
    tasks: some of `TASKS`.
    wording: of needles and their questions: "ruler", or "short", another
      format to ask in, whose tasks have names that end in _short.
    essays: path of the text that needles are hidden in: plain text, or RULER's
      PaulGrahamEssays.json. None: the suite's text.
    english_words: path of RULER's english_words.json, for cwe at lengths above
      about 100,000 tokens.
    squad: path of SQuAD's dev-v2.0.json, for qa_1.
    hotpotqa: path of hotpot_dev_distractor_v1.json, for qa_2.
  """

  tasks: tuple[str, ...] = TASKS
  wording: str = "ruler"
  essays: str | None = None
  english_words: str | None = None
  squad: str | None = None
  hotpotqa: str | None = None

  def __post_init__(self):
    if not self.tasks or {*self.tasks} - {*TASKS}:
      raise ValueError(
        f"Ruler.tasks must be some of {', '.join(TASKS)}, got "
        f"{', '.join(self.tasks) or 'none'}. Name some of these."
      )
    if self.wording not in needles_lib.WORDINGS:
      raise ValueError(
        f"Ruler.wording must be one of {', '.join(needles_lib.WORDINGS)}, got "
        f"{self.wording!r}. Name one of these."
      )

  def expand(self) -> tuple["RulerTask", ...]:
    """Returns the tasks, with these settings."""
    return tuple(RulerTask(name, self) for name in self.tasks)

  def only(self, names: Collection[str]) -> "Ruler | None":
    """See `task.Group`; those that it could hold are all of RULER."""
    every = dict.fromkeys((*self.tasks, *TASKS))
    kept = tuple(of for of in every if RulerTask(of, self).name in names)
    return dataclasses.replace(self, tasks=kept) if kept else None


@dataclasses.dataclass(frozen=True)
class RulerTask(retrieval.RetrievalTask):
  """One of RULER's tasks.

  Attributes:
    of: RULER's name of it.
    settings: of all tasks.
  """

  of: str
  settings: Ruler

  @property
  def name(self) -> str:
    """In results."""
    other = self.of.startswith("niah") and self.settings.wording != "ruler"
    return f"{self.of}_{self.settings.wording}" if other else self.of

  @property
  def metrics(self) -> tuple[Metric, ...]:
    is_question = self.of.startswith("qa")
    return retrieval.ONE_NEEDED if is_question else retrieval.ALL_NEEDED

  def draw(self, order: Order) -> Mapping[int, Sequence[retrieval.Sample]]:
    """See `task.samples`."""
    return task.samples(self.kind(), self.name, order)

  def kind(self) -> task.Kind:
    """Returns what makes its prompts.

    Source: NVIDIA/RULER c3f5e3b, scripts/synthetic.yaml.
    """
    settings = self.settings
    match self.of:
      case "vt":
        return tracking.Tracking()
      case "cwe":
        return frequency.CommonWords(
          english_words=_english_words(settings.english_words)
        )
      case "fwe":
        return frequency.CodedWords()
      case "qa_1":
        return questions.Questions(questions.SQUAD, settings.squad)
      case "qa_2":
        return questions.Questions(questions.HOTPOTQA, settings.hotpotqa)
    kinds: Mapping[str, tuple[str, dict[str, Any]]] = {
      "niah_single_1": ("noise", {}),
      "niah_single_2": ("essay", {}),
      "niah_single_3": ("essay", {"values": "uuids"}),
      "niah_multikey_1": ("essay", {"num_keys": 4}),
      "niah_multikey_2": ("needles", {}),
      "niah_multikey_3": ("needles", {"keys": "uuids", "values": "uuids"}),
      "niah_multivalue": ("essay", {"num_values": 4}),
      "niah_multiquery": ("essay", {"num_keys": 4, "num_queries": 4}),
    }
    haystack, more = kinds[self.of]
    return niah.Needles(
      haystack,
      **more,
      essays=_essays(settings.essays),
      wording=needles_lib.WORDINGS[settings.wording],
    )


def _essays(path: str | None) -> str | None:
  if path is None:
    return None
  if path.endswith(".json"):
    return _parsed(path, "essays", lambda data: data["text"])
  return _read(path, "essays")


def _english_words(path: str | None) -> tuple[str, ...] | None:
  if path is None:
    return None
  return _parsed(path, "english_words", lambda data: tuple(data.values()))


def _parsed(path: str, field: str, choose: Callable[[Any], Any]) -> Any:
  """Returns what `choose` takes from the JSON of one of RULER's files."""
  try:
    return choose(json.loads(_read(path, field)))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"Ruler.{field} must be RULER's own file, got {path}, which has another "
      f"form ({type(error).__name__}: {error}). Download it again."
    ) from error


def _read(path: str, field: str) -> str:
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(
      f"Ruler.{field} must be the path of a file, got {path}, which does not "
      "exist. Correct it."
    )
  try:
    return pathlib.Path(path).read_text("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"Ruler.{field} must be UTF-8 text, got other bytes in {path}. Convert "
      "it."
    ) from error
