"""LongBench's scores of an output, 0 to 1, to the last digit.

Each is a function of what was said, one of the right answers, and the classes
that there are, which only `classification` uses.

Source: THUDM/LongBench 2e00731, LongBench/metrics.py.
"""

import collections
from collections.abc import Callable, Hashable, Sequence
import dataclasses
import difflib
import logging
import re
import string
from typing import Any

from drope_jax import extras


@dataclasses.dataclass(frozen=True)
class Score:
  """A score, what it measures in a few words, and the libraries for it."""

  measures: str
  of: Callable[[str, str, Sequence[str]], float]
  libraries: tuple[str, ...] = ()


_ENGLISH = frozenset(string.punctuation)
_CHINESE = _ENGLISH.union(
  "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」"
  "『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
)


def imported(name: str) -> Any:
  """Returns a library that some scores need, see `extras.load`."""
  return extras.load(name, "eval", "LongBench")


def qa_f1(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns the F1 of the words, without case, marks and articles."""
  return _f1(_words(said), _words(answer))


def qa_f1_zh(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns the F1 of the words that jieba finds, without case and marks."""
  return _f1(*(_segments_without_marks(text) for text in (said, answer)))


def rouge_l(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns the F of the library rouge's ROUGE-L; 0 for an empty text.

  It is 0 too for a sentence of about a thousand words, where the library fails.
  """
  rouge = imported("rouge").Rouge(metrics=["rouge-l"])
  try:
    found = rouge.get_scores([said], [answer], avg=True)
  except (RecursionError, ValueError):
    return 0.0
  return found["rouge-l"]["f"]


def rouge_l_zh(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns `rouge_l` of the words that jieba finds."""
  said, answer = (" ".join(_segments(text)) for text in (said, answer))
  return rouge_l(said, answer, classes)


def classification(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns 1 / (classes that are named) if the right one is, else 0.

  A class whose name is part of the right one's does not count.
  """
  named = [name for name in classes if name in said]
  i = 0
  while i < len(named):
    if named[i] in answer and named[i] != answer:
      del named[i]
    # One that comes after a removed one is not looked at, as in LongBench.
    i += 1
  return 1 / len(named) if answer in named else 0.0


def count(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns the share of the numbers in the output that are the right one."""
  numbers = re.findall(r"\d+", said)
  return numbers.count(answer) / len(numbers) if numbers else 0.0


def retrieval(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns `count`, of the number in an answer such as "Paragraph 19"."""
  return count(said, re.findall(r"Paragraph (\d+)", answer)[0], classes)


def retrieval_zh(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns `count`, of the number in an answer such as "段落19"."""
  return count(said, re.findall(r"段落(\d+)", answer)[0], classes)


def code_similarity(said: str, answer: str, classes: Sequence[str]) -> float:
  """Returns how alike the first line of code and the right one are.

  It is fuzzywuzzy's `ratio` in hundredths, without python-Levenshtein, which
  LongBench does not ask for: that of difflib, which differs from an edit
  distance.
  """
  lines = said.lstrip("\n").split("\n")
  marks = ("`", "#", "//")
  plain = (line for line in lines if not any(mark in line for mark in marks))
  line = next(plain, "")
  if not (line and answer):
    return float(line == answer)
  ratio = difflib.SequenceMatcher(None, line, answer).ratio()
  return round(100 * ratio) / 100


def _words(text: str) -> list[str]:
  text = "".join(char for char in text.lower() if char not in _ENGLISH)
  return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _segments(text: str) -> list[str]:
  jieba = imported("jieba")
  jieba.setLogLevel(logging.WARNING)  # It tells of loading its dictionary.
  return jieba.lcut(text)


def _segments_without_marks(text: str) -> list[str]:
  plain = (
    "".join(char for char in segment.lower() if char not in _CHINESE)
    for segment in _segments(text)
  )
  return [joined for segment in plain if (joined := "".join(segment.split()))]


def _f1(said: Sequence[Hashable], answer: Sequence[Hashable]) -> float:
  same = (collections.Counter(said) & collections.Counter(answer)).total()
  if not same:
    return 0.0
  precision, recall = same / len(said), same / len(answer)
  return 2 * precision * recall / (precision + recall)


QA_F1 = Score("F1 of the words", qa_f1)
QA_F1_ZH = Score("F1 of the words", qa_f1_zh, ("jieba",))
ROUGE_L = Score("ROUGE-L", rouge_l, ("rouge",))
ROUGE_L_ZH = Score("ROUGE-L", rouge_l_zh, ("rouge", "jieba"))
CLASSIFICATION = Score("the right class alone", classification)
COUNT = Score("numbers that are right", count)
RETRIEVAL = Score("numbers that are right", retrieval)
RETRIEVAL_ZH = Score("numbers that are right", retrieval_zh)
CODE_SIMILARITY = Score("likeness of a line", code_similarity)
