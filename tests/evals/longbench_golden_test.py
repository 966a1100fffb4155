"""Prompts and scores are LongBench's own, to the letter and the last digit.

The golden rows are those of MiniLongBench, whose prompts of three tasks differ
from LongBench's.
"""

import hashlib
import json
import re

import pytest

from drope_jax.evals.longbench import TASKS, questions, task
from drope_jax.evals.longbench.prompts import PROMPTS

CUT_AT_LINES = ("trec", "triviaqa", "samsum", "lsht")


@pytest.fixture(scope="module")
def golden(test_data):
  """LongBench's rows by task."""
  found = {}
  for line in (test_data / "longbench" / "golden.jsonl").open():
    row = json.loads(line)
    found.setdefault(row["task"], []).append(row)
  return found


def _question(row):
  answers = [row["gold"]] if isinstance(row["gold"], str) else row["gold"]
  classes = row.get("all_classes") or ()
  return questions.Question("", "", tuple(answers), 0, tuple(classes))


def _as_longbench_has_it(name, prompt):
  """Returns a golden prompt without what MiniLongBench changed."""
  match name:
    case "narrativeqa":
      assert prompt.count("question as concisely") == 1
      return re.sub(
        " as concisely as you can, u", " asconcisely as you can, u", prompt
      )
    case "multi_news":
      return prompt.removesuffix("\n")
  return prompt


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_longbenchs(golden, name):
  # MiniLongBench asks qasper with the words of hotpotqa.
  template = PROMPTS["hotpotqa" if name == "qasper" else name]
  for row in golden[name]:
    prompt = _as_longbench_has_it(name, row["origin_prompt"])
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(template))
    taken = re.fullmatch(pattern, prompt, re.S)
    assert taken, f"the prompt of {name} is not {template!r}"
    assert template.format(**taken.groupdict()) == prompt


def test_all_prompts_and_new_tokens_are_longbenchs():
  told = {name: [PROMPTS[name], task.KINDS[name].new_tokens] for name in TASKS}
  digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
  assert digest.startswith("4929f5baebfa86b4"), (
    "Compare prompts and new tokens with dataset2prompt.json and "
    "dataset2maxlen.json of THUDM/LongBench 2e00731, and write the new digest."
  )


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_longbenchs_to_the_last_digit(golden, name):
  kind = task.KINDS[name]
  for library in kind.score.libraries:
    pytest.importorskip(library, reason="needs the extra eval")
  for row in golden[name]:
    scored = task.LongBenchTask(name).score(row["prediction"], _question(row))
    assert scored == row["score"]


def test_the_golden_rows_tell_scores_apart(golden):
  assert set(golden) == {*TASKS}
  positive = [n for n, rows in golden.items() if any(r["score"] for r in rows)]
  # longbench_test.py has scores of the others.
  zero = ["lsht", "passage_count"]
  zero += ["passage_retrieval_en", "passage_retrieval_zh"]
  assert sorted({*TASKS} - {*positive}) == zero


def test_only_first_lines_count_where_longbench_has_it(golden):
  found = [name for name, kind in task.KINDS.items() if kind.first_line]
  assert sorted(found) == sorted(CUT_AT_LINES)
