"""What each rotary pair is for: its loss and retrieval, removed or slowed.

A scaling of RoPE divides the frequencies of slow pairs by s. Here one pair at a
time is divided, or stops, at the trained context, where every phase is known.

Source: arXiv:2512.12167, section 4.1; the roles of fast and slow pairs are
those of Barbero et al. 2024 (arXiv:2410.06205).
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.analysis import loss
from drope_jax.axes import Array
from drope_jax.evals import intervals
from drope_jax.evals.retrieval import Sample
from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import partial, rotary


class Questions(NamedTuple):
  """Prompts with their answers, padded to one length.

  Attributes:
    tokens_PS: prompt, answer, and zeros.
    at_PA: the tokens that predict the answer's; S where there is none.
  """

  tokens_PS: Array
  at_PA: Array


class Scores(NamedTuple):
  """Of one model.

  Attributes:
    loss_B: nats a token of each excerpt.
    recalled_P: whether every token of an answer was the most likely one.
  """

  loss_B: np.ndarray
  recalled_P: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a change of one pair costs, with 95% intervals of paired samples.

  Attributes:
    loss, loss_low, loss_high: by how much the loss rises, nats a token; no ends
      with one excerpt.
    recall, recall_low, recall_high: by how much the share of answered questions
      falls.
  """

  loss: float
  loss_low: float | None
  loss_high: float | None
  recall: float
  recall_low: float
  recall_high: float


@dataclasses.dataclass(frozen=True)
class Pair:
  """A rotary pair, the fastest first.

  Attributes:
    rotations: completed in the trained context.
    removed: where it no longer rotates.
    divided: where its frequency is divided.
  """

  rotations: float
  removed: Cost
  divided: Cost


@dataclasses.dataclass(frozen=True)
class Pairs:
  """All pairs of a model, and its scores with all of them.

  Attributes:
    divisor: s.
    loss: nats a token.
    recall: share of answered questions.
    pairs: fastest first.
  """

  divisor: float
  loss: float
  recall: float
  pairs: tuple[Pair, ...]


def questions(
  samples: Sequence[Sample], encode: Callable[[str], list[int]]
) -> Questions:
  """Returns prompts with their answers."""
  whole, answers = [], []
  for sample in samples:
    alone = encode(sample.prompt)
    both = encode(f"{sample.prompt} {', '.join(sample.answers)}")
    begin = len(sample.prompt_tokens) - len(alone)  # BOS, if it has one.
    whole.append([*sample.prompt_tokens[:begin], *both])
    answers.append(len(both) - len(alone))
  S, A = max(map(len, whole)), max(answers)
  tokens_PS = np.zeros((len(samples), S), np.int32)
  at_PA = np.full((len(samples), A), S, np.int32)
  for p, (ids, count) in enumerate(zip(whole, answers, strict=True)):
    tokens_PS[p, : len(ids)] = ids
    at_PA[p, :count] = np.arange(len(ids) - count, len(ids)) - 1
  return Questions(jnp.asarray(tokens_PS), jnp.asarray(at_PA))


def scores(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  asked: Questions,
) -> Scores:
  """Returns a model's loss and what it recalls, with its own positions."""
  compiled, rotation = rotations.split(config, config.positional)
  found = _scores(compiled, rotation, params, tokens_BS, asked)
  return Scores(*map(np.asarray, found))


def measure(
  config: ModelConfig,
  params: transformer.Params,
  tokens_BS: Array,
  asked: Questions,
  divisor: float,
  on_pair: Callable[[int, int], None] = lambda done, pairs: None,
) -> Pairs:
  """Returns what each pair is worth.

  Args:
    config, params: of a model with one rotary scheme in all layers.
    tokens_BS: int32 tokens of held-out text.
    asked: at the trained context.
    divisor: s, of the divided pairs.
    on_pair: called with how many pairs are measured, and of how many.

  Raises:
    ValueError: the model has no such scheme, or s is at most 1.
  """
  scheme = config.positional
  if not isinstance(scheme, rotary.Rotary) or not scheme.is_fixed:
    raise ValueError(
      "The cost of rotary pairs needs a model with one rotary scheme in all "
      f"layers, got {scheme}. Analyse the model before its drop."
    )
  if not divisor > 1:
    raise ValueError(
      f"Pairs are divided by a number above 1, got {divisor}. Raise it."
    )
  compiled, rotation = rotations.split(config, scheme)
  assert rotation is not None

  def changed(frequencies_F: Array) -> Scores:
    other = rotation._replace(frequencies_F=frequencies_F)
    return Scores(
      *map(np.asarray, _scores(compiled, other, params, tokens_BS, asked))
    )

  omega_F = rotation.frequencies_F
  whole = changed(omega_F)
  found = []
  rotations_F = partial.rotations(
    scheme, config.head_dim, config.context_tokens
  )
  for pair, completed in enumerate(rotations_F.tolist()):
    removed, divided = (
      _cost(whole, changed(omega_F.at[pair].multiply(factor)))
      for factor in (0.0, 1 / divisor)
    )
    found.append(Pair(completed, removed, divided))
    on_pair(pair + 1, len(omega_F))
  return Pairs(
    divisor,
    float(whole.loss_B.mean()),
    float(whole.recalled_P.mean()),
    tuple(found),
  )


def _cost(whole: Scores, changed: Scores) -> Cost:
  rise_B = changed.loss_B - whole.loss_B
  low, high = intervals.student(rise_B) or (None, None)
  fall = whole.recalled_P.mean() - changed.recalled_P.mean()
  return Cost(
    float(rise_B.mean()),
    low,
    high,
    float(fall),
    *intervals.paired_shares(whole.recalled_P, changed.recalled_P),
  )


@functools.partial(jax.jit, static_argnums=0)
def _scores(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  tokens_BS: Array,
  asked: Questions,
) -> tuple[Array, Array]:
  config = rotations.join(config, rotation)

  def recalled(question: tuple[Array, Array]) -> Array:
    tokens_S, at_A = question
    x_BSM = transformer.hidden(
      config, params, tokens_S[None], backend="blockwise"
    )
    said_BAV = transformer.unembed(config, params, x_BSM[:, at_A])
    right_A = said_BAV[0].argmax(-1) == tokens_S[at_A + 1]
    return jnp.all(right_A | (at_A >= len(tokens_S)))

  return (
    loss.of_sequences(config, params, tokens_BS),
    jax.lax.map(recalled, tuple(asked)),
  )
