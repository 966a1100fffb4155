"""Whether an output gives the answers that a prompt asks for."""

from collections.abc import Sequence
import re

NOTHING = "nothing"
WRONG = "wrong value"
TRUNCATED = "truncated value"
INCOMPLETE = "some values missing"
DISORDER = "wrong order"
ERRORS = (NOTHING, WRONG, TRUNCATED, INCOMPLETE)
"""The kinds of wrong answers, as `error` returns them."""
ORDERED_ERRORS = (*ERRORS, DISORDER)
"""The kinds where the order of the answers counts."""


def string_match_all(output: str, answers: Sequence[str]) -> float:
  """Returns the share of answers that `output` contains, ignoring case.

  A substring anywhere counts: "art" in "party" does, and so does an output that
  lists every value of the prompt.

  Source: NVIDIA/RULER c3f5e3b, scripts/eval/synthetic/constants.py.
  """
  return sum(_contains(output, answer) for answer in answers) / len(answers)


def string_match_part(output: str, answers: Sequence[str]) -> float:
  """Returns 1.0 where `output` contains one of the answers, else 0.0.

  For questions whose answers are alternatives. Source: as `string_match_all`.
  """
  return float(any(_contains(output, answer) for answer in answers))


def first_part(output: str, ends: str) -> str:
  """Returns the output up to the first match of the regular expression."""
  return re.split(ends, output, maxsplit=1)[0]


def is_exact(
  said: str,
  answers: Sequence[str],
  others: Sequence[str] = (),
  *,
  alternatives: bool = False,
  ordered: bool = False,
) -> bool:
  """Returns whether `said` gives the answers and none of the other values.

  An answer must stand there as a whole word, in any case. A model that lists
  every value that it has read has not retrieved the right ones.

  Args:
    said: the part of the output that counts.
    answers: all of which are needed.
    others: values of the prompt that were not asked for.
    alternatives: whether one of the answers is enough.
    ordered: whether each must first stand there after the one before it.
  """
  enough = any if alternatives else all
  found = enough(_says(said, answer) for answer in answers)
  if found and ordered:
    places = [_place(said, answer) for answer in answers]
    found = places == sorted(places)
  return found and not any(_says(said, other) for other in others)


def error(said: str, answers: Sequence[str], others: Sequence[str]) -> str:
  """Returns the kind of error of an answer that `is_exact` refuses.

  In this order: another value of the prompt is given (`WRONG`); a part of an
  answer, at least half of it from its beginning, stands there as a word
  (`TRUNCATED`); all answers are given, in another order (`DISORDER`); some are
  given and others are not (`INCOMPLETE`); or there is no value at all
  (`NOTHING`).
  """
  if any(_says(said, other) for other in others):
    return WRONG
  if any(_is_cut(said, a) for a in answers if not _says(said, a)):
    return TRUNCATED
  if all(_says(said, answer) for answer in answers):
    return DISORDER
  if any(_says(said, answer) for answer in answers):
    return INCOMPLETE
  return NOTHING


def _contains(output: str, answer: str) -> bool:
  return answer.lower() in output.lower()


def _says(text: str, value: str) -> bool:
  return _place(text, value) >= 0


def _place(text: str, value: str) -> int:
  """Returns where a value first stands as a word, or -1."""
  if not _contains(text, value):  # Much faster, and true of most values.
    return -1
  word = rf"(?<!\w){re.escape(value)}(?!\w)"
  found = re.search(word, text, re.IGNORECASE)
  return found.start() if found else -1


def _is_cut(text: str, value: str) -> bool:
  shortest = max(len(value) // 2, 1)
  return any(_says(text, value[:n]) for n in range(shortest, len(value)))
