import pytest

from drope_jax.evals import periodic
from drope_jax.evals.suite import Suite

SUITE = Suite(
  evals=("perplexity", "passkey"),
  methods=("model", "crop"),
  factors=(1.0, 1.5),
  samples=(1, 1),
)


def test_a_score_has_a_name_by_which_the_best_is_chosen():
  scores = dict(periodic.Periodic(SUITE).scores())
  # None with a fitted scale at 1x.
  assert len(scores) == (3 + 2) * 2 * (2 + 1)
  assert scores["perplexity.tail_loss.1.5x.crop.scaled"].name == "tail_loss"
  for name, highest in (
    ("passkey.accuracy.1x", True),
    ("perplexity.tail_loss.1.5x.scaled", False),
  ):
    assert periodic.Periodic(SUITE, best=name).best_is_highest is highest


@pytest.mark.parametrize(
  ("field", "value", "said"),
  [
    ("best", "passkey.accuracy.2x", "score of the suite, got 'passkey.acc"),
    ("best", "passkey.accuracy.1x.scaled", "score of the suite, got 'passkey"),
    ("every_steps", 0, "at least 1, got 0"),
    ("budget_minutes", 0.0, "more than 0, got 0.0"),
  ],
)
def test_what_cannot_be_is_refused(field, value, said):
  with pytest.raises(ValueError, match=said):
    periodic.Periodic(SUITE, **{field: value})
