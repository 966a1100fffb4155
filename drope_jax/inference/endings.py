"""Endings of contexts, in batches of one shape that read each context once."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from drope_jax.positional import Pattern, Scheme


class Batch(NamedTuple):
  """The rows of a forward pass, which are B = R n endings of R contexts.

  Attributes:
    rows: which ending each row is; the rows after these are padding.
    scheme: the positions of all of them.
    before_RP: what n rows in turn begin with: a context without its last token,
      padded on the right; P is 0 where nothing is read before the rows.
    before_R: its tokens without padding.
    tokens_BS: the rest of a context, and an ending, padded on the right.
    wanted_BS: whether the next token is one of the ending.
    scale_B: float32, of the attention logits.
  """

  rows: list[int]
  scheme: Scheme | Pattern
  before_RP: np.ndarray
  before_R: np.ndarray
  tokens_BS: np.ndarray
  wanted_BS: np.ndarray
  scale_B: np.ndarray


def batches(
  contexts: Sequence[Sequence[int]],
  endings: Sequence[Sequence[int]],
  *,
  scheme_at: Callable[[int], Scheme | Pattern],
  scale_at: Callable[[int], float],
  padded: Callable[[int], int],
  batch_tokens: int,
  shares: bool,
  row_shards: int = 1,
) -> Iterator[Batch]:
  """Yields batches with every ending in one of them.

  Contexts that are read first are many and short. So that few shapes are
  compiled, their number in a batch is a power of two, or the most.

  Args:
    contexts, endings: ids; a context has a token at least.
    scheme_at: the positions of a sequence of as many tokens.
    scale_at: its scale of the attention logits.
    padded: the length to which so many tokens are padded.
    batch_tokens: of a batch, with padding, at most; but one context fits.
    shares: whether contexts are read before the rows.
    row_shards: divides R.
  """
  questions: dict[tuple, list[int]] = {}
  for row, (context, ending) in enumerate(zip(contexts, endings, strict=True)):
    tokens = len(context) + len(ending)
    scheme = scheme_at(tokens)
    reads_first = shares and len(context) > 1 and scheme.most_tokens is None
    before = tuple(context[:-1]) if reads_first else ()
    alone = None if before else row  # There is nothing to share.
    key = (before, alone, scheme, scale_at(tokens))
    questions.setdefault(key, []).append(row)
  groups: dict[_Shape, list[_Question]] = {}
  for (before, _, scheme, scale), rows in questions.items():
    P = padded(len(before)) if before else 0
    rest = [len(contexts[r]) + len(endings[r]) - len(before) for r in rows]
    S = padded(max(rest))
    S = min(S, scheme.most_tokens or S)
    most = max((batch_tokens - P) // S, 1)
    for start in range(0, len(rows), most):
      part = rows[start : start + most]
      question = _Question(before, scale, part)
      groups.setdefault(_Shape(P, S, len(part), scheme), []).append(question)
  for shape, members in sorted(groups.items(), key=lambda group: group[0][:3]):
    P, S, n, _ = shape
    most = max(batch_tokens // (P + n * S), 1)
    R = min(len(members), most)
    if P:
      R = min(1 << (R - 1).bit_length(), most)
    R = -(-R // row_shards) * row_shards
    for start in range(0, len(members), R):
      yield _filled(shape, R, members[start : start + R], contexts, endings)


class _Question(NamedTuple):
  """The rows of a context: what is read before them, and their scale."""

  before: tuple[int, ...]
  scale: float
  rows: list[int]


class _Shape(NamedTuple):
  """Of questions that share a batch; n is the number of rows of each."""

  P: int
  S: int
  n: int
  scheme: Scheme | Pattern


def _filled(
  shape: _Shape,
  R: int,
  questions: Sequence[_Question],
  contexts: Sequence[Sequence[int]],
  endings: Sequence[Sequence[int]],
) -> Batch:
  P, S, n, scheme = shape
  before_RP, before_R = np.zeros((R, P), np.int32), np.zeros(R, np.int32)
  tokens_BS = np.zeros((R * n, S), np.int32)
  wanted_BS = np.zeros((R * n, S), bool)
  scale_B = np.ones(R * n, np.float32)
  for i, (before, scale, rows) in enumerate(questions):
    before_R[i] = len(before)
    before_RP[i, : len(before)] = before
    for j, row in enumerate(rows, i * n):
      ids = [*contexts[row][len(before) :], *endings[row]]
      tokens_BS[j, : len(ids)] = ids
      last = len(ids) - 1
      wanted_BS[j, last - len(endings[row]) : last] = True
      scale_B[j] = scale
  rows = [row for question in questions for row in question.rows]
  return Batch(rows, scheme, before_RP, before_R, tokens_BS, wanted_BS, scale_B)
