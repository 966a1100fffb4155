"""Which tokens recur, from how far back, and what their losses are."""

import numpy as np
import pytest

from drope_jax.evals import interface, recall

CONDITION = interface.Condition("tiny", "crop", logit_scale=2.0)


@pytest.mark.parametrize("vocabulary", [2, 5, 8])
def test_last_pairs_are_those_of_a_search(vocabulary):
  ids = np.random.default_rng(0).integers(vocabulary, size=200)
  distance, hit = recall.last_pairs(ids)
  for i in range(len(ids)):
    before = [
      j
      for j in range(2, i)
      if i >= 2 and (ids[j - 2 : j] == ids[i - 2 : i]).all()
    ]
    assert distance[i] == (i - before[-1] if before else 0)
    assert hit[i] == (bool(before) and ids[before[-1]] == ids[i])
  assert hit.any() and not hit.all()


def _evaluate(lm, samples):
  results = recall.Recall().evaluate(lm, samples, CONDITION)
  return {result.metric: result for result in results}


def test_tokens_are_told_apart_by_where_their_pair_last_stood(token_losses):
  token_losses.context_tokens = 10
  filler = [*range(50, 59)]
  ids = [1, 2, 3, 40, 41, 1, 2, 3, *filler, 1, 2, 3, 1, 2, 9]
  got = _evaluate(token_losses, [ids, [*range(70, 70 + len(ids))]])
  # "1 2" is followed by 3 again after 5 and after 12 tokens, and then by 9;
  # "2 3" is followed by 40, by 50 after 5 tokens, and by 1 after 12.
  assert {name: r.outcomes for name, r in got.items()} == {
    "hit_loss": (3.0,),
    "near_hit_loss": (3.0,),
    "far_hit_loss": (3.0,),
    "near_loss": ((3 + 50 + 9) / 3,),
    "far_loss": ((3 + 1) / 2,),
    # The second text has no pair twice, and is left out of all else.
    "new_loss": (
      np.mean([3, 40, 41, 1, 2, *filler[1:], 1, 2, 2]),
      np.mean(range(72, 70 + len(ids))),
    ),
  }
  assert got["hit_loss"].series == ((5, 3.0), (12, 3.0))
  assert got["hit_loss"].factor == len(ids) / 10


def test_the_series_is_by_half_octaves_and_covers_all_hits(fake_lm):
  rng = np.random.default_rng(1)
  samples = rng.integers(4, size=(3, 600)).tolist()
  lm = fake_lm(loss=lambda position, scale: position * scale)
  got = _evaluate(lm, samples)
  distances, losses = [], []
  for ids in samples:
    distance, hit = recall.last_pairs(np.array(ids))
    distances += distance[hit].tolist()
    losses += (2 * np.flatnonzero(hit)).tolist()
  buckets = {}
  for distance, loss in zip(distances, losses, strict=True):
    key = np.floor(2 * np.log2(distance / 64))
    buckets.setdefault(key, []).append(loss)
  want = [np.mean(buckets[key]) for key in sorted(buckets)]
  assert [y for _, y in got["hit_loss"].series] == pytest.approx(want)


def test_a_text_within_the_context_has_nothing_beyond_it(token_losses):
  ids = np.random.default_rng(0).integers(3, size=64).tolist()
  got = _evaluate(token_losses, [ids])
  assert {"near_loss", "hit_loss"} < got.keys()
  assert not {"far_loss", "far_hit_loss"} & got.keys()


def test_what_is_near_is_what_a_context_of_tokens_holds(token_losses):
  # The follower of the first pair is `distance` tokens back.
  for distance, name in ((9, "near_hit_loss"), (10, "far_hit_loss")):
    token_losses.context_tokens = 10
    filler = range(20, 20 + distance - 3)
    ids = [1, 2, 3, *filler, 1, 2, 3]
    got = _evaluate(token_losses, [ids])
    assert name in got
    assert len({"near_hit_loss", "far_hit_loss"} & got.keys()) == 1
