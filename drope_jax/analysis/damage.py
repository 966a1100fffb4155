"""What a surgery does to a model before any training: the damage report."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax import artifacts, attention
from drope_jax.analysis import loss, pair_damage
from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

Params = Mapping[str, Any]

BY_LAYER = {
  "query RMS": "query_rms_N",
  "key RMS": "key_rms_N",
  "entropy (nats)": "entropy_N",
  "largest logit": "max_logit_N",
}
"""What is shown of each layer, and the field of `Anatomy` that has it."""

COLUMNS = ("layer", *BY_LAYER)
"""Of `Damage.rows`."""


@dataclasses.dataclass(frozen=True)
class Anatomy:
  """A model's loss and the state of its attention on a batch of tokens.

  Attributes:
    loss: mean next-token loss, nats a token.
    query_rms_N: root mean square of q in each layer, after its norm and
      positions, over tokens, heads and channels; k likewise.
    key_rms_N: see `query_rms_N`.
    entropy_N: attention entropy of each layer, nats, mean over heads and
      positions.
    max_logit_N: largest attention logit of each layer.
    uniform_entropy: what `entropy_N` would be if every query attended evenly
      to all tokens up to its own: the mean of ln(i + 1) over positions i. A
      layer with a window stays below it.
  """

  loss: float
  query_rms_N: tuple[float, ...]
  key_rms_N: tuple[float, ...]
  entropy_N: tuple[float, ...]
  max_logit_N: tuple[float, ...]
  uniform_entropy: float


@dataclasses.dataclass(frozen=True)
class Damage:
  """The same tokens through a model before and after a surgery.

  Attributes:
    before: the model as it was.
    after: the same weights under the new config.
    pairs: what each rotary pair that lost its rotation is worth; None where
      `pair_damage.measure` says nothing, or was not asked.
  """

  before: Anatomy
  after: Anatomy
  pairs: pair_damage.PairDamage | None = None

  def rows(self) -> list[tuple[str, ...]]:
    """Returns a table's rows under `COLUMNS`: for each layer, before → after.

    The losses, of which there is one, are not in it.
    """
    sides = [
      zip(*(getattr(side, field) for field in BY_LAYER.values()), strict=True)
      for side in (self.before, self.after)
    ]
    return [
      (
        str(layer),
        *(f"{_short(a)} → {_short(b)}" for a, b in zip(*pair, strict=True)),
      )
      for layer, pair in enumerate(zip(*sides, strict=True))
    ]

  def to_json(self) -> dict[str, Any]:
    """Returns plain dicts and lists, the content of a run's damage.json."""
    return artifacts.stamp(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> "Damage":
    """Returns what `to_json`, of this version or an earlier one, wrote.

    Raises:
      ValueError: something is missing, or of another type.
      artifacts.UnknownVersionError: a later version wrote it.
    """
    fields, writer = artifacts.migrate(cls.__name__, data)
    kinds = {
      "before": Anatomy,
      "after": Anatomy,
      "pairs": pair_damage.PairDamage,
    }
    parts = {
      name: part and artifacts.build(kinds[name], _with_tuples(part), writer)
      for name, part in artifacts.fill_defaults(cls, fields, writer).items()
    }
    return cls(**parts)


def _with_tuples(part: Any) -> Any:
  if not isinstance(part, dict):
    return part
  return {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in part.items()
  }


def _short(value: float) -> str:
  return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def compare(
  before: tuple[ModelConfig, Params],
  after: tuple[ModelConfig, Params],
  tokens_BS: Array,
  *,
  by_pair: bool = True,
  on_pair: Callable[[int, int], None] = lambda done, pairs: None,
) -> Damage:
  """Returns what changed between two (config, params) pairs.

  Args:
    before: the model as it was.
    after: the same model after a surgery.
    tokens_BS: int32 tokens of held-out text, each row at most a context long.
    by_pair: whether to measure each rotary pair too, a forward pass for each.
    on_pair: see `pair_damage.measure`.
  """
  pairs = None
  if by_pair:
    pairs = pair_damage.measure(
      before[0], after[0], before[1], tokens_BS, on_pair
    )
  return Damage(measure(*before, tokens_BS), measure(*after, tokens_BS), pairs)


def measure(config: ModelConfig, params: Params, tokens_BS: Array) -> Anatomy:
  """Returns the loss and the state of attention of one model.

  Holds one sequence at a time: its q and k of all layers, the attention logits
  of one head, and the logits of `loss.CHUNK_TOKENS` tokens. Computes in the
  parameters' dtype.

  Raises:
    ValueError: fewer than two tokens a row, so there is nothing to predict.
  """
  if tokens_BS.ndim != 2 or tokens_BS.shape[1] < 2:
    raise ValueError(
      "A damage report needs tokens_BS with at least 2 tokens a row, got "
      f"shape {tokens_BS.shape}. Pass a batch of text."
    )
  mean_loss, layers = jax.device_get(_measure(config, params, tokens_BS))
  S = tokens_BS.shape[1]
  return Anatomy(
    loss=float(mean_loss),
    uniform_entropy=sum(math.log(i + 1) for i in range(S)) / S,
    **{name: tuple(map(float, x_N)) for name, x_N in layers.items()},
  )


@functools.partial(jax.jit, static_argnums=0)
def _measure(config, params, tokens_BS):
  def one_sequence(tokens_S):
    inputs = transformer.attention_inputs(
      config, params, tokens_S[None], backend="blockwise"
    )
    return (
      loss.of_sequence(config, params, tokens_S),
      _mean_square_N(inputs.q_BSHD),
      _mean_square_N(inputs.k_BSKD),
      *jax.lax.map(_attention_of_layer, inputs),
    )

  loss_B, query_BN, key_BN, entropy_BN, max_logit_BN = jax.lax.map(
    one_sequence, tokens_BS
  )
  return loss_B.mean(), {
    "query_rms_N": jnp.sqrt(query_BN.mean(0)),
    "key_rms_N": jnp.sqrt(key_BN.mean(0)),
    "entropy_N": entropy_BN.mean(0),
    "max_logit_N": max_logit_BN.max(0),
  }


def _attention_of_layer(inputs):
  """Returns the mean entropy and the largest logit, head by head."""
  H, D = inputs.q_BSHD.shape[2:]
  group_size = H // inputs.k_BSKD.shape[2]
  mask = attention.Mask(window=inputs.window)
  scale = inputs.logit_scale * D**-0.5

  def one_head(h):
    q_BS1D = inputs.q_BSHD[:, :, h, None]
    k_BS1D = inputs.k_BSKD[:, :, h // group_size, None]
    slopes_1, bias_1T = jax.tree.map(
      lambda x_H: x_H[h, None], (inputs.slopes_H, inputs.bias_HT)
    )
    logits_ST = attention.logits(
      q_BS1D, k_BS1D, mask, scale, slopes_1, inputs.soft_cap, bias_HT=bias_1T
    )[0, 0, 0]
    p_ST = jax.nn.softmax(logits_ST)
    # xlogy-like: a probability of zero adds nothing.
    log_p_ST = jnp.log(jnp.where(p_ST > 0, p_ST, 1.0))
    return -(p_ST * log_p_ST).sum(-1).mean(), logits_ST.max()

  entropy_H, max_logit_H = jax.lax.map(one_head, jnp.arange(H))
  return entropy_H.mean(), max_logit_H.max()


def _mean_square_N(x_NBSHD):
  return jnp.square(x_NBSHD.astype(jnp.float32)).mean(axis=(1, 2, 3, 4))
