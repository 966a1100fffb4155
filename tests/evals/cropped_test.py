"""What a cropped model reads, and that every token is scored once."""

import numpy as np
import pytest

from drope_jax.evals import cropped, interface


class Spy:
  """Scores a token by (itself, the tokens before it), as one number."""

  eos_id, bos_id, context_tokens = 0, 1, 8

  def __init__(self):
    self.read = []

  def loglikelihood(self, sequences):
    self.read += [list(s) for s in sequences]
    return [
      np.array([1000 * token + i for i, token in enumerate(s)][1:])
      for s in sequences
    ]

  def score(self, contexts, endings):
    assert all(contexts)
    whole = [[*c, *e] for c, e in zip(contexts, endings, strict=True)]
    log_p = [
      x[len(x) - len(ending) :]
      for x, ending in zip(self.loglikelihood(whole), endings, strict=True)
    ]
    return [interface.Scored(x, x % 2 == 0) for x in log_p]

  def generate(self, prompts, max_new_tokens, stop=()):
    self.read += [list(p) for p in prompts]
    return [[0]] * len(prompts)

  def logit_scale_at(self, tokens):
    return float(tokens)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 30])
@pytest.mark.parametrize("bos", [(), (1,)])
def test_each_token_is_scored_once_after_half_a_context_or_more(bos, length):
  spy = Spy()
  sequence = [*bos, *range(10, 10 + length)]
  other = [7, 8, 9]
  first, second = cropped.Cropped(spy).loglikelihood([sequence, other])
  for start in {1, len(sequence) // 2, len(sequence)} - {0}:
    ending = first[start - 1 :]
    scored = cropped.Cropped(spy).score(
      [sequence[:start], other[:2]], [sequence[start:], other[2:]]
    )
    np.testing.assert_array_equal(scored[0].log_p, ending)
    np.testing.assert_array_equal(scored[0].is_top, ending % 2 == 0)
    np.testing.assert_array_equal(scored[1].log_p, second[1:])
  tokens, before = np.divmod(first, 1000)
  assert tokens.tolist() == sequence[1:]
  assert np.divmod(second, 1000)[0].tolist() == [8, 9]
  place = np.arange(1, len(sequence))
  np.testing.assert_array_equal(before[place < 8], place[place < 8])
  assert ((before >= 4) | (place < 8)).all()
  for read in spy.read:
    assert len(read) <= 8
    assert read[: len(bos)] == [*bos] or read == other


def test_a_prompt_keeps_its_end_and_room_for_the_answer():
  spy = Spy()
  lm = cropped.Cropped(spy)
  lm.generate([[1, *range(10, 30)], [5, 6]], 3)
  assert spy.read == [[1, 26, 27, 28, 29], [5, 6]]
  with pytest.raises(ValueError, match="got an answer of 8. Lower"):
    lm.generate([[5, 6]], 8)


def test_its_scale_is_that_of_what_it_reads():
  lm = cropped.Cropped(Spy())
  assert [lm.logit_scale_at(n) for n in (5, 64)] == [5.0, 8.0]
