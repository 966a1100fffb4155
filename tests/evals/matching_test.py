"""What counts as an answer, and what kind of error it is otherwise."""

import pytest

from drope_jax.evals import matching, retrieval


@pytest.mark.parametrize(
  "output, exact, share",
  [
    (" Art.", True, 1.0),
    (" party.", False, 1.0),
    (" artful.", False, 1.0),
    (" the art of. sea", True, 1.0),
    (" sea. The art", False, 1.0),
    (" art, sea.", False, 1.0),
    (" ar", False, 0.0),
    ("", False, 0.0),
  ],
)
def test_an_answer_is_a_whole_word_of_the_first_sentence(output, exact, share):
  said = matching.first_part(output, retrieval.SENTENCE_END)
  assert matching.is_exact(said, ["art"], ["sea"]) is exact
  assert matching.string_match_all(output, ["art"]) == share


def test_several_answers_give_partial_credit_in_any_order():
  answers = ["sea", "art"]
  assert matching.is_exact(" art, sea", answers)
  assert not matching.is_exact(" art", answers)
  assert matching.string_match_all(" art", answers) == 0.5


def test_one_of_the_alternatives_is_enough():
  answers = ["the sea", "sea"]
  assert matching.is_exact(" Sea", answers, alternatives=True)
  assert matching.string_match_part(" seas", answers) == 1.0
  assert matching.string_match_part(" land", answers) == 0.0


@pytest.mark.parametrize(
  "said, kind",
  [
    (" I do not know", matching.NOTHING),
    ("", matching.NOTHING),
    (" 7654321", matching.WRONG),
    (" 1234567 and 7654321", matching.WRONG),
    (" 12345", matching.TRUNCATED),
    (" 123", matching.TRUNCATED),
    (" 12", matching.NOTHING),
    (" 9912345", matching.NOTHING),
    (" 1234567", matching.INCOMPLETE),
    (" 1234567, 24681", matching.TRUNCATED),
  ],
)
def test_kinds_of_errors(said, kind):
  answers = ["1234567", "2468101"]
  assert not matching.is_exact(said, answers, ["7654321"])
  assert matching.error(said, answers, ["7654321"]) == kind


def test_an_order_counts_where_it_is_asked_for():
  said = " ship, mast and sea"
  for answers, right in (
    (["ship", "mast", "sea"], True),
    (["mast", "ship", "sea"], False),
  ):
    assert matching.is_exact(said, answers)
    assert matching.is_exact(said, answers, ordered=True) == right
  assert matching.error(said, answers, []) == matching.DISORDER
  assert matching.error(" mast", answers, []) == matching.INCOMPLETE
