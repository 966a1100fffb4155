import numpy as np
import pytest

from drope_jax.analysis import claims, roles, runs
from drope_jax.evals import intervals


def _answered(share, count=100, seed=0):
  """A score of `count` questions, of which the first ones are answered."""
  right = round(share * count)
  low, high = intervals.wilson(right, count)
  outcomes = [1.0] * right + [0.0] * (count - right)
  return runs.Score(share, low, high, 1, {seed: outcomes})


def _lost(value, spread=0.0, count=8):
  """A score of hard and easy sequences, with `spread` of its own."""
  noise = np.linspace(-1, 1, count)
  outcomes = value + 0.5 * noise + spread * np.roll(noise, count // 3)
  return runs.Score(value, value - 0.3, value + 0.3, 1, {0: outcomes.tolist()})


def _cell(task, metric, model="full", method="model", factor=1.0, fitted=False):
  return runs.Cell(task, metric, model, method, factor, fitted)


ROLES = roles.Roles("base", None, ("full",))


def _found(scores, who=ROLES):
  """The only verdict, and the text of its claim."""
  (claim,) = claims.verdicts(scores, who)
  (verdict,) = claim.verdicts
  return verdict.verdict, verdict.evidence, claim.text


@pytest.mark.parametrize(
  ("after", "verdict"),
  [
    (_lost(2.01), claims.SHOWN),
    (_lost(1.9), claims.SHOWN),
    (_lost(2.03), claims.NOT_SHOWN),
    (_lost(2.01, spread=0.1), claims.OPEN),
    (_lost(2.03, spread=0.1), claims.OPEN),
    (_lost(2.5, count=7), claims.OPEN),
  ],
)
def test_loss_is_recovered_within_one_percent(after, verdict):
  count = len(after.outcomes[0])
  scores = {
    _cell("perplexity", "loss", "base"): _lost(2.0, count=count),
    _cell("perplexity", "loss"): after,
  }
  found, evidence, _ = _found(scores)
  assert found == verdict and f"{count} sequences" in evidence


def test_continued_rope_is_the_reference_if_it_exists():
  scores = {
    _cell("perplexity", "loss", "base"): _lost(3.0),
    _cell("perplexity", "loss", "longer"): _lost(2.0),
    _cell("perplexity", "loss"): _lost(2.5),
  }
  assert _found(scores)[0] == claims.SHOWN
  continued = ROLES._replace(continued="longer")
  verdict, _, text = _found(scores, continued)
  assert verdict == claims.NOT_SHOWN and "longer" in text


@pytest.mark.parametrize(
  ("far", "verdict"),
  [(2.05, claims.SHOWN), (2.3, claims.NOT_SHOWN)],
)
@pytest.mark.parametrize("worse", [4.0, float("nan")])
def test_far_loss_is_compared_with_the_best_scaling(far, verdict, worse):
  def tail(value, *cell):
    return {_cell("perplexity", "tail_loss", *cell): _lost(value)}

  scores = {
    **tail(9.0, "base", "model", 8.0),
    **tail(worse, "base", "pi", 8.0),
    **tail(2.0, "base", "yarn", 8.0),
    **tail(1.0, "base", "yarn", 2.0),
    **tail(far, "full", "model", 8.0),
  }
  found, evidence, text = _found(scores)
  assert found == verdict and "2.000" in evidence
  assert "At 8×" in text and "base · YaRN" in text


def _retrieval(own, rivals, fitted=False, factor=4.0):
  """Scores at one length; `rivals` by method of the base."""
  cell = _cell("multi_key", "accuracy", "full", "model", factor, fitted)
  scores = {cell: own} if own else {}
  for method, score in rivals.items():
    scores[cell._replace(model="base", method=method)] = score
  return scores


@pytest.mark.parametrize(
  ("own", "rival", "verdict", "said"),
  [
    (0.9, 0.7, claims.SHOWN, "+20 points"),
    (0.9, 0.89, claims.OPEN, "+1 points"),
    (0.7, 0.9, claims.NOT_SHOWN, "-20 points"),
  ],
)
def test_the_paired_difference_decides_on_retrieval(own, rival, verdict, said):
  rivals = {"pi": _answered(0.0), "yarn": _answered(rival)}
  found, evidence, text = _found(_retrieval(_answered(own), rivals, True))
  assert found == verdict and said in evidence and "100 questions" in evidence
  assert "base · YaRN" in evidence and "At 4×" in text


def test_scores_with_overlapping_intervals_can_differ():
  own, rival = _answered(0.9), _answered(0.82)
  assert own.low < rival.high
  assert _found(_retrieval(own, {"yarn": rival}))[0] == claims.SHOWN


def test_a_model_must_beat_every_rival():
  own, pi, yarn = (_answered(share) for share in (0.5, 0.38, 0.4))
  # PI answers other questions, so it is not told apart with fewer answers.
  pi.outcomes[0].reverse()
  both = _found(_retrieval(own, {"pi": pi, "yarn": yarn}))[0]
  alone = _found(_retrieval(own, {"yarn": yarn}))[0]
  assert (both, alone) == (claims.OPEN, claims.SHOWN)


def test_a_cropped_base_is_not_a_scaling():
  scores = _retrieval(
    _answered(0.9), {"yarn": _answered(0.5), "crop": _answered(1.0)}
  )
  assert _found(scores)[0] == claims.SHOWN


def test_other_questions_are_not_compared():
  rivals = {"yarn": _answered(0, seed=1)}
  found, evidence, _ = _found(_retrieval(_answered(0.9), rivals))
  assert found == claims.OPEN and "no questions" in evidence


def test_a_fitted_scale_is_never_compared_with_none():
  fitted = _retrieval(_answered(1.0), {}, fitted=True)
  rival = _retrieval(None, {"yarn": _answered(0.5)})
  assert claims.verdicts(fitted | rival, ROLES) == []
  plain = _retrieval(_answered(0.2), {})
  assert _found(fitted | plain | rival)[0] == claims.NOT_SHOWN


def test_a_rival_without_a_fitted_scale_is_not_left_out():
  own, weak, strong = (_answered(share) for share in (0.6, 0.2, 1.0))
  fitted = _retrieval(own, {"pi": weak}, fitted=True)
  plain = _retrieval(own, {"pi": weak, "yarn": strong})
  assert _found(fitted | plain)[0] == claims.NOT_SHOWN


def test_each_dropped_model_has_its_verdict():
  scores = _retrieval(_answered(0.9), {"yarn": _answered(0.5)}, factor=8.0)
  (cell,) = (c for c in scores if c.model == "full")
  scores[cell._replace(model="brief")] = _answered(0.1)
  (claim,) = claims.verdicts(scores, ROLES._replace(dropped=("brief", "full")))
  assert [v[:2] for v in claim.verdicts] == [
    ("brief", claims.NOT_SHOWN),
    ("full", claims.SHOWN),
  ]


def test_there_are_no_claims_without_a_base_or_a_drop():
  scores = _retrieval(_answered(0.9), {"yarn": _answered(0.5)})
  assert claims.verdicts(scores, ROLES)
  assert not claims.verdicts(scores, ROLES._replace(base=None))
  assert not claims.verdicts(scores, ROLES._replace(dropped=()))


def test_the_longest_factor_is_compared_if_the_usual_ones_are_missing():
  scores = {
    _cell("passkey", "accuracy", model, "model", factor, True): _answered(value)
    for model, value in (("full", 0.9), ("base", 0.1))
    for factor in (1.0, 2.0)
  }
  beyond, ahead = claims.verdicts(scores, ROLES)
  assert "At 2×" in ahead.text
  assert beyond.verdicts[0].verdict == claims.SHOWN
  assert "at 2×" in beyond.verdicts[0].evidence


def _beyond(own_by_factor):
  scores = {}
  for factor, own in own_by_factor.items():
    for fitted in (False, True):
      cell = _cell("multi_key", "accuracy", "full", "model", factor, fitted)
      scores[cell] = _answered(own * fitted)
      scores[cell._replace(model="base")] = _answered(0.0)
  return claims.verdicts(scores, ROLES)[0].verdicts[0]


def test_the_evidence_has_the_longest_factor_at_which_it_beats_rope():
  shown = _beyond({2.0: 0.5, 4.0: 0.3, 8.0: 0.02})
  assert shown.verdict == claims.SHOWN and "at 4×: 30%" in shown.evidence
  lost = claims.verdicts(
    {
      _cell("multi_key", "accuracy", model, "model", factor): _answered(share)
      for model, shares in (("full", (0.0, 1.0)), ("base", (1.0, 0.0)))
      for factor, share in zip((2.0, 4.0), shares, strict=True)
    },
    ROLES,
  )[0].verdicts[0]
  assert lost.verdict == claims.NOT_SHOWN and "at 2×: 0%" in lost.evidence
  missed = _beyond({2.0: 0.02, 4.0: 0.0})
  assert missed.verdict == claims.OPEN and "at 2×" in missed.evidence
