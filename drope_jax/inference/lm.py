"""A checkpoint as the language model of the evals (`evals.interface.LM`)."""

from collections.abc import Iterator, Sequence
import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from drope_jax import attention, sharding
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.data import tokenizer as tokenizers
from drope_jax.inference import decode
from drope_jax.model import backend as backends
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Pattern, Scheme

# Tokens of a forward pass on each device. Lengths are padded to a multiple, so
# that few shapes are compiled and little of a pass is padding.
BATCH_TOKENS = 8192
LENGTH_MULTIPLE = 128


@dataclasses.dataclass(frozen=True, eq=False)
class CheckpointLM:
  """Scores and generates, under one config and logit scale.

  Attributes:
    config: of the model, with the positions to use.
    params: weights.
    tokenizer: of the checkpoint.
    logit_scale: multiplies attention logits at every length; None for the
      config's `logit_scale_at`.
    backend: of the attention.
    mesh: splits the weights and the batch; None for the first device.
    end_ids: end a generated sequence besides EOS, e.g. the end of a chat turn.
  """

  config: ModelConfig
  params: Any
  tokenizer: tokenizers.Tokenizer
  logit_scale: float | None = None
  backend: attention.Choice = "blockwise"
  mesh: jax.sharding.Mesh | None = None
  end_ids: tuple[int, ...] = ()

  @classmethod
  def load(
    cls,
    path: os.PathLike,
    dtype: str = "float32",
    backend: attention.Choice = "blockwise",
    mesh: jax.sharding.Mesh | None = None,
  ) -> "CheckpointLM":
    """Returns the checkpoint at `path`, computing in `dtype`.

    The backend may be "auto", see `model.backend`.

    Raises:
      FileNotFoundError, ValueError: as `checkpoint.store.load_model`; or the
        model does not split evenly over the mesh.
    """
    manifest, shapes = store.describe(path)
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    backend = backends.resolve(backend, manifest.model, dtype, device)
    shardings = None
    if mesh is not None:
      shardings = sharding.param_shardings(mesh, shapes)
      backend = attention.on_mesh(backend, mesh, **sharding.ATTENTION)
    params, manifest = store.load_model(path, shardings=shardings, dtype=dtype)
    file = store.tokenizer_path(path)
    tokenizer = tokenizers.load(str(file))
    ends = tokenizer_file.end_ids(file)
    return cls(
      manifest.model, params, tokenizer, None, backend, mesh, end_ids=ends
    )

  @property
  def context_tokens(self) -> int:
    return self.config.context_tokens

  @property
  def eos_id(self) -> int:
    return self.tokenizer.eos_id

  @property
  def bos_id(self) -> int | None:
    return self.tokenizer.bos_id

  def encode(self, text: str) -> list[int]:
    return self.tokenizer.encode(text)

  def decode(self, ids: Sequence[int]) -> str:
    return self.tokenizer.decode(ids)

  def logit_scale_at(self, tokens: int) -> float:
    if self.logit_scale is not None:
      return self.logit_scale
    return self.config.logit_scale_at(tokens)

  def with_logit_scale(self, scale: float) -> "CheckpointLM":
    return dataclasses.replace(self, logit_scale=scale)

  def with_positions(self, positional: Scheme | Pattern) -> "CheckpointLM":
    """Returns the same weights with other positions."""
    config = dataclasses.replace(self.config, positional=positional)
    return dataclasses.replace(self, config=config)

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    scores: list[np.ndarray] = [np.zeros(0)] * len(sequences)
    batches = self._batches(sequences)
    for scheme, rows, tokens_BS, lengths in batches:
      config, positions = decode.split_positions(self.config, scheme)
      scores_BS = np.asarray(
        decode.score(
          config,
          positions,
          self.params,
          self._put(tokens_BS),
          self._logit_scale_B(lengths),
          self.backend,
        )
      )
      for row, scores_S, length in zip(rows, scores_BS, lengths, strict=False):
        scores[row] = scores_S[: length - 1]
    return scores

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
  ) -> list[list[int]]:
    """Returns the new tokens of each prompt, including the id that ends them.

    Greedy at temperature 0. Otherwise sampled, as a function of `seed` and of
    the prompt's index in `prompts`.
    """
    outputs: list[list[int]] = [[]] * len(prompts)
    ends = (self.eos_id, *self.end_ids)
    batches = self._batches(prompts, max_new_tokens)
    for scheme, rows, tokens_BS, lengths in batches:
      config, positions = decode.split_positions(self.config, scheme)
      keys_B = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed), np.resize(rows, len(lengths))
      )
      new_Bn = np.asarray(
        decode.generate(
          config,
          positions,
          self.params,
          self._put(tokens_BS),
          jnp.asarray(lengths),
          self._logit_scale_B(lengths + max_new_tokens),
          jnp.float32(temperature),
          keys_B,
          max_new_tokens=max_new_tokens,
          end_ids=ends,
          backend=self.backend,
        )
      )
      for row, new_n in zip(rows, new_Bn.tolist(), strict=False):
        ended = (n for n, new in enumerate(new_n, 1) if new in ends)
        outputs[row] = new_n[: next(ended, None)]
    return outputs

  def _logit_scale_B(self, lengths: np.ndarray) -> jax.Array:
    scales = [self.logit_scale_at(length) for length in lengths.tolist()]
    return jnp.asarray(scales, jnp.float32)

  def _put(self, tokens_BS: np.ndarray) -> jax.Array:
    if self.mesh is None:
      return jnp.asarray(tokens_BS)
    return jax.device_put(tokens_BS, NamedSharding(self.mesh, sharding.BATCH))

  def _batches(
    self, sequences: Sequence[Sequence[int]], new_tokens: int = 0
  ) -> Iterator[tuple[Scheme | Pattern, list[int], np.ndarray, np.ndarray]]:
    """Yields positions, row indices, tokens_BS padded on the right, lengths_B.

    Sequences of similar length share a batch if their positions are the same,
    with `new_tokens` counted. An incomplete batch is filled with copies of its
    first row, so that its shape is not compiled again and splits over devices.
    """
    devices = row_shards = 1
    if self.mesh is not None:
      devices = self.mesh.size
      row_shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
    groups: dict[tuple[int, Scheme | Pattern], list[int]] = {}
    for row, sequence in enumerate(sequences):
      if not len(sequence):
        raise ValueError(
          "A sequence needs at least one token, got an empty one. Begin it "
          "with BOS, or with text."
        )
      padded = -(-len(sequence) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
      fixed = decode.fix_length(
        self.config.positional, len(sequence) + new_tokens
      )
      groups.setdefault((padded, fixed), []).append(row)
    for (padded, fixed), rows in sorted(groups.items(), key=lambda g: g[0][0]):
      size = min(max(devices * BATCH_TOKENS // padded, 1), len(rows))
      size = -(-size // row_shards) * row_shards
      for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        tokens_BS = np.zeros((size, padded), np.int32)
        lengths_B = np.ones(size, np.int32)
        filled = batch + batch[:1] * (size - len(batch))
        for i, row in enumerate(filled):
          lengths_B[i] = len(sequences[row])
          tokens_BS[i, : lengths_B[i]] = sequences[row]
        yield fixed, batch, tokens_BS, lengths_B
