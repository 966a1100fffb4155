"""A checkpoint as the language model of the evals (`evals.interface.LM`)."""

from collections.abc import Iterator, Sequence
import dataclasses
import os
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding
import numpy as np

from drope_jax import attention, sharding, trees
from drope_jax.checkpoint import model as models
from drope_jax.checkpoint import tokenizer_file
from drope_jax.checkpoint.model import Model
from drope_jax.data import tokenizer as tokenizers
from drope_jax.evals import interface, logit_scale
from drope_jax.inference import batching, choice, decode, scoring, weights
from drope_jax.model import backend as backends
from drope_jax.model import rotations
from drope_jax.model.config import ModelConfig
from drope_jax.positional import LogScaled, Pattern, Scheme, log_scaled

# Tokens of a forward pass on each device, and tokens of a row in one pass if
# its prompt is longer than that.
BATCH_TOKENS = 8192
CHUNK_TOKENS = 2048

# Prompts' tokens in the caches of a batch on each device; but one row fits.
CACHE_TOKENS = 65_536

# Batches of padding that are scored rather than to compile another program. A
# CPU reads some thousands of tokens in that time, an accelerator far more.
_CPU_JOIN_BATCHES = 0.25
_JOIN_BATCHES = 4

# New tokens of each row in one call of the compiled loop.
_STEPS = 16

