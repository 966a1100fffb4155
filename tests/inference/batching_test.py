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


def test_endings_of_a_context_read_it_once():
  contexts = [[5] * 9, [6] * 12, [5] * 9, [6] * 12, [7] * 9, [4]]
  endings = [[1], [2, 2], [3], [4], [8, 8], [9] * 3]
  alone, shared = batching.of_endings(
    contexts,
    endings,
    scheme_at=lambda tokens: Rope(),
    scale_at=float,
    batch_tokens=256,
    join_tokens=64,
  )
  assert alone.rows == {0: 5} and alone.before_RP.size == 0
  assert alone.wanted_BS.sum() == 3
  # Scales differ by length, so [6] * 12 is a question for each of its endings.
  assert shared.before_R.tolist() == [11, 11, 8, 8]
  assert shared.rows == {0: 1, 2: 3, 4: 4, 6: 0, 7: 2}
  assert shared.scale_B.tolist() == [14, 14, 13, 13, 11, 11, 10, 10]
  assert shared.before_RP[3].tolist() == [5] * 8 + [0] * 8
  assert shared.tokens_BS[6:, :2].tolist() == [[5, 0], [5, 0]]
  assert shared.next_BS[6:, 0].tolist() == [1, 3]
  assert np.argwhere(shared.wanted_BS[4:]).tolist() == [
    [0, 0],
    [0, 1],
    [2, 0],
    [3, 0],
  ]


def _shapes(contexts, endings, batch_tokens=1024, join_tokens=256):
  batches = list(
    batching.of_endings(
      contexts,
      endings,
      scheme_at=lambda tokens: Rope(),
      scale_at=lambda tokens: 1.0,
      batch_tokens=batch_tokens,
      join_tokens=join_tokens,
    )
  )
  read = [row for batch in batches for row in batch.rows.values()]
  assert sorted(read) == [*range(len(contexts))]
  for batch in batches:
    for i, row in batch.rows.items():
      ids = [batch.tokens_BS[i, 0], *batch.next_BS[i].tolist()]
      n = len(batch.tokens_BS) // len(batch.before_R)
      before = batch.before_RP[i // n, : batch.before_R[i // n]].tolist()
      whole = [*contexts[row], *endings[row]]
      assert (before + ids)[: len(whole)] == whole
  return [(b.before_RP.shape, b.tokens_BS.shape) for b in batches]


def test_copies_of_a_long_context_are_few():
  shapes = _shapes([[5] * 1000] * 60, [[i] for i in range(60)], 2048, 0)
  for (_, P), (copies, S) in shapes:
    assert copies * (P + S) <= 4 * 2048
  assert len(shapes) == 9  # 7 copies of 1024 + 8 tokens in each.


def test_similar_shapes_are_one_where_that_is_cheaper_than_compiling():
  first, second = [[5] * 30, [6] * 40], [[7] * 3, [8] * 9]
  # 8 tokens more before, 8 more in a row, and a row more of the second.
  contexts = [first[0], first[0], first[1]]
  assert _shapes(contexts, [*second, [1]]) == [((2, 40), (4, 16))]
  # A long question is not worth the padding of many short ones.
  many = [[i] * 30 for i in range(40)]
  shapes = _shapes([*many, [90] * 500], [[1]] * 41)
  assert len(set(shapes)) == 2 and ((1, 512), (1, 8)) in shapes
  assert len(set(_shapes([*many, [90] * 90], [[1]] * 41))) == 2
  at_any_cost = _shapes([*many, [90] * 90], [[1]] * 41, join_tokens=4096)
  assert set(at_any_cost) == {((9, 96), (9, 8))}
  # Nor does one that fills a batch become longer.
  assert len(_shapes([[5] * 999, [6] * 1020], [[1]] * 2)) == 2


def test_batches_of_a_shape_are_even():
  contexts = [[i] * 57 for i in range(3, 23)]
  shapes = _shapes(contexts, [[1]] * 20)
  assert shapes == [((10, 56), (10, 8))] * 2  # 16 would fit, and then 4.


def test_a_batch_that_is_split_over_devices_reads_no_more_tokens():
  texts = [[i] * 121 for i in range(3, 23)]
  batches = list(
    batching.of_endings(
      [text[:1] for text in texts],
      [text[1:] for text in texts],
      scheme_at=lambda tokens: Rope(),
      scale_at=lambda tokens: 1.0,
      batch_tokens=1280,
      join_tokens=0,
      on_mesh=True,
      row_shards=4,
    )
  )
  # 10 of 128 tokens would fit, but not 12.
  assert [batch.tokens_BS.shape for batch in batches] == [(8, 128)] * 3
