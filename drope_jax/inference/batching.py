"""How sequences are put together: padded, in batches of few shapes."""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
from typing import NamedTuple, TypeAlias

import numpy as np

from drope_jax.positional import Pattern, Scheme

# Lengths are padded to a multiple of this at least.
LENGTH_MULTIPLE = 128

# Tokens of a batch's caches, to those that it reads.
_CACHE_RATIO = 4


def bucket(tokens: int, multiple: int | None = None) -> int:
  """Returns the padded length: at most 5/4 of `tokens`, or a multiple more.

  There are four lengths in each doubling, so that few programs are compiled and
  little of a pass is padding.

  Args:
    tokens: to pad.
    multiple: divides the length; a power of two. None: 128.
  """
  eighth = (1 << (tokens - 1).bit_length()) // 8
  step = max(eighth, multiple or LENGTH_MULTIPLE)
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
    rows: which ending a row is; the rows that are not here are padding.
    before_RP: what n rows in turn begin with: a context without its last token,
      padded on the right; P is 0 where nothing is read before the rows.
    before_R: its tokens without padding.
    tokens_BS: the rest of a context, and an ending without its last token,
      padded on the right.
    next_BS: the token after each.
    wanted_BS: whether that is one of the ending.
    scale_B: float32, of the attention logits.
  """

  scheme: Scheme | Pattern
  rows: dict[int, int]
  before_RP: np.ndarray
  before_R: np.ndarray
  tokens_BS: np.ndarray
  next_BS: np.ndarray
  wanted_BS: np.ndarray
  scale_B: np.ndarray


def of_endings(
  contexts: Sequence[Sequence[int]],
  endings: Sequence[Sequence[int]],
  *,
  scheme_at: Callable[[int], Scheme | Pattern],
  scale_at: Callable[[int], float],
  batch_tokens: int,
  join_tokens: int,
  on_mesh: bool = False,
  row_shards: int = 1,
) -> Iterator[Endings]:
  """Yields batches with every ending in one of them.

  Batches of one shape hold as many contexts each. Similar shapes are one, so
  that few are compiled.

  Args:
    contexts, endings: ids.
    scheme_at: the positions where as many tokens are read: all but the last.
    scale_at: the scale of the attention logits of a sequence of as many tokens.
    batch_tokens: that a batch reads, with padding, at most; its cache, in which
      each row has its own copy of the context, holds 4 times as many. But
      `row_shards` endings fit.
    join_tokens: of padding, at most, that are read more rather than to compile
      another shape.
    on_mesh: whether devices split the tokens of a row. Each row is then a whole
      sequence.
    row_shards: divides R.

  Raises:
    ValueError: a context is empty.
  """
  _require_tokens(contexts)
  multiple = max(LENGTH_MULTIPLE // (4 if on_mesh else 16), 1)
  questions: dict[tuple, list[int]] = {}
  for row, (context, ending) in enumerate(zip(contexts, endings, strict=True)):
    tokens = len(context) + len(ending)
    scheme = scheme_at(max(tokens - 1, 1))
    whole = on_mesh or scheme.most_tokens is not None
    before = () if whole else tuple(context[:-1])
    alone = None if before else row  # There is nothing to share.
    key = (before, alone, scheme, scale_at(tokens))
    questions.setdefault(key, []).append(row)
  by_scheme: dict[Scheme | Pattern, _Groups] = {}
  for (before, _, scheme, scale), rows in questions.items():
    P = bucket(len(before), multiple) if before else 0
    last = max(len(contexts[r]) + len(endings[r]) - 1 for r in rows)
    S = bucket(max(last - len(before), 1), multiple)
    S = min(S, scheme.most_tokens or S)
    most = (batch_tokens - P) // S
    if P:
      most = min(most, _CACHE_RATIO * batch_tokens // (P + S))
    most = max(most, 1)
    groups = by_scheme.setdefault(scheme, {})
    for start in range(0, len(rows), most):
      part = rows[start : start + most]
      members = groups.setdefault(_Shape(P, S, len(part)), [])
      members.append(_Question(before, scale, part))
  for scheme, groups in by_scheme.items():
    for shape, members in sorted(
      _joined(groups, batch_tokens, join_tokens).items()
    ):
      most = shape.most(batch_tokens) // row_shards * row_shards
      batches = -(-len(members) // max(most, row_shards))
      R = -(-len(members) // batches)
      R = -(-R // row_shards) * row_shards
      for start in range(0, len(members), R):
        some = members[start : start + R]
        yield _filled(scheme, shape, R, some, contexts, endings)


class _Question(NamedTuple):
  """The rows of a context: what is read before them, and their scale."""

  before: tuple[int, ...]
  scale: float
  rows: list[int]


class _Shape(NamedTuple):
  """Of questions that share a batch.

  Attributes:
    P: padded tokens of a context, or 0.
    S: padded tokens of each row.
    n: rows of a question.
  """

  P: int
  S: int
  n: int

  @property
  def tokens(self) -> int:
    """That are read for a question."""
    return self.P + self.n * self.S

  def most(self, batch_tokens: int) -> int:
    """Returns how many questions a batch may hold; may be 0."""
    most = batch_tokens // self.tokens
    if not self.P:
      return most
    cached = self.n * (self.P + self.S)
    return min(most, _CACHE_RATIO * batch_tokens // cached)

  def joined(self, other: "_Shape") -> "_Shape":
    """Returns the least shape that has room for both."""
    return _Shape(*map(max, self, other))


_Groups: TypeAlias = dict[_Shape, list[_Question]]


def _joined(groups: _Groups, batch_tokens: int, join_tokens: int) -> _Groups:
  """Returns the same questions in fewer shapes.

  The smallest group joins another where that adds no more padding than
  `join_tokens`.
  """
  waiting, done = dict(groups), {}
  while waiting:
    shape = min(waiting, key=lambda own: own.tokens * len(waiting[own]))
    members = waiting.pop(shape)
    options = []
    for other, theirs in waiting.items():
      both = shape.joined(other)
      if bool(shape.P) == bool(other.P) and both.most(batch_tokens):
        padding = (both.tokens - shape.tokens) * len(members)
        padding += (both.tokens - other.tokens) * len(theirs)
        options.append((padding, other, both))
    least = min(options, default=None)
    if least is None or least[0] > join_tokens:
      done[shape] = members
      continue
    _, other, both = least
    members = members + waiting.pop(other)
    waiting[both] = waiting.get(both, []) + members
  return done


def _filled(
  scheme: Scheme | Pattern,
  shape: _Shape,
  R: int,
  questions: Sequence[_Question],
  contexts: Sequence[Sequence[int]],
  endings: Sequence[Sequence[int]],
) -> Endings:
  P, S, n = shape
  before_RP, before_R = np.zeros((R, P), np.int32), np.zeros(R, np.int32)
  tokens_BS = np.zeros((R * n, S), np.int32)
  next_BS = np.zeros((R * n, S), np.int32)
  wanted_BS = np.zeros((R * n, S), bool)
  scale_B = np.ones(R * n, np.float32)
  rows: dict[int, int] = {}
  for i, (before, scale, own) in enumerate(questions):
    before_R[i] = len(before)
    before_RP[i, : len(before)] = before
    scale_B[i * n : (i + 1) * n] = scale
    for j, row in enumerate(own, i * n):
      rows[j] = row
      ids = [*contexts[row][len(before) :], *endings[row]]
      last = len(ids) - 1
      tokens_BS[j, :last], next_BS[j, :last] = ids[:-1], ids[1:]
      wanted_BS[j, last - len(endings[row]) : last] = True
  return Endings(
    scheme, rows, before_RP, before_R, tokens_BS, next_BS, wanted_BS, scale_B
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
