"""What each attention head does: positions, content, or the first token.

Source: arXiv:2512.12167, section 4.1, Figures 7 and 8; massive activations and
the first token's share as in Sun et al. 2024 (arXiv:2402.17762).
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.analysis import readers
from drope_jax.axes import Array
from drope_jax.model import rotations, transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Pattern, Rope, Scheme, scaling

OFFSETS = (0, 1, 2)
"""To which a positional head may attend, tokens before the query."""

POSITIONAL = 0.25
"""Least positional bias of a head that is called positional."""

SEMANTIC = 0.1
"""Least mass on the needle of a head that is called semantic."""

NEAR = tuple(range(32))
"""Offsets that a profile has."""


def methods(config: ModelConfig, factor: float) -> dict[str, Scheme | Pattern]:
  """Returns the positions to read `factor` times the context with, by method.

  They are "rope", "pi", "ntk" and "yarn" of a model with plain RoPE, and
  otherwise "model".
  """
  own = config.positional
  if not isinstance(own, Rope):
    return {"model": own}
  return {
    method: scaling.scaled(own, method, factor, config.context_tokens)
    for method in ("rope", *(scaling.STRETCHES if factor > 1 else ()))
  }


@dataclasses.dataclass(frozen=True)
class Head:
  """One head's scores.

  Attributes:
    layer, head: from 0.
    bias: A^c to each of `OFFSETS`.
    needle: the last token's mass on the needle's value and one token on each
      side, a mean over prompts.
    first_token: mean weight on the first token.
  """

  layer: int
  head: int
  bias: tuple[float, ...]
  needle: float
  first_token: float

  @property
  def role(self) -> str:
    """What the head is called: "positional", "semantic", "both" or "other"."""
    is_positional = max(self.bias) >= POSITIONAL
    if self.needle >= SEMANTIC:
      return "both" if is_positional else "semantic"
    return "positional" if is_positional else "other"


@dataclasses.dataclass(frozen=True)
class Profile:
  """A head's mean weight by offset, under a method at a length factor."""

  layer: int
  head: int
  method: str
  factor: float
  weights: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Activations:
  """The residual stream after a layer, over text.

  Attributes:
    largest: absolute value.
    median: of absolute values.
    token: index in its sequence at which the largest is.
    first_token: the heads' mean weight on the first token.
  """

  layer: int
  largest: float
  median: float
  token: int
  first_token: float


class Text:
  """What attention does on one batch of text."""

  def __init__(
    self,
    config: ModelConfig,
    positional: Scheme | Pattern,
    params: transformer.Params,
    tokens_BS: Array,
  ):
    """Reads the text.

    Args:
      config, params: of the model.
      positional: in place of the model's.
      tokens_BS: int32.
    """
    compiled, rotation = rotations.split(config, positional)
    scale = config.logit_scale_at(tokens_BS.shape[1])
    found = _read(compiled, rotation, params, tokens_BS, scale)
    (
      self.bias_ONH,
      self.first_NH,
      self.near_NHO,
      self.largest_N,
      self.median_N,
      self.token_N,
    ) = map(np.asarray, found)

  def activations(self) -> list[Activations]:
    """Returns those of each layer."""
    return [
      Activations(layer, float(a), float(b), int(c), float(first_H.mean()))
      for layer, (a, b, c, first_H) in enumerate(
        zip(
          self.largest_N,
          self.median_N,
          self.token_N,
          self.first_NH,
          strict=True,
        )
      )
    ]

  def profiles(
    self, heads: Sequence[tuple[int, int]], method: str, factor: float
  ) -> list[Profile]:
    """Returns those of some heads."""
    return [
      Profile(*head, method, factor, tuple(self.near_NHO[head].tolist()))
      for head in heads
    ]

  def heads(self, needle_NH: np.ndarray) -> list[Head]:
    """Returns all heads' scores, with their mass on the needle."""
    return [
      Head(
        layer,
        head,
        tuple(self.bias_ONH[:, layer, head].tolist()),
        float(needle_NH[layer, head]),
        float(self.first_NH[layer, head]),
      )
      for layer, head in np.ndindex(*needle_NH.shape)
    ]


def best(
  heads: Sequence[Head], count: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
  """Returns the most positional and the most semantic heads, best first.

  They are the highest by score, whether or not they reach `POSITIONAL` and
  `SEMANTIC`. A head in the first list is not in the second.
  """
  by_bias = sorted(heads, key=lambda head: -max(head.bias))[:count]
  others = [head for head in heads if head not in by_bias]
  by_needle = sorted(others, key=lambda head: -head.needle)[:count]
  return _places(by_bias), _places(by_needle)


def layers_before_needles(heads: Sequence[Head]) -> int:
  """Returns how many layers stand before the first with a semantic head.

  After a drop these still need local order: docs/results.md, "Where local order
  is needed". It is 0 if no head is semantic.
  """
  return min((h.layer for h in heads if h.needle >= SEMANTIC), default=0)


def _places(heads: Sequence[Head]) -> list[tuple[int, int]]:
  return [(head.layer, head.head) for head in heads]


@functools.partial(jax.jit, static_argnums=0)
def _read(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  tokens_BS: Array,
  logit_scale: Array,
):
  reader = readers.Together(
    (
      *map(readers.OffsetBias, OFFSETS),
      readers.FirstKey(),
      readers.ByOffset(NEAR),
    )
  )

  def of_sequence(tokens_S):
    _, captured = transformer.hidden(
      rotations.join(config, rotation),
      params,
      tokens_S[None],
      backend="blockwise",
      logit_scale=logit_scale,
      capture=("weights", "outputs"),
      reader=reader,
    )
    size_NSM = jnp.abs(captured["outputs"][:, 0].astype(jnp.float32))
    size_NS = size_NSM.max(-1)
    *bias_O, first, near = (x[:, 0] for x in captured["weights"])
    return (
      jnp.stack(bias_O),
      first,
      near,
      size_NS.max(-1),
      jnp.median(size_NSM, axis=(1, 2)),
      size_NS.argmax(-1),
    )

  *means, largest_BN, median_BN, token_BN = jax.lax.map(of_sequence, tokens_BS)
  token_N = jnp.take_along_axis(token_BN, largest_BN.argmax(0)[None], 0)[0]
  return (
    *(x.mean(0) for x in means),
    largest_BN.max(0),
    jnp.median(median_BN, axis=0),
    token_N,
  )
