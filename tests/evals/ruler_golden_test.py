"""Prompts and scores are RULER's own, to the letter.

Each golden prompt is taken apart, and what it holds is given to our tasks.
"""

import json
import re

import numpy as np
import pytest
import sentencepiece
import zstandard

from drope_jax.evals import matching, needles, ruler
from drope_jax.evals.niah import DEPTHS
from drope_jax.evals.ruler import frequency, niah, questions, tracking
from drope_jax.evals.task import Order

NEEDLE = re.compile(r"One of the special magic (\w+)s for (.+?) is: (.+?)\.")
SHAPES = {
  "niah_single_1": ("noise", 1, 1),
  "niah_single_2": ("essay", 1, 1),
  "niah_single_3": ("essay", 1, 1),
  "niah_multikey_1": ("essay", 4, 1),
  "niah_multikey_2": ("needles", 1, 1),
  "niah_multikey_3": ("needles", 1, 1),
  "niah_multivalue": ("essay", 1, 4),
  "niah_multiquery": ("essay", 4, 1),
}


@pytest.fixture(scope="module")
def golden(test_data):
  """RULER's rows by task, each with its whole prompt."""
  found = {}
  for line in (test_data / "ruler" / "golden.jsonl").open():
    row = json.loads(line)
    row["prompt"] = row["input"] + row["answer_prefix"]
    found.setdefault(row["task"], []).append(row)
  return found


@pytest.fixture(scope="module")
def essay_words(test_data):
  """The words of the golden essay: see the README of the golden rows."""
  file = (test_data / "corpus" / "moby_dick.txt.zst").open("rb")
  text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
  start = text.index("Call me Ishmael")
  return re.sub(r"\s+", " ", text[start : start + 400_000]).split(" ")


def _taken_apart(prompt, task):
  """Returns the context, and the keys that the question names."""
  body, ask = prompt.rsplit("\nWhat ", 1)
  named = re.search(r"for (.+?) mentioned", ask)[1]
  context = body.split("afterwards.\n", 1)[1]
  return context, re.split(r", and |, ", named)


def _in_text(context, essay_words):
  """Returns the essay with its needles, put together by our function."""
  hidden = [match[0] for match in NEEDLE.finditer(context)]
  parts = [part.strip() for part in re.split(NEEDLE.pattern, context)[::4]]
  text = " ".join(filter(None, parts))
  count = len(text.split(" "))
  assert text == " ".join(niah._cycled(essay_words, count))
  split = re.compile(r"(?<=[.!?])\s+").split
  sentences = split(text)
  ends, depths = 0, []
  for part in parts[:-1]:
    ends += len(split(part)) if part else 0
    depths.append(
      next(d for d in DEPTHS if int(len(sentences) * (d / 100)) == ends)
    )
  return niah.in_text(sentences, depths, hidden)


def _in_lines(context, queries):
  lines = context.split("\n")
  (needle,) = (line for line in lines if f" {queries[0]} is: " in line)
  place = lines.index(needle)
  rest = lines[:place] + lines[place + 1 :]
  return niah.in_lines(rest, [place], [needle])


@pytest.mark.parametrize("name", SHAPES)
def test_needle_prompts_are_rulers(golden, essay_words, name):
  haystack, num_keys, num_values = SHAPES[name]
  for row in golden[name]:
    context, queries = _taken_apart(row["prompt"], name)
    (task,) = ruler.Ruler(tasks=(name,)).expand()
    kind = task.kind()
    hidden = NEEDLE.findall(context)
    assert (kind.haystack, kind.num_keys, kind.num_values) == SHAPES[name]
    assert len(queries) == kind.num_queries
    if haystack != "needles":
      assert len(hidden) == num_keys * num_values
    assert {found for found, *_ in hidden} == {kind.values.removesuffix("s")}
    pairs = [(key, value) for _, key, value in hidden]
    values = [v for query in queries for k, v in pairs if k == query]
    assert sorted(values) == sorted(row["outputs"])
    if haystack == "essay":
      again = _in_text(context, essay_words)
    else:
      again = _in_lines(context, queries)
    assert kind.prompt(again, queries) == row["prompt"]


def _chain(text):
  lines = text.split("\n")
  names = re.findall(r"^VAR (\w+) =", text, re.M)
  (value,) = re.findall(r"^VAR \w+ = (\d+)$", text, re.M)
  at = [i for i, line in enumerate(lines) if line.startswith("VAR")]
  places = [place - done for done, place in enumerate(at)]
  return names, value, lines.count(niah.NOISE), places