# New ids are decoded after the last ones of a prompt: some tokenizers leave out
# the space that a text begins with. A character has 4 ids at most.
_PROMPT_IDS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class CheckpointLM:
  """Scores and generates, under one config and logit scale.

  Attributes:
    config: of the model, with the positions to use.
    params: weights, or a function that returns them.
    tokenizer: of the checkpoint.
    logit_scale: multiplies attention logits at every length; None for the
      config's `logit_scale_at`.
    logit_slope: c of an evaluation, for the config's `logit_scale_slope`; it
      may be below 0. None: the config's.
    backend: of the attention.
    mesh: splits the weights and the batch; None for the first device.
    end_ids: end a generated sequence besides EOS, e.g. the end of a chat turn.
  """

  config: ModelConfig
  params: Any
  tokenizer: tokenizers.Tokenizer
  logit_scale: float | None = None
  logit_slope: float | None = None
  backend: attention.Choice = "blockwise"
  mesh: jax.sharding.Mesh | None = None
  end_ids: tuple[int, ...] = ()

  @classmethod
  def load(
    cls,
    path: os.PathLike,
    dtype: str = "float32",
    backend: attention.Choice = "auto",
    mesh: jax.sharding.Mesh | None = None,
    shelf: weights.OneAtATime | None = None,
  ) -> "CheckpointLM":
    """Returns the checkpoint at `path`.

    Args:
      path: of the checkpoint.
      dtype, backend, mesh: as of `of`.
      shelf: reads the weights when they are needed; None reads them now.

    Raises:
      FileNotFoundError, ValueError: as `checkpoint.store.load_model`, or `of`.
    """
    model = models.describe(path)
    shardings = None
    if mesh is not None:
      shardings = sharding.param_shardings(mesh, model.params)
    hold = weights.holder(dtype, mesh)

    def load() -> Any:
      return models.load(path, shardings=shardings, convert=hold).params

    params = load() if shelf is None else shelf.of(load)
    return cls._of(model, params, dtype, backend, mesh)

  @classmethod
  def of(
    cls,
    model: Model,
    dtype: str = "float32",
    backend: attention.Choice = "auto",
    mesh: jax.sharding.Mesh | None = None,
  ) -> "CheckpointLM":
    """Returns a language model from a model in memory.

    Args:
      model: with a tokenizer.
      dtype: of the weights, and of computations. One CPU device computes in
        float32, and may hold the weights in "bfloat16" or "int8".
      backend: of the attention; "auto": see `model.backend`.
      mesh: splits the weights and the batch; None for the first device.

    Raises:
      ValueError: it has no tokenizer, does not split evenly over the mesh, or
        the device cannot have the dtype.
    """
    params = trees.map_with_path(weights.holder(dtype, mesh), model.params)
    if mesh is not None:
      params = jax.device_put(params, sharding.param_shardings(mesh, params))
    return cls._of(model, params, dtype, backend, mesh)

  @classmethod
  def _of(
    cls,
    model: Model,
    params: Any,
    dtype: str,
    backend: attention.Choice,
    mesh: jax.sharding.Mesh | None,
  ) -> "CheckpointLM":
    """Returns the language model of a model; its weights are as held."""
    file = model.tokenizer_path
    if file is None:
      raise ValueError(
        "A language model needs a tokenizer, got a model without one. Save it "
        "again with its tokenizer."
      )
    backend = backends.resolve(
      backend,
      model.config,
      weights.computed_dtype(dtype, mesh),
      weights.device(mesh),
      any_length=True,
    )
    if mesh is not None:
      backend = attention.on_mesh(backend, mesh, **sharding.ATTENTION)
    return cls(
      model.config,
      params,
      tokenizers.load(str(file)),
      backend=backend,
      mesh=mesh,
      end_ids=tokenizer_file.end_ids(file),
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

  def batch_size(self, tokens: int) -> int:
    padded = batching.bucket(tokens)
    at_once = CHUNK_TOKENS if self._in_chunks(padded) else padded
    size = self._devices * BATCH_TOKENS // at_once
    shards = sharding.row_shards(self.mesh)
    size = min(size, self._most_cached(padded)) // shards * shards
    return max(size, shards)

  def logit_scale_at(self, tokens: int) -> float:
    if self.logit_scale is not None:
      return self.logit_scale
    if self.logit_slope is not None:
      factor = max(tokens / self.context_tokens, 1)
      own = self.config.logit_scale
      return own * logit_scale.scale_at(self.logit_slope, factor)
    return self.config.logit_scale_at(tokens)

  def with_logit_scale(self, scale: float) -> "CheckpointLM":
    return dataclasses.replace(self, logit_scale=scale)

  def with_logit_slope(
    self, c: float, *, by_query: bool = False
  ) -> "CheckpointLM":
    if not by_query:
      return dataclasses.replace(self, logit_scale=None, logit_slope=c)
    lm = dataclasses.replace(self, logit_scale=None, logit_slope=0.0)

    def scaled(scheme: Scheme) -> Scheme:
      return LogScaled(log_scaled.unscaled(scheme), self.context_tokens, c)

    own = self.config.positional
    if isinstance(own, Pattern):
      schemes = tuple(map(scaled, own.schemes))
      return lm.with_positions(dataclasses.replace(own, schemes=schemes))
    return lm.with_positions(scaled(own))

  def with_positions(self, positional: Scheme | Pattern) -> "CheckpointLM":
    """Returns the same weights with other positions."""
    config = dataclasses.replace(self.config, positional=positional)
    return dataclasses.replace(self, config=config)

  def loglikelihood(
    self, sequences: Sequence[Sequence[int]]
  ) -> list[np.ndarray]:
    scored = self.score(
      [ids[:1] for ids in sequences], [ids[1:] for ids in sequences]
    )
    return [one.log_p for one in scored]

  def score(
    self, contexts: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]
  ) -> list[interface.Scored]:
    found: dict[int, interface.Scored] = {}
    batch_tokens = self._devices * BATCH_TOKENS
    on_cpu = weights.device(self.mesh).platform == "cpu"
    batches = _CPU_JOIN_BATCHES if on_cpu else _JOIN_BATCHES
    for batch in batching.of_endings(
      contexts,
      endings,
      scheme_at=self.config.positional.at,
      scale_at=self.logit_scale_at,
      batch_tokens=batch_tokens,
      join_tokens=int(batches * batch_tokens),
      on_mesh=self.mesh is not None,
      row_shards=sharding.row_shards(self.mesh),
    ):
      config, rotation = rotations.split(self.config, batch.scheme)
      before = jnp.asarray(batch.before_RP), jnp.asarray(batch.before_R)
      scores_BS, top_BS = map(
        _on_host,
        scoring.score(
          config,
          rotation,
          self._params,
          self._put(batch.tokens_BS),
          self._put(batch.next_BS),
          jnp.asarray(batch.scale_B),
          self._put(batch.wanted_BS),
          before if batch.before_RP.size else None,
          backend=self.backend,
          groups=sharding.row_shards(self.mesh),
        ),
      )
      for i, row in batch.rows.items():
        own = batch.wanted_BS[i]
        found[row] = interface.Scored(scores_BS[i, own], top_BS[i, own])
    return [found[row] for row in range(len(contexts))]

  def generate(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: choice.Sampling = choice.GREEDY,
    stop: Sequence[str] = (),
  ) -> list[list[int]]:
    """Returns the new ids of each prompt; arguments as of `stream`."""
    outputs: list[list[int]] = [[] for _ in prompts]
    for row, new in self.stream(prompts, max_new_tokens, sampling, stop):
      outputs[row] += new
    return outputs

  def stream(
    self,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: choice.Sampling = choice.GREEDY,
    stop: Sequence[str] = (),
  ) -> Iterator[tuple[int, list[int]]]:
    """Yields the index of a prompt and its next ids, until all have ended.

    A continuation ends with an end id, or with the id that completes a stop
    string; that id is yielded too. A sample is a function of the seed and the
    prompt's index.

    Args:
      prompts: ids.
      max_new_tokens: of each prompt.
      sampling: how a token is chosen.
      stop: stop strings, not empty.

    Raises:
      ValueError: a prompt or a stop string is empty.
    """
    if "" in stop:
      raise ValueError(
        "A stop string must not be empty, got an empty one. Leave it out."
      )
    for batch in batching.of_prompts(
      prompts,
      scheme_at=lambda n: self.config.positional.at(n + max_new_tokens),
      scale_at=lambda n: self.logit_scale_at(n + max_new_tokens),
      batch_size=self._prompts_at_once,
      shareable=self._shareable,
      row_shards=sharding.row_shards(self.mesh),
    ):
      rows, scale_B = batch.rows, jnp.asarray(batch.scale_B)
      B, S = batch.tokens_BS.shape
      keys_B = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(sampling.seed), np.resize(rows, B)
      )
      config, rotation = rotations.split(self.config, batch.scheme)
      step = batching.LENGTH_MULTIPLE
      new_slots = -(-max_new_tokens // step) * step
      state = decode.start(
        config,
        rotation,
        self._params,
        self._put(batch.tokens_BS),
        jnp.asarray(batch.lengths_B),
        scale_B,
        max_tokens=S + new_slots,
        shared_tokens=batch.shared_tokens,
        chunk_tokens=CHUNK_TOKENS if self._in_chunks(S) else None,
        with_seen=sampling.repetition_penalty is not None,
        backend=self.backend,
        mesh=self.mesh,
      )
      written: list[list[int]] = [[] for _ in rows]
      ended_B = np.arange(B) >= len(rows)
      for count in range(0, max_new_tokens, _STEPS):
        state, new_Bn = decode.advance(
          config,
          rotation,
          self._params,
          state._replace(ended_B=jnp.asarray(ended_B)),
          scale_B,
          sampling.arrays(),
          keys_B,
          jnp.int32(min(_STEPS, max_new_tokens - count)),
          steps=_STEPS,
          end_ids=self.ends,
          backend=backends.for_one_token(self.backend),
        )
        new_Bn = _on_host(new_Bn)[:, : max_new_tokens - count]
        for i in np.flatnonzero(~ended_B).tolist():
          ids, ended_B[i] = self._until_end(
            prompts[rows[i]], written[i], new_Bn[i].tolist(), stop
          )
          written[i] += ids
          yield rows[i], ids
        if ended_B.all():
          break

  def _shareable(self, tokens: int) -> list[int]:
    """Returns which beginnings of so many tokens can be read once."""
    if self.mesh is not None:
      return []
    # Seven eighths, three quarters or half: each length is a program.
    unit = CHUNK_TOKENS if self._in_chunks(tokens) else batching.LENGTH_MULTIPLE
    parts = [tokens * n // 8 // unit * unit for n in (7, 6, 4)]
    return [part for part in parts if part]

  def _prompts_at_once(self, tokens: int, shared: int) -> int:
    """Returns how many prompts are read at once; see `batching.of_prompts`."""
    size = self.batch_size(tokens)
    # Their caches are whole.
    most = max(min(4 * size, self._most_cached(tokens)), size)
    return min(max(BATCH_TOKENS // (tokens - shared), size), most)

  def _most_cached(self, tokens: int) -> int:
    """Returns how many prompts of a length the caches may hold; may be 0."""
    return self._devices * CACHE_TOKENS // tokens

  def _in_chunks(self, tokens: int) -> bool:
    """Returns whether prompts of this length are read in chunks."""
    whole = tokens % CHUNK_TOKENS == 0  # Not where positions end before.
    return self.mesh is None and tokens > BATCH_TOKENS and whole

  @property
  def ends(self) -> tuple[int, ...]:
    """The ids that end a continuation."""
    return (self.eos_id, *self.end_ids)

  def _until_end(
    self,
    prompt: Sequence[int],
    before: Sequence[int],
    new: Sequence[int],
    stop: Sequence[str],
  ) -> tuple[list[int], bool]:
    """Returns the new ids up to the end of a row, and whether it has ended."""
    last = prompt[-_PROMPT_IDS:]
    start = len(self.decode(last)) if stop else 0
    for n, token in enumerate(new, 1):
      if token in self.ends:
        return [*new[:n]], True
      if stop:
        text = self.decode([*last, *before, *new[:n]])[start:]
        if any(s in text for s in stop):
          return [*new[:n]], True
    return [*new], False

  @property
  def _params(self) -> Any:
    return self.params() if callable(self.params) else self.params

  def _put(self, tokens_BS: np.ndarray) -> jax.Array:
    if self.mesh is None:
      return jnp.asarray(tokens_BS)
    return jax.device_put(tokens_BS, NamedSharding(self.mesh, sharding.BATCH))

  @property
  def _devices(self) -> int:
    return 1 if self.mesh is None else self.mesh.size


def _on_host(array: jax.Array) -> np.ndarray:
  """Returns the whole array, of which other processes may hold parts."""
  if array.is_fully_addressable:
    return np.asarray(array)
  return multihost_utils.process_allgather(array, tiled=True)
