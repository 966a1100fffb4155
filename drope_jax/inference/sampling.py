"""Sampling a model's own documents, in one compiled loop without idle rows.

When a row's document ends, the row begins its next one in the same step. Row r
of B has the documents r, r + B, r + 2 B and so on, whichever document is asked
for first. So sampling can resume at any document with the same results.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from drope_jax import attention, sharding
from drope_jax.axes import Array
from drope_jax.inference import choice, decode
from drope_jax.inference import lm as lms
from drope_jax.model import backend as backends
from drope_jax.model import cache as caches
from drope_jax.model import packed, rotations, transformer
from drope_jax.model.config import ModelConfig

# Tokens of each row in one call of the compiled loop.
_STEPS = 32

# After this many empty documents in a row, sampling gives up.
_MOST_EMPTY = 10_000


class Rows(NamedTuple):
  """The documents in progress, one in each row.

  Attributes:
    document_B: int32, number of the document.
    token_B: int32, its newest token, which is not in the cache yet.
    cache: of the tokens before.
  """

  document_B: Array
  token_B: Array
  cache: caches.Cache


@dataclasses.dataclass(frozen=True, eq=False)
class ModelText:
  """An endless `data.sources.Source` of documents sampled from a model.

  A document begins with BOS as its first token, or is generated after an EOS
  that is not part of it. It ends with EOS, at the latest as the last token of
  the trained context. Ids beyond the tokenizer's are never drawn.

  Document n is a function of the model, these attributes, and n. It is the same
  to the bit for one batch size, mesh and kind of device; otherwise logits may
  differ by rounding.

  Attributes:
    lm: the model; it is used within its trained context.
    fingerprint: of the checkpoint.
    begin_with_bos: begin with BOS, not after EOS.
    seed: of all draws.
    temperature: divides the logits.
    batch_size: B, the number of rows.
    name: for messages.
  """

  lm: lms.CheckpointLM
  fingerprint: str
  begin_with_bos: bool
  seed: int = 0
  temperature: float = 1.0
  batch_size: int = 64
  name: str = "the model"

  def __post_init__(self):
    if self.begin_with_bos and self.lm.bos_id is None:
      raise ValueError(
        "Documents that begin with BOS need a tokenizer with BOS, got one "
        "without. Begin them after EOS."
      )
    if self.lm.context_tokens < 3:
      raise ValueError(
        "A document needs a context of at least 3 tokens, for its beginning, a "
        f"token and EOS, got {self.lm.context_tokens}. Sample another model."
      )
    shards = sharding.row_shards(self.lm.mesh)
    if self.batch_size < 1 or self.batch_size % shards:
      raise ValueError(
        f"The rows of a batch must be a multiple of {shards}, to split evenly "
        f"over devices, got {self.batch_size}. Change the batch."
      )

  def identity(self) -> str:
    """Returns everything that decides the documents, except rounding."""
    return json.dumps(
      {
        "model": self.fingerprint,
        "begin_with_bos": self.begin_with_bos,
        "seed": self.seed,
        "temperature": self.temperature,
        "dtype": packed.dtype_name(self.lm.params["embed"]["table"]),
      }
    )

  def documents(self, first: int = 0) -> Iterator[np.ndarray]:
    """Yields the ids of document `first`, the next, and so on without end.

    A document with no token besides BOS and EOS is yielded as empty.

    Raises:
      ValueError: logits are not finite, or too many documents are empty.
    """
    B, eos_id = self.batch_size, self.lm.eos_id
    begin = [self.lm.bos_id] if self.begin_with_bos else []
    number_B = first + (np.arange(B) - first) % B
    rows = self._start(number_B)
    advance_rows = self._compiled()
    begun: list[list[np.ndarray]] = [[] for _ in range(B)]
    ended: dict[int, np.ndarray] = {}
    empty = 0
    while True:
      rows, new_Bn = advance_rows(rows)
      new_Bn = np.asarray(new_Bn)
      if new_Bn.min() < 0:
        raise ValueError(
          "Sampling needs finite logits, got NaN or inf. Check the "
          "checkpoint's weights, or compute in float32."
        )
      for row, new_n in enumerate(new_Bn):
        *ends, rest = np.split(new_n, np.flatnonzero(new_n == eos_id) + 1)
        for end in ends:
          ids = np.concatenate([*begun[row], end])
          ended[int(number_B[row])] = ids
          number_B[row] += B
          begun[row] = []
        begun[row].append(rest)
      while first in ended:
        ids = ended.pop(first)
        first += 1
        empty = empty + 1 if len(ids) == 1 else 0
        if empty == _MOST_EMPTY:
          raise ValueError(
            "Sampling needs a model that can begin a document, got "
            f"{empty:,} empty documents in a row. Begin them with "
            f"{'EOS' if self.begin_with_bos else 'BOS'} instead."
          )
        yield np.concatenate([begin, ids]).astype(int) if len(ids) > 1 else []

  @property
  def _begin_id(self) -> int:
    bos_id = self.lm.bos_id if self.begin_with_bos else None
    return self.lm.eos_id if bos_id is None else bos_id

  def _start(self, number_B: np.ndarray) -> Rows:
    """Returns rows with empty caches."""
    where = self._shardings and self._shardings.cache
    rows = Rows(
      jnp.asarray(number_B, jnp.int32),
      jnp.full(self.batch_size, self._begin_id, jnp.int32),
      jax.jit(self._empty_cache, out_shardings=where)(),
    )
    return jax.device_put(rows, self._shardings)

  def _compiled(self) -> Callable[[Rows], tuple[Rows, Array]]:
    """Returns `advance` with the arguments that are the same at each step."""
    lm = self.lm
    scheme = lm.config.positional.at(lm.context_tokens)
    config, rotation = rotations.split(lm.config, scheme)
    return functools.partial(
      advance,
      config,
      rotation,
      lm.params,
      key=jax.random.key(self.seed),
      logit_scale=jnp.float32(lm.logit_scale_at(lm.context_tokens)),
      temperature=jnp.float32(self.temperature),
      steps=_STEPS,
      num_ids=min(lm.tokenizer.vocab_size, config.vocab_size),
      begin_id=self._begin_id,
      end_ids=(lm.eos_id, *lm.end_ids),
      backend=backends.for_one_token(lm.backend),
      shardings=self._shardings,
    )

  @functools.cached_property
  def _shardings(self) -> Rows | None:
    """Shardings of rows: documents over devices, caches as they are split."""
    mesh = self.lm.mesh
    if mesh is None:
      return None
    row = NamedSharding(mesh, P(sharding.BATCH[0]))
    cache = jax.eval_shape(self._empty_cache)
    return Rows(row, row, caches.shardings(cache, mesh))

  def _empty_cache(self) -> caches.Cache:
    # The last token of a context is never an input.
    slots = self.lm.context_tokens - 1
    dtype = self.lm.params["embed"]["table"].dtype
    return caches.empty(self.lm.config, self.batch_size, slots, dtype)


@functools.partial(
  jax.jit,
  static_argnames=(
    "config",
    "steps",
    "num_ids",
    "begin_id",
    "end_ids",
    "backend",
    "shardings",
  ),
  donate_argnames="rows",
)
def advance(
  config: ModelConfig,
  rotation: rotations.Rotation | None,
  params: transformer.Params,
  rows: Rows,
  *,
  key: Array,
  logit_scale: Array,
  temperature: Array,
  steps: int,
  num_ids: int,
  begin_id: int,
  end_ids: tuple[int, ...],
  backend: attention.Choice,
  shardings: Rows | None = None,
) -> tuple[Rows, Array]:
  """Returns the rows with `steps` more tokens each, and these tokens_Bn.

  A token is -1 where logits are not finite.

  Args:
    config, rotation: from `rotations.split`.
    params: of the model.
    rows: their caches have a slot for each token of a document and what it
      begins with, except the last token.
    key: of all draws; token t of document n depends only on it, n and t.
    logit_scale: multiplies attention logits.
    temperature: divides the logits.
    steps: new tokens of each row.
    num_ids: only ids below it are drawn.
    begin_id: the first input of a document.
    end_ids: each ends a document, and is replaced by the first of them.
    backend: of the attention.
    shardings: of the rows on a mesh.
  """
  config = rotations.join(config, rotation)
  B, slots = rows.token_B.shape[0], rows.cache.k_NBKDT.shape[-1]

  def step(n, state):
    rows, new_Bn = state
    logits_BV, cache = decode.extend(
      config, params, rows.token_B, rows.cache, logit_scale, backend=backend
    )
    logits_BV = logits_BV[:, :num_ids]
    keys_B = jax.vmap(
      lambda document, count: jax.random.fold_in(
        jax.random.fold_in(key, document), count
      )
    )(rows.document_B, cache.length_B)
    token_B = choice.draw(
      choice.apply_temperature(logits_BV, temperature), keys_B
    )
    # A logit of NaN or inf is drawn before all others.
    drawn_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)
    finite_B = jnp.isfinite(drawn_B1[:, 0])
    ended_B = jnp.isin(token_B, jnp.asarray(end_ids))
    ended_B |= cache.length_B == slots
    token_B = jnp.where(ended_B, end_ids[0], token_B)
    new_Bn = new_Bn.at[:, n].set(jnp.where(finite_B, token_B, -1))
    length_B = jnp.where(ended_B, 0, cache.length_B)
    rows = Rows(
      rows.document_B + B * ended_B,
      jnp.where(ended_B, begin_id, token_B),
      cache._replace(length_B=length_B),
    )
    return rows, new_Bn

  rows, new_Bn = jax.lax.fori_loop(
    0, steps, step, (rows, jnp.zeros((B, steps), jnp.int32))
  )
  if shardings is not None:
    rows = jax.lax.with_sharding_constraint(rows, shardings)
  return rows, new_Bn