def test_variable_tracking_is_rulers(golden):
  for row in golden["vt"]:
    head = tracking.TEMPLATE[:20]
    second = row["prompt"].rindex(head)
    example, asked = row["prompt"][:second], row["prompt"][second:]
    context = asked.split("\n\n", 1)[1].split("\nQuestion", 1)[0]
    shown = example.split("\n\n", 1)[1].split("\nQuestion", 1)[0]
    prompt = tracking.solved(*_chain(shown)) + tracking.prompt(*_chain(context))
    assert prompt == row["prompt"]
    assert _chain(context)[0] == row["outputs"]


def _listed(text):
  return re.split(r" ?\d+\. ", text)[1:]


def test_common_words_are_rulers(golden):
  before, after = frequency.COMMON.split("{context}")
  for row in golden["cwe"]:
    example, asked = row["prompt"].split(f"\n{before}")
    shown, answer = example.removeprefix(before).split(after)
    prompt = frequency.common_prompt(
      *map(_listed, (shown, answer, asked.removesuffix(after)))
    )
    assert prompt == row["prompt"]
    words = _listed(asked.removesuffix(after))
    top = sorted(set(words), key=words.count)[-10:]
    assert sorted(top) == sorted(row["outputs"])


def test_coded_words_are_rulers(golden):
  before, after = frequency.CODED.split("{context}")
  for row in golden["fwe"]:
    context = row["prompt"].removeprefix(before).removesuffix(after)
    assert frequency.coded_prompt(context.split(" ")) == row["prompt"]


def test_questions_are_rulers(golden):
  for row in [*golden["qa_1"], *golden["qa_2"]]:
    documents = re.split(r"(?:\n\n|^)Document \d+:\n", row["prompt"])
    *documents, last = documents[1:]
    last, question = last.split("\n\nAnswer the question")
    question = re.search(r"Question: (.*) Answer:$", question)[1]
    assert questions.prompt(question, [*documents, last]) == row["prompt"]


def test_new_tokens_are_rulers():
  tokens = {t.of: t.kind().new_tokens for t in ruler.Ruler().expand()}
  assert {tokens[name] for name in SHAPES} == {128}
  others = {name: n for name, n in tokens.items() if name not in SHAPES}
  assert others == {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}


def test_scores_are_rulers(golden):
  for name, rows in golden.items():
    for row in rows:
      answers = row["outputs"]
      for output in (
        " ".join(answers),
        answers[0].upper() + "x",
        answers[-1][:-1],
        "",
      ):
        found = [1.0 if a.lower() in output.lower() else 0.0 for a in answers]
        if name.startswith("qa"):
          score = matching.string_match_part(output, answers)
          assert score == max(found)
        else:
          score = matching.string_match_all(output, answers)
          assert score == pytest.approx(sum(found) / len(found))


@pytest.mark.parametrize(
  "name, line",
  [("niah_single_1", niah.NOISE), ("vt", niah.NOISE), ("cwe", ".")],
)
def test_the_length_search_finds_rulers_sizes(golden, test_data, name, line):
  pytest.importorskip("wonderwords")
  model = str(test_data / "stories15M" / "tokenizer.model")
  processor = sentencepiece.SentencePieceProcessor(model_file=model)
  order = Order(
    encode=processor.encode,
    decode=processor.decode,
    documents=("A word.",),
    context_tokens=64,
    lengths=(1024, 4096),
    counts=(1, 1),
    excerpts=1,
    seed=0,
    prefix=(),
    needles=needles.Needles(),
    max_new_tokens=None,
  )
  (task,) = ruler.Ruler(tasks=(name,)).expand()
  for length, (sample,) in task.draw(order).items():
    sizes = [
      row["prompt"].count(line)
      for row in golden[name]
      if row["max_seq_length"] == length
    ]
    # Drafts are random, and so is the size that is the last to fit.
    assert sample.prompt.count(line) == pytest.approx(np.mean(sizes), rel=0.1)


def test_the_short_wording_is_another_format():
  (task,) = ruler.Ruler(tasks=("niah_single_1",), wording="short").expand()
  assert task.name == "niah_single_1_short"
  prompt = task.kind().prompt("x", ["key"])
  ask = needles.SHORT.one.ask.format(kind="number", query="key")
  assert prompt == "x" + ask
