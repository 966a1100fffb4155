"""What a surgery does to a model before any training: the damage report."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax.axes import Array
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern

Params = Mapping[str, Any]

_BY_LAYER = {
  "query RMS": "query_rms_N",
  "key RMS": "key_rms_N",
  "entropy (nats)": "entropy_N",
  "largest logit": "max_logit_N",
}

COLUMNS = ("layer", *_BY_LAYER)
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
      to all it may see: the mean of ln(i + 1) over positions i.
  """

  loss: float
  query_rms_N: tuple[float, ...]
  key_rms_N: tuple[float, ...]
  entropy_N: tuple[float, ...]
  max_logit_N: tuple[float, ...]
  uniform_entropy: float


@dataclasses.dataclass(frozen=True)
class Damage:
  """The same tokens through a model before and after a surgery."""

  before: Anatomy
  after: Anatomy

  def rows(self) -> list[tuple[str, ...]]:
    """Returns a table's rows under `COLUMNS`: for each layer, before → after.

    The losses, of which there is one, are not in it.
    """
    sides = [
      zip(*(getattr(side, field) for field in _BY_LAYER.values()), strict=True)
      for side in (self.before, self.after)
    ]
    return [
      (str(layer), *(f"{a:.2f} → {b:.2f}" for a, b in zip(*pair, strict=True)))
      for layer, pair in enumerate(zip(*sides, strict=True))
    ]

  def to_json(self) -> dict[str, Any]:
    """Returns plain dicts and lists, the content of a run's damage.json."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> "Damage":
    """Returns what `to_json` wrote.

    Raises:
      ValueError: keys are missing or unknown.
    """
    try:
      sides = {
        side: Anatomy(
          **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
          }
        )
        for side, fields in data.items()
      }
      return cls(**sides)
    except (TypeError, AttributeError) as error:
      raise ValueError(
        "A damage report needs the fields of damage.Damage, got something "
        f"else ({error}). Make it anew."
      ) from error


def compare(
  before: tuple[ModelConfig, Params],
  after: tuple[ModelConfig, Params],
  tokens_BS: Array,
) -> Damage:
  """Returns what changed between two (config, params) pairs.

  Args:
    before: the model as it was.
    after: the same model after a surgery.
    tokens_BS: int32 tokens of held-out text, each row at most a context long.
  """
  return Damage(measure(*before, tokens_BS), measure(*after, tokens_BS))


def measure(config: ModelConfig, params: Params, tokens_BS: Array) -> Anatomy:
  """Returns the loss and the state of attention of one model.

  Holds the q and k of all layers, but the logits of one head of one sequence
  at a time.

  Raises:
    ValueError: fewer than two tokens a row, so there is nothing to predict.
  """
  if tokens_BS.ndim != 2 or tokens_BS.shape[1] < 2:
    raise ValueError(
      "A damage report needs tokens_BS with at least 2 tokens a row, got "
      f"shape {tokens_BS.shape}. Pass a batch of text."
    )
  loss, layers = jax.device_get(_measure(config, params, tokens_BS))
  S = tokens_BS.shape[1]
  return Anatomy(
    loss=float(loss),
    uniform_entropy=sum(math.log(i + 1) for i in range(S)) / S,
    **{name: tuple(map(float, x_N)) for name, x_N in layers.items()},
  )


@functools.partial(jax.jit, static_argnums=0)
def _measure(config, params, tokens_BS):
  log_probs_BSV = jax.nn.log_softmax(
    transformer.forward(config, params, tokens_BS[:, :-1]).astype(jnp.float32)
  )
  loss_BS1 = -jnp.take_along_axis(
    log_probs_BSV, tokens_BS[:, 1:, None], axis=-1
  )
  q_NBSHD, k_NBSKD, _ = transformer.attention_inputs(config, params, tokens_BS)
  plan = pattern.layer_plan(config.positional, config.num_layers)
  no_slopes_NH = jnp.zeros((config.num_layers, config.num_heads))
  slopes_NH = plan.slopes_array(config.num_heads)
  no_windows_N = jnp.full(config.num_layers, tokens_BS.shape[1])
  windows_N = plan.window_array()
  entropy_N, max_logit_N = jax.lax.map(
    functools.partial(_attention_of_layer, config.logit_scale),
    (
      q_NBSHD,
      k_NBSKD,
      no_slopes_NH if slopes_NH is None else slopes_NH,
      no_windows_N if windows_N is None else windows_N,
    ),
  )
  return loss_BS1.mean(), {
    "query_rms_N": _rms_N(q_NBSHD),
    "key_rms_N": _rms_N(k_NBSKD),
    "entropy_N": entropy_N,
    "max_logit_N": max_logit_N,
  }


def _attention_of_layer(logit_scale, inputs):
  """Returns the mean entropy and the largest logit, head by head."""
  q_BSHD, k_BSKD, slopes_H, window = inputs
  B, S, H, D = q_BSHD.shape
  back_ST = jnp.arange(S)[:, None] - jnp.arange(S)
  seen_ST = (back_ST >= 0) & (back_ST < window)

  def one_head(index):
    b, h = index // H, index % H
    q_SD = q_BSHD[b, :, h].astype(jnp.float32)
    k_TD = k_BSKD[b, :, h // (H // k_BSKD.shape[2])].astype(jnp.float32)
    logits_ST = q_SD @ k_TD.T * (logit_scale / math.sqrt(D))
    logits_ST = logits_ST - slopes_H[h] * back_ST
    logits_ST = jnp.where(seen_ST, logits_ST, -jnp.inf)
    p_ST = jax.nn.softmax(logits_ST)
    # xlogy-like: a probability of zero adds nothing.
    log_p_ST = jnp.log(jnp.where(p_ST > 0, p_ST, 1.0))
    return -(p_ST * log_p_ST).sum(-1).mean(), logits_ST.max()

  entropy, max_logit = jax.lax.map(one_head, jnp.arange(B * H))
  return entropy.mean(), max_logit.max()


def _rms_N(x_NBSHD):
  squared = jnp.square(x_NBSHD.astype(jnp.float32))
  return jnp.sqrt(squared.mean(axis=(1, 2, 3, 4)))
