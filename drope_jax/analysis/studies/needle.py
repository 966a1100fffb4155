"""Attention to a needle: which heads find it, and what a scaling moves."""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.analysis import readers
from drope_jax.axes import Array
from drope_jax.evals import needles as needles_lib
from drope_jax.evals.retrieval import Sample
from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Pattern, Scheme

AROUND = 16
"""Tokens before and after the value that a profile has."""


@dataclasses.dataclass(frozen=True)
class Around:
  """One head's attention around the needle, a mean over prompts.

  It is that of the prompt's last token, which predicts the answer.

  Attributes:
    layer, head: from 0.
    method: of positions, see `heads.methods`.
    factor: prompt's length / context.
    weights: on the tokens from `AROUND` before the needle's value, whose first
      token is in the middle, to `AROUND` after it.
    peak: where the largest is, tokens after the value's first.
    within_one: mass on the value and one token on each side.
    deviation: of the place attended to, within this window; tokens. None where
      the window has no mass.
  """

  layer: int
  head: int
  method: str
  factor: float
  weights: tuple[float, ...]
  peak: int
  within_one: float
  deviation: float | None


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A question about a needle.

  Attributes:
    tokens: the last of them predicts the answer's first.
    start, stop: of the needle's value, in tokens.
  """

  tokens: tuple[int, ...]
  start: int
  stop: int


def prompt(
  sample: Sample,
  needles: needles_lib.Needles,
  encode: Callable[[str], list[int]],
) -> Prompt:
  """Returns a sample with the place of its first answer.

  Raises:
    ValueError: the tokenizer merges the value with its surroundings.
  """
  value = sample.answers[0]
  sentence = needles.needle(sample.queries[0], value)
  at = sample.prompt.index(sentence) + sentence.rindex(value)
  start = len(encode(sample.prompt[:at].rstrip()))
  stop = len(encode(sample.prompt[: at + len(value)]))
  before = encode(sample.prompt)
  begin = len(sample.prompt_tokens) - len(before)  # BOS, if it has one.
  if encode(sample.prompt[: at + len(value)]) != before[:stop]:
    raise ValueError(
      "The place of a needle needs a tokenizer that splits between words, got "
      f"one that merges {value!r} with what follows. Use another tokenizer."
    )
  return Prompt(sample.prompt_tokens, begin + start, begin + stop)


def rows(
  config: ModelConfig,
  positional: Scheme | Pattern,
  params: transformer.Params,
  prompts: Sequence[Prompt],
) -> list[np.ndarray]:
  """Returns the last token's weights_NHT of each prompt.

  Args:
    config, params: of the model.
    positional: in place of the model's.
    prompts: of about one length, for which one program is compiled.
  """
  compiled, rotation = rotations.split(config, positional)
  longest = max(len(prompt.tokens) for prompt in prompts)
  found = []
  for prompt in prompts:
    length = len(prompt.tokens)
    tokens_1S = jnp.pad(
      jnp.asarray([prompt.tokens], jnp.int32), ((0, 0), (0, longest - length))
    )
    scale = config.logit_scale_at(length)
    weights_NHT = _row(compiled, rotation, params, tokens_1S, length - 1, scale)
    found.append(np.asarray(weights_NHT[..., :length]))
  return found


@functools.partial(jax.jit, static_argnums=0)
def _row(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  tokens_1S: Array,
  query: Array,
  logit_scale: Array,
) -> Array:
  _, captured = transformer.hidden(
    rotations.join(config, rotation),
    params,
    tokens_1S,
    backend="blockwise",
    logit_scale=logit_scale,
    capture=("weights",),
    reader=readers.OfQuery(query),
  )
  return captured["weights"][:, 0]


def mass(weights_NHT: np.ndarray, prompt: Prompt) -> np.ndarray:
  """Returns mass_NH on the needle's value and one token on each side."""
  return weights_NHT[..., max(prompt.start - 1, 0) : prompt.stop + 1].sum(-1)


def around(
  each_NHT: Sequence[np.ndarray],
  prompts: Sequence[Prompt],
  heads: Sequence[tuple[int, int]],
  method: str,
  factor: float,
) -> list[Around]:
  """Returns the profile of each head, from `rows` of the same prompts."""
  place = np.arange(-AROUND, AROUND + 1)
  found = []
  for layer, head in heads:
    windows = []
    for weights_NHT, prompt in zip(each_NHT, prompts, strict=True):
      row_T = np.pad(weights_NHT[layer, head], AROUND)
      windows.append(row_T[prompt.start : prompt.start + len(place)])
    mean = np.mean(windows, axis=0)
    within = [
      mass(weights_NHT, prompt)[layer, head]
      for weights_NHT, prompt in zip(each_NHT, prompts, strict=True)
    ]
    found.append(
      Around(
        layer,
        head,
        method,
        factor,
        tuple(mean.tolist()),
        int(place[mean.argmax()]),
        float(np.mean(within)),
        _deviation(mean, place),
      )
    )
  return found


def _deviation(mean: np.ndarray, place: np.ndarray) -> float | None:
  if not mean.sum():
    return None
  share = mean / mean.sum()
  center = (share * place).sum()
  return float(np.sqrt((share * (place - center) ** 2).sum()))
