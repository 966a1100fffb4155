"""LongBench's tasks from files: cutting, lengths, scores, missing files."""

import dataclasses
import json
import sys

import pytest

from drope_jax.data import paths
from drope_jax.data import tokenizer as tokenizers
from drope_jax.evals import interface, longbench, needles, registry
from drope_jax.evals import suite as suites
from drope_jax.evals.longbench import questions, scores, task
from drope_jax.evals.task import Order

CONDITION = interface.Condition("tiny", "model")


@pytest.fixture
def folder(tmp_path):
  """Files of a task of each kind that needs no library."""

  def write(name, rows):
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")

  def row(i, words, answers, classes=None):
    return {
      "input": f"What is {i}?",
      "context": "One\u2028two. " + f"Word {i}. " * words,
      "answers": answers,
      "length": 1000 * words,
      "all_classes": classes,
      "_id": str(i),
    }

  rows = [row(i, words, [f"it {i}"]) for i, words in enumerate((3, 4, 9, 40))]
  for name in ("qasper", "qasper_e", "triviaqa"):
    write(name, rows)
  classes = ["Price", "Price of food", "Reason"]
  write("trec", [row(0, 3, ["Price of food"], classes)])
  return tmp_path


@pytest.fixture
def order(tokenizer):
  return Order(
    encode=tokenizer.encode,
    decode=tokenizer.decode,
    documents=(),
    context_tokens=64,
    lengths=(512,),
    counts=(500,),
    excerpts=1,
    seed=0,
    prefix=(0,),
    needles=needles.Needles(),
    max_new_tokens=None,
  )


def _task(name, folder):
  group = longbench.LongBench(tasks=(name,), folder=str(folder))
  (found,) = group.expand()
  return found


def _drawn(name, folder, order, **changes):
  ((_, samples),) = (
    _task(name, folder).draw(dataclasses.replace(order, **changes)).items()
  )
  return samples


def test_the_middle_is_cut_out_and_the_halves_fill_the_length(folder, order):
  whole = _drawn("qasper", folder, order, lengths=(4096,))
  assert not any(sample.truncated for sample in whole)
  assert "One\u2028two. Word 3." in whole[3].prompt
  length = 128 + 100
  samples = _drawn("qasper", folder, order, lengths=(length,))
  for sample, full in zip(samples, whole, strict=True):
    assert sample.truncated
    assert len(sample.prompt_tokens) == length - sample.max_new_tokens == 100
    assert sample.prompt_tokens[0] == 0
    # The prefix is one of the first half's 50 ids.
    assert sample.prompt_tokens[:50] == full.prompt_tokens[:50]
    assert sample.prompt_tokens[50:] == full.prompt_tokens[-50:]
    assert order.decode(sample.prompt_tokens[1:]) == sample.prompt
    assert sample.prompt.endswith("Answer:")


def test_characters_of_several_tokens_leave_no_prompt_too_long(folder, order):
  """Half of a character is decoded to another one, which has more tokens."""
  row = {"input": "Q?", "context": "鯨は海に住む。" * 200, "answers": ["A"]}
  row |= {"length": 1400, "all_classes": None, "_id": "0"}
  text = json.dumps(row, ensure_ascii=False) + "\n"
  (folder / "qasper.jsonl").write_text(text, "utf-8")
  pieces = tokenizers.load(
    str(paths.resolve("packaged:tokenizer/drope2k.model"))
  )
  lengths = tuple(range(1200, 1216))
  order = dataclasses.replace(
    order,
    encode=pieces.encode,
    decode=pieces.decode,
    lengths=lengths,
    counts=(1,) * len(lengths),
  )
  drawn = _task("qasper", folder).draw(order)
  for length, (sample,) in drawn.items():
    assert sample.truncated
    room = length - sample.max_new_tokens
    assert room - 8 < len(sample.prompt_tokens) <= room


def test_a_prompt_that_just_fits_is_whole(folder, order):
  (full, *_) = _drawn("qasper", folder, order, lengths=(4096,))
  tokens = len(full.prompt_tokens) + full.max_new_tokens
  (fits, *_) = _drawn("qasper", folder, order, lengths=(tokens,))
  assert fits.prompt == full.prompt and not fits.truncated
  (cut, *_) = _drawn("qasper", folder, order, lengths=(tokens - 1,))
  assert cut.truncated and cut.prompt != full.prompt


def test_a_suite_that_asks_for_fewer_gets_questions_from_all_of_the_file(
  folder, order
):
  whole = _drawn("qasper", folder, order)
  few = _drawn("qasper", folder, order, counts=(2,))
  assert [s.question for s in few] == [whole[i].question for i in (0, 2)]


