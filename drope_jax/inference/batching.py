"""How sequences are put together: padded, in batches of few shapes."""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from drope_jax.positional import Pattern, Scheme

# Lengths are padded to a multiple of this at least.
LENGTH_MULTIPLE = 128

# Tokens of a batch's caches, to those that it reads.
_CACHE_RATIO = 4


def bucket(tokens: int, shortest: int | None = None) -> int:
  """Returns the padded length of `tokens`, at most 5/4 of it or 128.

  There are four lengths in each doubling, so that few programs are compiled and
  little of a pass is padding.

  Args:
    tokens: to pad.
    shortest: below 128, a power of two from which there is a length for each
      doubling, for the short questions of benchmarks; None: 128 is the first.
  """
  if shortest is not None and tokens <= LENGTH_MULTIPLE:
    return max(2 ** math.ceil(math.log2(tokens)), shortest)
  step = max(2 ** (math.ceil(math.log2(tokens)) - 3), LENGTH_MULTIPLE)
  return -(-tokens // step) * step


class Prompts(NamedTuple):
  """A batch of prompts.

  Attributes:
    scheme: the positions of all of them.
    rows: which prompt each row is; the rows after these are copies.
    tokens_BS: padded on the right.
    lengths_B: their tokens without padding.
    scale_B: float32, of the attention logits.
    shared_tokens: of the beginning that all have, read once; may be 0.
  """

  scheme: Scheme | Pattern
  rows: list[int]
  tokens_BS: np.ndarray
  lengths_B: np.ndarray
  scale_B: np.ndarray
  shared_tokens: int


def of_prompts(
  sequences: Sequence[Sequence[int]],
  *,
  scheme_at: Callable[[int], Scheme | Pattern],
  scale_at: Callable[[int], float],
  batch_size: Callable[[int, int], int],
  shareable: Callable[[int], Sequence[int]],
  row_shards: int = 1,
) -> Iterator[Prompts]:
  """Yields batches with every prompt in one of them.

  Prompts of similar length share a batch if their positions are the same. Those
  in a row that begin alike have batches of their own. An incomplete batch is
  filled with copies of its first row, so that its shape is not compiled again
  and splits over devices.

  Args:
    sequences: ids.
    scheme_at: the positions of a prompt of as many tokens.
    scale_at: its scale of the attention logits.
    batch_size: of prompts of as many padded tokens, of which so many are the
      same and read once.
    shareable: how many tokens of so many may be read once, longest first.
    row_shards: divides B.

  Raises:
    ValueError: a prompt is empty.
  """
  _require_tokens(sequences)
  groups: dict[tuple[int, Scheme | Pattern], list[int]] = {}
  scales = [scale_at(len(ids)) for ids in sequences]
  for row, ids in enumerate(sequences):
    scheme = scheme_at(len(ids))
    S = bucket(len(ids))
    S = min(S, scheme.most_tokens or S)
    groups.setdefault((S, scheme), []).append(row)
  for (S, scheme), of_shape in sorted(groups.items(), key=lambda g: g[0][0]):
    for shared, rows in _alike(sequences, scales, of_shape, shareable(S)):
      most = batch_size(S, shared)
      B = min(len(rows), most)
      if shared:  # So that few shapes are compiled.
        B = min(_power_of_two(B), most)
      B = -(-B // row_shards) * row_shards
      for start in range(0, len(rows), B):
        some = rows[start : start + B]
        filled = some + some[:1] * (B - len(some))
        tokens_BS = np.zeros((B, S), np.int32)
        for i, row in enumerate(filled):
          tokens_BS[i, : len(sequences[row])] = sequences[row]
        lengths_B = np.array([len(sequences[row]) for row in filled], np.int32)
        scale_B = np.array([scales[row] for row in filled], np.float32)
        yield Prompts(scheme, some, tokens_BS, lengths_B, scale_B, shared)


def _alike(
  sequences: Sequence[Sequence[int]],
  scales: Sequence[float],
  rows: Sequence[int],
  lengths: Sequence[int],
) -> Iterator[tuple[int, list[int]]]:
  """Yields rows that begin alike, with the length of that; 0 for the others."""
  others = []
  while rows:
    alike = functools.partial(_begin_alike, sequences, scales, rows[0])
    runs = (
      (n, [*itertools.takewhile(functools.partial(alike, length=n), rows)])
      for n in lengths
    )
    alone = 0, [rows[0]]
    shared, run = next((found for found in runs if len(found[1]) > 1), alone)
    if shared:
      yield shared, run
    else:
      others += run
    rows = rows[len(run) :]
  if others:
    yield 0, others


def _begin_alike(
  sequences: Sequence[Sequence[int]],
  scales: Sequence[float],
  first: int,
  second: int,
  *,
  length: int,
) -> bool:
  """Returns whether two are the same up to a length, and longer than that."""
  one, other = sequences[first], sequences[second]
  return (
    scales[first] == scales[second]
    and min(len(one), len(other)) > length
    and [*one[:length]] == [*other[:length]]
  )


class Endings(NamedTuple):
  """A batch of B = R n endings, n of each of R contexts.

  Attributes:
    scheme: the positions of all of them.
    rows: which ending each row is; the rows after these are padding.
    before_RP: what n rows in turn begin with: a context without its last token,
      padded on the right; P is 0 where nothing is read before the rows.
    before_R: its tokens without padding.
    tokens_BS: the rest of a context, and an ending, padded on the right.
    wanted_BS: whether the next token is one of the ending.
    scale_B: float32, of the attention logits.
  """

  scheme: Scheme | Pattern
  rows: list[int]
  before_RP: np.ndarray
  before_R: np.ndarray
  tokens_BS: np.ndarray
  wanted_BS: np.ndarray
  scale_B: np.ndarray


def of_endings(
  contexts: Sequence[Sequence[int]],
  endings: Sequence[Sequence[int]],
  *,
  scheme_at: Callable[[int], Scheme | Pattern],
  scale_at: Callable[[int], float],
  batch_tokens: int,
  on_mesh: bool = False,
  row_shards: int = 1,
) -> Iterator[Endings]:
  """Yields batches with every ending in one of them.

  Contexts that are read first are many and short. So that few shapes are
  compiled, their number in a batch is a power of two, or the most.

  Args:
    contexts, endings: ids.
    scheme_at: the positions of a sequence of as many tokens.
    scale_at: its scale of the attention logits.
    batch_tokens: that a batch reads, with padding, at most; its cache, in which
      each row has its own copy of the context, holds 4 times as many. But one
      ending fits.
    on_mesh: whether devices split the tokens of a row. Each row is then a whole
      sequence.
    row_shards: divides R.

  Raises:
    ValueError: a context is empty.
  """
  _require_tokens(contexts)
  shortest = LENGTH_MULTIPLE // (4 if on_mesh else 16)
  padded = functools.partial(bucket, shortest=shortest)
  questions: dict[tuple, list[int]] = {}
  for row, (context, ending) in enumerate(zip(contexts, endings, strict=True)):
    tokens = len(context) + len(ending)
    scheme = scheme_at(tokens)
    whole = on_mesh or scheme.most_tokens is not None
    before = () if whole else tuple(context[:-1])
    alone = None if before else row  # There is nothing to share.
    key = (before, alone, scheme, scale_at(tokens))
    questions.setdefault(key, []).append(row)
  groups: dict[_Shape, list[_Question]] = {}
  for (before, _, scheme, scale), rows in questions.items():
    P = padded(len(before)) if before else 0
    rest = [len(contexts[r]) + len(endings[r]) - len(before) for r in rows]
    S = padded(max(rest))
    S = min(S, scheme.most_tokens or S)
    most = (batch_tokens - P) // S
    if P:
      most = min(most, _CACHE_RATIO * batch_tokens // (P + S))
    most = max(most, 1)
    for start in range(0, len(rows), most):
      part = rows[start : start + most]
      question = _Question(before, scale, part)
      groups.setdefault(_Shape(P, S, len(part), scheme), []).append(question)
  for shape, members in sorted(groups.items(), key=lambda g: g[0][:3]):
    P, S, n, _ = shape
    most = batch_tokens // (P + n * S)
    if P:
      most = min(most, _CACHE_RATIO * batch_tokens // (n * (P + S)))
    most = max(most, 1)
    R = min(len(members), most)
    if P:
      R = min(_power_of_two(R), most)
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
) -> Endings:
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
  all_rows = [row for question in questions for row in question.rows]
  return Endings(
    scheme, all_rows, before_RP, before_R, tokens_BS, wanted_BS, scale_B
  )


def _power_of_two(n: int) -> int:
  """Returns the least that is at least n."""
  return 1 << (n - 1).bit_length()


def _require_tokens(sequences: Sequence[Sequence[int]]) -> None:
  if not all(map(len, sequences)):
    raise ValueError(
      "A sequence needs at least one token, got an empty one. Begin it "
      "with BOS, or with text."
    )
