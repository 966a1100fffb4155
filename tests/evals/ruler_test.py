"""RULER's tasks on a tokenizer: lengths, draws, missing files, scores."""

import dataclasses
import json

import numpy as np
import pytest

from drope_jax.evals import interface, needles, ruler
from drope_jax.evals.task import Order

pytest.importorskip("wonderwords")

CONDITION = interface.Condition("tiny", "model")
GENERATED = tuple(name for name in ruler.TASKS if not name.startswith("qa"))


@pytest.fixture
def order(tokenizer, documents):
  return Order(
    encode=tokenizer.encode,
    decode=tokenizer.decode,
    documents=documents,
    context_tokens=64,
    lengths=(2048,),
    counts=(3,),
    excerpts=1,
    seed=5,
    prefix=(0,),
    needles=needles.Needles(),
    max_new_tokens=None,
  )


def _task(name, **settings):
  (task,) = ruler.Ruler(tasks=(name,), **settings).expand()
  return task


@pytest.mark.parametrize("name", GENERATED)
def test_prompts_fit_their_length_and_depend_on_seed_and_index(order, name):
  task = _task(name)
  (samples,) = task.draw(order).values()
  for sample in samples:
    assert sample.prompt_tokens[0] == 0
    total = len(sample.prompt_tokens) + sample.max_new_tokens
    assert total <= 2048
    assert all(answer in sample.prompt for answer in sample.answers)
    assert not {*sample.answers} & {*sample.others}
  # A haystack is at most a step of 500 words too small.
  longest = max(len(s.prompt_tokens) + s.max_new_tokens for s in samples)
  assert longest > 2048 - 700
  assert len({sample.prompt for sample in samples}) == 3
  few = dataclasses.replace(order, counts=(2,))
  (again,) = task.draw(few).values()
  assert again == samples[:2]


@pytest.mark.parametrize("name", GENERATED)
def test_an_oracle_scores_one_and_an_empty_answer_nothing(order, fake_lm, name):
  task = _task(name)
  (samples,) = task.draw(order).values()
  told = iter([" " + ", ".join(sample.answers) for sample in samples])
  lm = fake_lm(answer=lambda prompt: next(told), context_tokens=1024)
  lm.tokenizer = order.encode.__self__
  lm.with_logit_scale = lambda scale: lm
  results = {r.metric: r for r in task.evaluate(lm, samples, CONDITION)}
  assert [r.value for r in results.values()] == [1.0, 1.0]
  assert set(results) == {metric.name for metric in task.metrics}
  assert sum(results["accuracy"].errors.values()) == 0
  lm.answer = lambda prompt: ""
  results = {r.metric: r for r in task.evaluate(lm, samples, CONDITION)}
  assert [r.value for r in results.values()] == [0.0, 0.0]
  assert results["accuracy"].errors["nothing"] == 3


def test_a_length_without_room_is_refused(order):
  order = dataclasses.replace(order, lengths=(512,))
  message = "niah_multiquery needs about .* its smallest haystack, got .* 512"
  with pytest.raises(ValueError, match=message):
    _task("niah_multiquery").draw(order)


@pytest.mark.parametrize(
  "name, field", [("qa_1", "squad"), ("qa_2", "hotpotqa")]
)
def test_a_missing_file_is_named_with_its_source(order, name, field):
  message = rf"{name} needs .*got no file.*https?://.*set Ruler.{field}"
  with pytest.raises(FileNotFoundError, match=message):
    _task(name).draw(order)
  with pytest.raises(FileNotFoundError, match="Ruler.essays must be"):
    _task("niah_single_2", essays="nowhere.txt").draw(order)


@pytest.mark.parametrize(
  "name, field", [("niah_single_2", "essays"), ("cwe", "english_words")]
)
def test_a_file_of_another_form_is_named(order, tmp_path, name, field):
  path = tmp_path / "file.json"
  path.write_text("[]")
  message = f"Ruler.{field} must be RULER's own file, got {path}"
  with pytest.raises(ValueError, match=message):
    _task(name, **{field: str(path)}).draw(order)