def test_results_have_a_part_for_each_range_and_what_was_cut(
  folder, order, fake_lm
):
  said = {"What is 0?": "it 0", "What is 2?": "It, the 2!", "What is 3?": "it"}

  def answer(prompt):
    asked = prompt.rsplit("Question: ", 1)[1].split("\n")[0]
    return said.get(asked, "nothing")

  lm = fake_lm(answer=answer, context_tokens=64)
  lm.tokenizer = order.encode.__self__
  for name, names in (
    ("qasper", ["0-4k", "4-8k", "8-16k", "32k+"]),
    ("qasper_e", ["0-4k", "4-8k", "8k+"]),
  ):
    found = _task(name, folder)
    samples = _drawn(name, folder, order, lengths=(400,))
    (result,) = found.evaluate(lm, samples, CONDITION)
    assert result.outcomes == (1.0, 0.0, 1.0, 2 / 3)
    assert (result.factor, result.count) == (400 / 64, 4)
    assert result.value == sum(result.outcomes) / 4
    assert result.truncated == sum(s.truncated for s in samples) / 4 == 0.25
    assert [part.name for part in result.parts] == names
    assert [part.value for part in result.parts][:2] == [1.0, 0.0]
    assert sum(part.count for part in result.parts) == 4
    last = 2 / 3 if name == "qasper" else 5 / 6
    assert result.parts[-1].value == pytest.approx(last)
    assert result.parts[0].low < 1.0 == result.parts[0].high
    again = json.loads(json.dumps(result.to_dict()))
    assert interface.Result.from_dict(again) == result


def _result(task, value, parts, **changes):
  part = {"low": value - 0.25, "high": value + 0.25, "count": 10}
  made = interface.Result(
    task=task,
    metric="score",
    model="tiny",
    method="model",
    factor=8.0,
    context_tokens=64,
    logit_scale=1.0,
    scale_fitted=False,
    value=value,
    seed=0,
    mean_tokens=100.0,
    outcomes=(value,) * 10,
    truncated=value,
    parts=tuple(
      interface.Part(name, of_part, **part, truncated=1.0)
      for name, of_part in parts.items()
    ),
    **part,
  )
  return dataclasses.replace(made, **changes)


def test_each_task_counts_alike_in_the_mean_of_all_and_of_a_range():
  rows = [
    _result("qasper", 0.5, {"16-32k": 0.25, "0-4k": 0.75}),
    _result("trec", 0.25, {"0-4k": 0.25}, count=30),
    _result("multi_key", 1.0, {}),
    _result("qasper_e", 0.5, {"0-4k": 0.5}),
    _result("lcc_e", 0.25, {"8k+": 0.125}),
  ]
  plain, extended = longbench.means(rows)
  assert (plain.task, plain.metric) == ("longbench", "mean of 2 tasks")
  assert (plain.value, plain.count, plain.truncated) == (0.375, 40, 0.375)
  # Two independent ends, each 0.25 away, halved: sqrt(2) / 8.
  assert plain.high - plain.value == pytest.approx(2**0.5 / 8)
  assert plain.value - plain.low == pytest.approx(2**0.5 / 8)
  assert [(p.name, p.value, p.count) for p in plain.parts] == [
    ("0-4k", 0.5, 20),
    ("16-32k", 0.25, 10),
  ]
  assert (extended.task, extended.value) == ("longbench_e", 0.375)
  assert [p.name for p in extended.parts] == ["0-4k", "8k+"]


def test_there_is_a_mean_only_where_every_task_has_a_result():
  rows = [_result("qasper", 0.5, {}), _result("trec", 0.25, {})]
  rows += [dataclasses.replace(row, method="yarn") for row in rows]
  (mean,) = longbench.means(rows[:3])
  assert mean.method == "model"
  assert not longbench.means(rows[:1])


def test_only_the_first_line_counts_where_longbench_has_it():
  asked = questions.Question("", "", ("right",), 0)
  assert task.LongBenchTask("triviaqa").score("\n\nright\nno", asked) == 1.0
  assert task.LongBenchTask("qasper").score("\n\nright\nno", asked) == 2 / 3


