import dataclasses
import json
import math

import pytest

from drope_jax.evals import logit_scale, perplexity

DOCUMENTS = [[0] * 512]


@pytest.mark.parametrize("best", [-0.15, 0.0, 0.1, 0.412, 0.77, 1.15])
@pytest.mark.parametrize("factor", [2, 8])
def test_fit_recovers_a_known_optimum(fake_lm, best, factor):
  scale_best = 1 + best * math.log(factor)
  lm = fake_lm(
    loss=lambda position, scale: 3 + (scale - scale_best) ** 2 + 0 * position
  )
  got = logit_scale.fit(lm, DOCUMENTS, factor)
  # (1.2 + 0.2) 0.618^7: what golden section leaves of the range.
  assert got.c == pytest.approx(best, abs=0.049)
  assert got.scale == pytest.approx(1 + got.c * math.log(factor))
  assert len(got.losses) == 9 and (0.0 in dict(got.losses))
  unscaled = perplexity.mean_loss(lm, DOCUMENTS, 1.0)
  assert min(dict(got.losses).values()) == dict(got.losses)[got.c] <= unscaled


def test_a_fit_multiplies_the_scale_that_the_model_has(fake_lm):
  lm = fake_lm(loss=lambda position, scale: abs(scale - 2.6) + 0 * position)
  fits = [
    logit_scale.fit(lm.with_logit_scale(own), DOCUMENTS, math.e)
    for own in (2.0, 2.6)
  ]
  assert [fit.scale for fit in fits] == pytest.approx([1.3, 1.0], abs=0.05)


def test_a_fit_survives_json(fake_lm):
  lm = fake_lm(loss=lambda position, scale: abs(scale - 1.3) + 0 * position)
  got = logit_scale.fit(lm, DOCUMENTS, 4)
  row = json.loads(json.dumps(dataclasses.asdict(got)))
  assert logit_scale.Fit.from_dict(row) == got


def test_more_evaluations_come_closer(fake_lm):
  lm = fake_lm(loss=lambda position, scale: abs(scale - 1.3) + 0 * position)
  want = 0.3 / math.log(4)
  fits = [
    logit_scale.fit(lm, DOCUMENTS, 4, evaluations=n).c for n in (3, 8, 20)
  ]
  errors = [abs(c - want) for c in fits]
  assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3


def test_scales_follow_the_form_of_the_paper():
  assert logit_scale.scale_at(0.4, math.e) == pytest.approx(1.4)
  assert logit_scale.scale_at(0.7, 1) == 1.0
  with pytest.raises(ValueError, match="must be positive"):
    logit_scale.scale_at(-1.0, 8)


def test_at_the_trained_length_nothing_is_fitted():
  got = logit_scale.fit(None, DOCUMENTS, 1)
  assert (got.c, got.scale, got.losses) == (0.0, 1.0, ())


def test_a_search_of_too_few_evaluations_is_refused(fake_lm):
  with pytest.raises(ValueError, match="needs 3 evaluations or more, got 2"):
    logit_scale.fit(fake_lm(), DOCUMENTS, 2, evaluations=2)
