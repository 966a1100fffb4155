"""Which sequences are read together, and what of them once."""

import numpy as np

from drope_jax.inference import batching
from drope_jax.positional import Rope

HAYSTACK = [*range(3, 103)]


def _prompts(sequences, scales=None, most=8):
  scales = scales or {}
  return list(
    batching.of_prompts(
      sequences,
      scheme_at=lambda tokens: Rope(),
      scale_at=lambda tokens: scales.get(tokens, 1.0),
      batch_size=lambda tokens, shared: most,
      shareable=lambda tokens: (112, 96, 64),
    )
  )


def test_prompts_that_begin_alike_have_a_batch_of_their_own():
  alike = [[*HAYSTACK, 1], [*HAYSTACK, 2, 3], [*HAYSTACK, 4]]
  others = [[9] * 90, [8] * 100]
  first, second = _prompts([others[0], *alike, others[1]])
  assert (first.shared_tokens, first.rows) == (96, [1, 2, 3])
  assert (second.shared_tokens, second.rows) == (0, [0, 4])
  # The fourth row is a copy.
  assert first.lengths_B.tolist() == [101, 102, 101, 101]
  np.testing.assert_array_equal(first.tokens_BS[3], first.tokens_BS[0])
  assert second.tokens_BS.shape == (2, 128)


def test_what_is_shared_is_the_longest_of_the_lengths():
  longer = [*HAYSTACK, *range(200, 220)]
  (batch,) = _prompts([[*longer, 1], [*longer, 2]])
  assert batch.shared_tokens == 112
  shorter = HAYSTACK[:70]
  (batch,) = _prompts([[*shorter, 1], [*shorter, 2]])
  assert batch.shared_tokens == 64


def test_prompts_of_other_scales_share_nothing():
  sequences = [[*HAYSTACK, 1], [*HAYSTACK, 2, 3]]
  (batch,) = _prompts(sequences, scales={101: 1.5})
  assert batch.shared_tokens == 0
  assert batch.scale_B.tolist() == [1.5, 1.0]


def test_endings_of_a_context_share_a_batch_with_others_of_their_shape():
  contexts = [[5] * 9, [6] * 12, [5] * 9, [6] * 12, [7] * 9, [4]]
  endings = [[1], [2, 2], [3], [4], [8, 8], [9] * 3]
  batches = list(
    batching.of_endings(
      contexts,
      endings,
      scheme_at=lambda tokens: Rope(),
      scale_at=float,
      batch_tokens=256,
    )
  )
  # Scales differ by length: those of 6 have one context each, those of 5 share.
  rows = [sorted(batch.rows) for batch in batches]
  assert sorted(sum(rows, [])) == [0, 1, 2, 3, 4, 5]
  (shared,) = [batch for batch in batches if 0 in batch.rows]
  assert {0, 2} == {*shared.rows}
  assert shared.before_RP[0, :8].tolist() == [5] * 8
  assert shared.before_R[0] == 8 and len(shared.before_R) == 1
  assert shared.tokens_BS[:, :2].tolist() == [[5, 1], [5, 3]]
  assert np.argwhere(shared.wanted_BS).tolist() == [[0, 0], [1, 0]]
  (alone,) = [batch for batch in batches if 5 in batch.rows]
  assert alone.before_RP.size == 0 and alone.wanted_BS.sum() == 3


def test_copies_of_a_long_context_are_few():
  contexts, endings = [[5] * 1000] * 60, [[i] for i in range(60)]
  batches = list(
    batching.of_endings(
      contexts,
      endings,
      scheme_at=lambda tokens: Rope(),
      scale_at=lambda tokens: 1.0,
      batch_tokens=2048,
    )
  )
  assert sorted(sum((batch.rows for batch in batches), [])) == [*range(60)]
  for batch in batches:
    copies, tokens = batch.tokens_BS.shape
    assert copies * (batch.before_RP.shape[1] + tokens) <= 4 * 2048
  assert len(batches) == 9  # 7 copies of 1024 + 8 tokens in each.
