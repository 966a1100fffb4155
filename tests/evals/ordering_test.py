"""Prompts on order, answered by readers with and without a sense of it."""

import re

import pytest

from drope_jax.evals import interface, matching, needles, ordering
from drope_jax.evals.task import Order

CONDITION = interface.Condition("tiny", "model")
WORDS = tuple(f"{a}{b}" for a in "bdfglmnprt" for b in ("ark", "ell", "oon"))
TASKS = {task.name: task for task in ordering.TASKS}


def _samples(name, tokenizer, documents, length=300, count=30, **more):
  fields = {
    "encode": tokenizer.encode,
    "decode": tokenizer.decode,
    "documents": documents,
    "context_tokens": 64,
    "lengths": (length,),
    "counts": (count,),
    "excerpts": 1,
    "seed": 3,
    "prefix": (),
    "needles": needles.Needles(words=WORDS),
    "max_new_tokens": None,
  }
  return TASKS[name].draw(Order(**fields | more))[length]


def _reader(prompt):
  """Answers from the text alone."""
  body, ask = prompt.rsplit("\n", 1)
  if number := re.search(r"is number (\d+)\?", ask):
    (listed,) = re.findall(r"The list is: (.*?)\.", body)
    return " " + listed.split(", ")[int(number[1]) - 1] + "."
  told = re.findall(r"A word to remember: (\w+)\.", body)
  asked = ask.split("?")[0].split(" in the order")[0]
  assert all(word in asked for word in told)
  if "came first" in ask:
    return f" {told[0]}."
  return " " + ", ".join(told) + "."


def _blind(prompt):
  """Repeats the question's items in the question's order, or the list's."""
  ask = prompt.rsplit("\n", 1)[1] + prompt
  return " " + ", ".join(re.findall("|".join(WORDS), ask)[:4]) + "."


def _evaluate(name, lm, documents, answer, count=30):
  samples = _samples(name, lm.tokenizer, documents, count=count)
  strict, loose = TASKS[name].evaluate(lm(answer), samples, CONDITION)
  assert (strict.metric, loose.metric) == ("accuracy", "string_match_all")
  return strict, loose


@pytest.fixture
def lm(fake_lm, tokenizer):
  def made(answer):
    model = fake_lm(answer=answer)
    model.tokenizer = tokenizer
    model.with_logit_scale = lambda scale: model
    return model

  made.tokenizer = tokenizer
  return made


@pytest.mark.parametrize("name", TASKS)
def test_a_reader_with_order_is_right(lm, documents, name):
  strict, _ = _evaluate(name, lm, documents, _reader)
  assert strict.value == 1.0
  assert strict.errors == dict.fromkeys(matching.ORDERED_ERRORS, 0)
  assert strict.series


def test_all_items_in_another_order_are_a_wrong_order(lm, documents):
  strict, loose = _evaluate("in_order", lm, documents, _blind, count=100)
  # One order of 24 is right by chance.
  assert strict.value < 0.15 and loose.value == 1.0
  assert strict.errors["wrong order"] == 100 * (1 - strict.value)


def test_the_other_one_is_a_wrong_value(lm, documents):
  def last(prompt):
    told = re.findall(r"remember: (\w+)\.", prompt)
    return f" {told[-1]}."

  strict, _ = _evaluate("which_first", lm, documents, last)
  assert strict.value == 0 and strict.errors["wrong value"] == 30


def test_the_question_does_not_give_the_order_away(lm, documents):
  # The first one named is right half the time.
  def first_named(prompt):
    return " " + re.search(r"Which of (\w+) and", prompt)[1] + "."

  strict, _ = _evaluate("which_first", lm, documents, first_named, count=200)
  assert 0.39 < strict.value < 0.61  # Three standard deviations.


@pytest.mark.parametrize("name", TASKS)
def test_prompts_fill_their_length_and_depend_on_seed_and_index(
  tokenizer, documents, name
):
  made = _samples(name, tokenizer, documents)
  new = TASKS[name].max_new_tokens
  assert all(298 <= len(s.prompt_tokens) + new <= 300 for s in made)
  assert all(s.length == 300 and s.max_new_tokens == new for s in made)
  assert made[:5] == _samples(name, tokenizer, documents, count=5)
  assert not {*made} & {*_samples(name, tokenizer, documents, seed=4)}
  with_bos = _samples(name, tokenizer, documents, prefix=(0,))
  assert all(s.prompt_tokens[0] == 0 for s in with_bos)
  assert max(len(s.prompt_tokens) for s in with_bos) + new <= 300


def test_too_few_words_and_too_short_a_length_are_refused(tokenizer, documents):
  few = needles.Needles(words=WORDS[:3])
  with pytest.raises(ValueError, match="in_order needs 4 words, got 3"):
    _samples("in_order", tokenizer, documents, needles=few)
  with pytest.raises(ValueError, match="got a length of 40"):
    _samples("in_order", tokenizer, documents, length=40)