@pytest.mark.parametrize("ending", [".txt", ".json"])
def test_essays_of_another_encoding_are_named(order, tmp_path, ending):
  path = tmp_path / f"essays{ending}"
  path.write_bytes('{"text": "café"}'.encode("latin-1"))
  with pytest.raises(ValueError, match=f"Ruler.essays must be .*{path}"):
    _task("niah_single_2", essays=str(path)).draw(order)


@pytest.mark.parametrize("name", ["fwe", "vt", "niah_single_1"])
def test_a_length_without_room_for_a_prompt_is_refused(order, name):
  order = dataclasses.replace(order, lengths=(300,), max_new_tokens=300)
  with pytest.raises(ValueError, match=f"{name} generates 300 tokens after"):
    _task(name).draw(order)


@pytest.mark.parametrize("length", [60, 249])
def test_coded_words_need_a_length_for_what_is_asked(order, length):
  order = dataclasses.replace(order, lengths=(length,))
  message = f"fwe needs a length of at least 250 tokens .* got {length}"
  with pytest.raises(ValueError, match=message):
    _task("fwe").draw(order)


def test_a_chain_has_room_in_the_fewest_lines(order):
  draft = _task("vt").kind().drafter(order, 2048)
  drafted = draft(2, np.random.default_rng(0), 0)
  assert len(drafted.answers) == 5
  assert all(f"VAR {name} = " in drafted.prompt for name in drafted.answers)


def _squad():
  def paragraph(i, question):
    qa = {
      "question": question,
      "answers": [{"text": f"answer {i}"}, {"text": f"other {i}"}],
      "is_impossible": i == 1,
    }
    return {"context": f"It is about {i}.", "qas": [qa]}

  return {
    "data": [
      {
        "paragraphs": [
          paragraph(i, f"What is {i}?") for i in range(4 * k, 4 * k + 4)
        ]
      }
      for k in range(10)
    ]
  }


def _hotpotqa():
  return [
    {
      "question": f"Who is {i}?",
      "answer": f"answer {i}",
      "context": [[f"title {i}", ["One. ", "Two."]], ["title", ["Three."]]],
    }
    for i in range(30)
  ]


def test_no_question_is_asked_twice(order, tmp_path):
  path = tmp_path / "data.json"
  path.write_text(json.dumps(_hotpotqa()))
  order = dataclasses.replace(order, lengths=(300, 600), counts=(3, 31))
  with pytest.raises(ValueError, match="has 30 questions, got 31 samples"):
    _task("qa_2", hotpotqa=str(path)).draw(order)


@pytest.mark.parametrize(
  "name, field, data, own",
  [
    ("qa_1", "squad", _squad(), "It is about 0."),
    ("qa_2", "hotpotqa", _hotpotqa(), "title 0\nOne. Two."),
  ],
)
def test_questions_stand_with_their_document(
  order, tmp_path, name, field, data, own
):
  path = tmp_path / "data.json"
  path.write_text(json.dumps(data))
  order = dataclasses.replace(order, lengths=(300,))
  (samples,) = _task(name, **{field: str(path)}).draw(order).values()
  first = samples[0]
  assert own in first.prompt and first.alternatives
  assert first.answers[0] == "answer 0"
  # An impossible question is left out.
  assert samples[1].answers[0] == {"qa_1": "answer 2", "qa_2": "answer 1"}[name]
  path.write_text("{}")
  with pytest.raises(ValueError, match=f"{name} needs the file of http"):
    _task(name, **{field: str(path)}).draw(order)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"tasks": ()}, "Ruler.tasks must be some of niah_single_1"),
    ({"tasks": ("niah",)}, "got niah. Name"),
    ({"wording": "long"}, "Ruler.wording must be one of ruler, short"),
  ],
)
def test_unknown_names_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    ruler.Ruler(**fields)