@pytest.mark.parametrize(
  "score, said, answer, value",
  [
    (scores.count, "12 or 13, 12", "12", 2 / 3),
    (scores.count, "none", "12", 0.0),
    (scores.retrieval, "Paragraph 3, not 13", "Paragraph 3", 0.5),
    (scores.retrieval_zh, "段落7", "段落7", 1.0),
    (scores.qa_f1, "The a an?", "the", 0.0),
    (scores.qa_f1, "a red, red fox", "The red fox!", 0.8),
    (scores.code_similarity, "```\n# x\n\nz", "", 1.0),
    (scores.code_similarity, "// x\nreturn a", "return b", 0.88),
    # difflib's 32; an edit distance has 34.
    (
      scores.code_similarity,
      "       if (mListener != null) {",
      "        FragmentObservable<SearchContactFragment, DataClass> obs",
      0.32,
    ),
  ],
)
def test_scores(score, said, answer, value):
  assert score(said, answer, ()) == value


@pytest.mark.parametrize(
  "said, value",
  [
    ("Price of food", 1.0),  # Price is a part of it, and does not count.
    ("Price of food, Reason", 0.5),
    ("Reason", 0.0),
    ("Price", 0.0),
  ],
)
def test_classes(said, value):
  classes = ("Price", "Price of food", "Reason")
  assert scores.classification(said, "Price of food", classes) == value


def test_a_class_after_a_removed_one_counts_as_in_longbench():
  classes = ("a", "ab", "abc")
  assert scores.classification("abc", "abc", classes) == 0.5


def test_rouge_and_jieba_score_empty_and_equal_outputs():
  pytest.importorskip("rouge", reason="needs the extra eval")
  pytest.importorskip("jieba", reason="needs the extra eval")
  assert scores.rouge_l("", "a b", ()) == 0.0
  assert scores.rouge_l("...", "a b", ()) == 0.0
  assert scores.rouge_l("a b.", "a b", ()) == pytest.approx(1.0)
  assert scores.rouge_l_zh("故宫博物院", "故宫博物院", ()) == pytest.approx(1.0)
  assert scores.qa_f1_zh("故宫》。", "故宫", ()) == 1.0
  # The opening mark is not among LongBench's.
  assert scores.qa_f1_zh("《故宫》。", "故宫", ()) == 2 / 3


def test_a_missing_library_is_named_before_anything_runs(
  folder, order, monkeypatch
):
  monkeypatch.setitem(sys.modules, "jieba", None)
  message = r"library jieba, which is missing. .*pip install 'drope_jax\[eval\]"
  with pytest.raises(ValueError, match=message):
    _drawn("multifieldqa_zh", folder, order)


def test_a_missing_file_is_named_with_its_source(folder, order):
  message = r"hotpotqa needs LongBench's file hotpotqa.jsonl, got {}\. .*{}"
  for given, got in ((str(folder), ".*hotpotqa.jsonl"), (None, "no folder")):
    asked = longbench.LongBench(tasks=("hotpotqa",), folder=given).expand()[0]
    with pytest.raises(
      FileNotFoundError, match=message.format(got, "data.zip, unpack it")
    ):
      asked.draw(order)


@pytest.mark.parametrize(
  "text, message",
  [
    ("{}\n", "another form in line 1 .*KeyError: 'input'"),
    ("", "without a line"),
    ("not json\n", "another form in line 1"),
  ],
)
def test_a_file_of_another_form_is_named(folder, order, text, message):
  (folder / "lcc.jsonl").write_text(text)
  with pytest.raises(ValueError, match=message):
    _drawn("lcc", folder, order)


def test_a_length_without_room_for_a_prompt_is_refused(folder, order):
  message = "qasper generates 128 tokens after its prompt, got a length of 129"
  with pytest.raises(ValueError, match=message):
    _drawn("qasper", folder, order, lengths=(129,))
  assert _drawn("qasper", folder, order, lengths=(129,), max_new_tokens=8)


def test_a_suite_keeps_the_folder_for_a_task_that_is_named(folder):
  suite = suites.Suite(evals=(longbench.LongBench(folder=str(folder)),))
  assert suite.only(["qasper"]) == (
    longbench.LongBench(("qasper",), str(folder)),
  )
  # And for one that the suite does not hold.
  assert suite.only(["qasper_e"]) == (
    longbench.LongBench(("qasper_e",), str(folder)),
  )
  assert suite.only(["longbench_e"]) == (
    longbench.LongBench(longbench.TASKS_E, str(folder)),
  )
  assert suite.only(["longbench"]) == suite.evals
  assert len(registry.tasks(["longbench"])) == 21
  assert len(registry.tasks(["longbench_e"])) == 13
  with pytest.raises(ValueError, match="LongBench.tasks must be .* got gov. "):
    longbench.LongBench(tasks=("gov",))
