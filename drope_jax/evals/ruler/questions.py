"""RULER's questions about documents: qa_1 (SQuAD) and qa_2 (HotpotQA).

Source: NVIDIA/RULER c3f5e3b, scripts/data/synthetic/qa.py.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from drope_jax.evals.retrieval import LINE_END
from drope_jax.evals.ruler import task
from drope_jax.evals.ruler.task import Draft
from drope_jax.evals.task import Order

_ASK = (
  "Answer the question based on the given documents. Only give me the answer "
  "and do not output any other words."
)
TEMPLATE = (
  f"{_ASK}\n\nThe following are given documents.\n\n{{context}}\n\n{_ASK}\n\n"
  "Question: {question} Answer:"
)
_STEP = 10


@dataclasses.dataclass(frozen=True)
class Question:
  """A question, its answers, of which one is enough, and where they stand.

  Attributes:
    documents: indices of those that answer it.
    related: indices of others of the same article, taken first as distractors.
  """

  text: str
  answers: tuple[str, ...]
  documents: tuple[int, ...]
  related: tuple[int, ...] = ()


Data = tuple[list[Question], list[str]]
"""Questions, and the documents that they index."""


@dataclasses.dataclass(frozen=True)
class Published:
  """A published file of questions.

  Attributes:
    task: that asks them.
    name: of the data set.
    field: of `Ruler`, which has its path.
    url: where it is from.
    read: its JSON to its data.
  """

  task: str
  name: str
  field: str
  url: str
  read: Callable[[Any], Data]

  def load(self, path: str | None) -> Data:
    """Returns what the file at `path` holds.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not the published one.
    """
    if path is None or not pathlib.Path(path).is_file():
      raise FileNotFoundError(
        f"{self.task} needs the questions of {self.name}, got "
        f"{path or 'no file'}. Download {self.url} and set Ruler.{self.field} "
        f"to its path, or leave {self.task} out."
      )
    try:
      found = self.read(json.loads(pathlib.Path(path).read_text("utf-8")))
      if not found[0]:
        raise ValueError("it has no question")
      return found
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f"{self.task} needs the file of {self.url}, got {path}, which has "
        f"another form ({type(error).__name__}: {error}). Download it again."
      ) from error


@dataclasses.dataclass(frozen=True)
class Questions(task.Kind):
  """Questions asked about documents, one of which has the answer.

  Sample i asks question i. A line is what counts of an output.

  Attributes:
    published: the data set.
    path: of its file.
  """

  published: Published
  path: str | None

  new_tokens = 32
  ends = LINE_END
  alternatives = True

  def drafter(self, order: Order, length: int) -> task.Drafter:
    """See `task.Kind`; a size is documents."""
    questions, documents = self.published.load(self.path)
    if max(order.counts) > len(questions):
      raise ValueError(
        f"{self.published.task} has {len(questions)} questions, got "
        f"{max(order.counts)} samples to draw. Lower Suite.samples."
      )

    def draft(size: int, rng: np.random.Generator, index: int) -> Draft:
      question = questions[index]
      chosen = _documents(question, len(documents), size, rng)
      shown = [documents[i] for i in chosen]
      return Draft(prompt(question.text, shown), question.answers)

    return draft

  def step(self, length: int, room: int) -> int:
    """See `task.Kind`."""
    return _STEP


def prompt(question: str, documents: Sequence[str]) -> str:
  """Returns the question about documents in their order, up to the answer."""
  context = "\n\n".join(
    f"Document {i}:\n{document}" for i, document in enumerate(documents, 1)
  )
  return TEMPLATE.format(context=context, question=question)


def _documents(question, count, size, rng) -> list[int]:
  """Returns the indices of `size` documents, in a random order."""
  if size >= count:
    chosen = np.resize(np.arange(count), size)
  else:
    own, related = list(question.documents), list(question.related)
    wanted = max(size - len(own), 0)
    if wanted > len(related):
      rest = np.setdiff1d(np.arange(count), own + related)
      more = rng.choice(rest, wanted - len(related), replace=False)
      chosen = [*own, *related, *more]
    else:
      chosen = [*own, *rng.choice(related, wanted, replace=False)]
  return rng.permutation(np.asarray(chosen, int)).tolist()


def _squad(data) -> Data:
  paragraphs = [article["paragraphs"] for article in data["data"]]
  documents = sorted({p["context"] for some in paragraphs for p in some})
  index = {document: i for i, document in enumerate(documents)}
  questions = []
  for some in paragraphs:
    of_article = [index[p["context"]] for p in some]
    for paragraph in some:
      own = index[paragraph["context"]]
      questions += [
        Question(
          text=qa["question"],
          answers=tuple(answer["text"] for answer in qa["answers"]),
          documents=(own,),
          related=tuple(i for i in of_article if i != own),
        )
        for qa in paragraph["qas"]
        if not qa["is_impossible"]
      ]
  return questions, documents


def _hotpotqa(data) -> Data:
  def spelt(title, sentences):
    return f"{title}\n{''.join(sentences)}"

  documents = sorted({spelt(*c) for entry in data for c in entry["context"]})
  index = {document: i for i, document in enumerate(documents)}
  questions = [
    Question(
      text=entry["question"],
      answers=(entry["answer"],),
      documents=tuple(index[spelt(*c)] for c in entry["context"]),
    )
    for entry in data
  ]
  return questions, documents


SQUAD = Published(
  "qa_1",
  "SQuAD 2.0",
  "squad",
  "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
  _squad,
)
HOTPOTQA = Published(
  "qa_2",
  "HotpotQA",
  "hotpotqa",
  "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
  _hotpotqa,
)
