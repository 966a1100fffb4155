"""What a layer reads beside the residual stream: positions, mask and backend.

Positional schemes, the key-value cache and attention are called here and in no
other module of the model, and what a caller captures is collected here.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from drope_jax import attention
from drope_jax.axes import Array
from drope_jax.model.cache import Cache, Place, View
from drope_jax.model.config import ModelConfig
from drope_jax.positional import pattern as patterns

CAPTURES = (
  "projections",
  "attention_inputs",
  "max_logit",
  "weights",
  "outputs",
)
"""What a pass can show of every layer, by name.

  projections       QKV, biased, before QK norm and positions
  attention_inputs  `AttentionInputs`, of the pass's own tokens
  max_logit         attention's largest logit, float32; it has no gradient
  weights           what the pass's reader found in attention's weights
  outputs           the residual stream after the layer, x_BSM
"""


class QKV(NamedTuple):
  """Queries, keys and values, with heads split."""

  q_BSHD: Array
  k_BSKD: Array
  v_BSKD: Array


class AttentionInputs(NamedTuple):
  """All that a layer's attention is computed from, but for segments.

  Attributes:
    q_BSHD, k_BSKD, v_BSKD: after QK norm and rotation.
    window: tokens that a query sees, int32; None: all.
    logit_scale: beyond 1 / sqrt(D); float32, one for all or [B, S].
    slopes_H: of a linear bias; None: there is none.
    bias_HT: by distance; None: there is none.
    soft_cap: of the logits before the bias; None: there is none.
  """

  q_BSHD: Array
  k_BSKD: Array
  v_BSKD: Array
  window: Array | None
  logit_scale: Array
  slopes_H: Array | None
  bias_HT: Array | None
  soft_cap: Array | None


class PerLayer(NamedTuple):
  """What differs from layer to layer; leaves lead with N until the scan.

  Attributes:
    scheme: index of its positional scheme, int32.
    window: tokens that a query sees, int32; None: all, in every layer.
    place: in the cache; None: there is none.
  """

  scheme: Array
  window: Array | None
  place: Place | None


@dataclasses.dataclass(frozen=True)
class ForwardPass:
  """What the layers of one forward pass share.

  Attributes:
    shape: (B, S) of the tokens.
    plan: the positional scheme of each layer.
    pos_BS: int32 positions of the tokens, from 0. B may be 1.
    positions: what the distinct schemes do, stacked.
    num_keys: of the keys that attention reads.
    kernel_rotates: whether the backend rotates queries and keys as it loads
      them.
    segments_BS: int32 ids; None: each sequence is one document.
    logit_scale: of attention, beyond 1 / sqrt(D).
    logit_soft_cap: of attention; None: there is none.
    backend: the attention's.
    from_empty: whether the cache, if there is one, holds nothing yet.
    kept_B: how many tokens of each row the cache keeps.
    joined: whether B and S are one axis outside attention.
    captures: names in `CAPTURES`.
    reader: of attention's weights; None: they are not captured.
    remat: which activations the backward pass finds, in `remat.POLICIES`.
    unroll: whether the layers are compiled one by one, not as a loop's body.
    groups: what differs from layer to layer, of each group of layers.
  """

  shape: tuple[int, int]
  plan: patterns.LayerPlan
  pos_BS: Array
  positions: patterns.Positions
  num_keys: int
  kernel_rotates: bool
  segments_BS: Array | None
  logit_scale: Array | float
  logit_soft_cap: float | None
  backend: attention.Choice
  from_empty: bool
  kept_B: Array
  joined: bool
  captures: frozenset[str]
  reader: attention.Reader | None
  remat: str
  unroll: bool
  groups: tuple[PerLayer, ...]

  def join(self, x_BSM: Array) -> Array:
    """Returns an array with B and S as one axis, where this pass has them so.

    Otherwise XLA's CPU backend copies an operand of each weight's gradient,
    transposed.
    """
    return x_BSM.reshape(-1, *x_BSM.shape[2:]) if self.joined else x_BSM

  def split(self, x_BSM: Array) -> Array:
    """Returns an array with B and S apart; undoes `join`."""
    if not self.joined:
      return x_BSM
    return x_BSM.reshape(*self.shape, *x_BSM.shape[1:])


class LayerPass:
  """One layer's share of a forward pass.

  Attributes:
    shared: what all layers share.
    own: what this one has of its own, without N.
    captured: what was asked for, by its name in `CAPTURES`.
  """

  def __init__(self, shared: ForwardPass, own: PerLayer):
    self.shared = shared
    self.own = own
    self.captured: dict[str, Any] = {}

  def capture(self, name: str, value: Any) -> None:
    """Keeps `value` if the pass was asked for it."""
    if name in self.shared.captures:
      self.captured[name] = value

  def attend(
    self, qkv: QKV, cache: Cache | None, learned: Mapping[str, Array]
  ) -> tuple[Array, Cache | None]:
    """Returns attention's out_BSHD, and the cache with these keys and values.

    Args:
      qkv: after QK norm, before positions.
      cache: what was read before; None: nothing was.
      learned: the layer's parameters of its positional scheme.
    """
    shared, own = self.shared, self.own
    positions = shared.plan.of_layer(
      shared.positions, own.scheme, learned, shared.num_keys
    )
    logit_scale = positions.scaled(shared.logit_scale, shared.shape)
    cap = shared.logit_soft_cap
    qkv, rotation = self._rotated(qkv, positions.rotation_B2SD)
    inputs = AttentionInputs(
      *qkv,
      own.window,
      jnp.asarray(logit_scale, jnp.float32),
      positions.slopes_H,
      positions.bias_HT,
      None if cap is None else jnp.float32(cap),
    )
    self.capture("attention_inputs", inputs)
    read = functools.partial(
      self._read,
      qkv.q_BSHD,
      rotation=rotation,
      logit_scale=logit_scale,
      slopes_H=positions.slopes_H,
      bias_HT=positions.bias_HT,
      soft_cap=cap,
    )
    read_own = functools.partial(read, qkv.k_BSKD, qkv.v_BSKD, None, own.window)
    if cache is None:
      found = read_own()
    else:
      assert own.place is not None  # There is a cache.
      cache, *views = cache.write(
        own.place,
        qkv.k_BSKD,
        qkv.v_BSKD,
        shared.kept_B,
        from_empty=shared.from_empty,
      )
      # A prefill writes to the cache and reads its own tokens alone.
      if shared.from_empty:
        found = read_own()
      else:
        found = self._read_cache(read, own.place, *views)
    out_BSHD, captured = found
    for name, value in captured.items():
      self.capture(name, value)
    return out_BSHD, cache

  def _read_cache(
    self, read: Callable, place: Place, whole: View | None, ring: View | None
  ) -> Any:
    """Returns what is read of the view that the layer has."""

    def of(view: View) -> Any:
      window = None if view.all_visible else self.own.window
      return read(view.k_BTKD, view.v_BTKD, view.offset_B, window)

    if whole is None or ring is None:
      view = ring if whole is None else whole
      assert view is not None  # A cache has layers.
      return of(view)
    return jax.lax.cond(place.in_ring, lambda: of(ring), lambda: of(whole))

  def _read(
    self,
    q_BSHD: Array,
    k_BTKD: Array,
    v_BTKD: Array,
    offset_B: Array | None,
    window: Array | None,
    *,
    rotation: attention.Rotation | None,
    **terms: Any,
  ) -> tuple[Array, dict[str, Any]]:
    """Returns attention's out_BSHD, and what is captured of it."""
    shared, captured = self.shared, {}
    segments_BS = shared.segments_BS
    mask = attention.Mask(offset_B, window, segments_BS, segments_BS)
    if shared.reader is not None:
      captured["weights"] = attention.read_weights(
        shared.reader, q_BSHD, k_BTKD, mask, **terms
      )
    with_stats = "max_logit" in shared.captures
    attended = attention.attend(
      q_BSHD,
      k_BTKD,
      v_BTKD,
      mask=mask,
      **terms,
      rotation=rotation,
      with_stats=with_stats,
      backend=shared.backend,
    )
    if not with_stats:
      return attended, captured
    out_BSHD, stats = attended
    captured["max_logit"] = stats.max_logit_BHS.max()
    return out_BSHD, captured

  def _rotated(
    self, qkv: QKV, table_B2SD: Array | None
  ) -> tuple[QKV, attention.Rotation | None]:
    """Returns q and k rotated; or as they are, and what the kernel is to do."""
    tables_NB2SD = self.shared.positions.rotation_B2SD
    if table_B2SD is None or tables_NB2SD is None:
      return qkv, None
    if self.shared.kernel_rotates:
      tables_N2SD = tables_NB2SD[:, 0]
      return qkv, attention.Rotation(tables_N2SD, tables_N2SD, self.own.scheme)
    cos_BS1D, sin_BS1D = (table_B2SD[:, i, :, None] for i in range(2))
    q_BSHD, k_BSKD = (
      attention.rotate(x_BSHD, cos_BS1D, sin_BS1D).astype(x_BSHD.dtype)
      for x_BSHD in (qkv.q_BSHD, qkv.k_BSKD)
    )
    return QKV(q_BSHD, k_BSKD, qkv.v_BSKD), None


def start(
  config: ModelConfig,
  tokens_BS: Array,
  *,
  cache: Cache | None = None,
  from_empty: bool = False,
  kept_B: Array | None = None,
  segments_BS: Array | None = None,
  logit_scale: Array | float | None = None,
  backend: attention.Choice = "reference",
  remat: str = "none",
  unroll: bool = False,
  join_sequences: bool = False,
  capture: Sequence[str] = (),
  reader: attention.Reader | None = None,
) -> ForwardPass:
  """Returns a pass over tokens.

  Args:
    config: the model's.
    tokens_BS: what is read.
    cache: what was read before; None: nothing was, and nothing is kept.
    from_empty: promises that the cache is empty (a prefill), so that tokens
      attend to each other alone and a backend may skip what they cannot see.
    kept_B: how many tokens of each row are real, and not padding that follows
      them; None: all.
    segments_BS: int32 ids; a token sees its own segment alone. None: one.
    logit_scale: overrides `config.logit_scale`; one for all, or float32 [B, S]
      for the queries; may be traced.
    backend: the attention's, see `attention.BACKENDS`.
    remat: which activations the backward pass finds, in `remat.POLICIES`.
    unroll: whether the layers are compiled one by one, not as a loop's body.
    join_sequences: whether B and S are one axis outside attention; where
      devices share sequences, XLA would move them.
    capture: names in `CAPTURES`.
    reader: of attention's weights, where "weights" are captured.

  Raises:
    ValueError: there is no such capture; weights are captured without a reader,
      or a reader given without that; a cache, whose keys would be stale, meets
      positions that follow the length; or there are more tokens than positions.
  """
  if unknown := sorted({*capture} - {*CAPTURES}):
    raise ValueError(
      f"A pass can capture {', '.join(CAPTURES)}, got {', '.join(unknown)}. "
      "Name some of these."
    )
  if (reader is None) == ("weights" in capture):
    raise ValueError(
      "A reader is needed where weights are captured, and nowhere else, got "
      f"{reader} and the captures {', '.join(capture) or 'none'}. Give both, "
      "or neither."
    )
  plan = patterns.layer_plan(config.positional, config.num_layers)
  for scheme in plan.schemes:
    if cache is not None and not scheme.is_fixed:
      raise ValueError(
        "A key-value cache needs positions that do not change with length, "
        f"got {scheme}. Fix them with its at(length)."
      )
  B, S = tokens_BS.shape
  num_keys = S
  if plan.embedder is not None and cache is None:
    plan.embedder.at(num_keys)  # It refuses what is beyond its table.
  pos_BS = jnp.arange(num_keys)[None]
  if cache is not None and not from_empty:
    pos_BS += cache.length_B[:, None]
    num_keys = cache.k_NBKDT.shape[-1]
  windows = plan.windows or (None,) * config.num_layers
  layers = PerLayer(
    plan.scheme_array(),
    plan.window_array(),
    None if cache is None else cache.places(windows),
  )
  # Keys are cached, captured and read with their rotation in them.
  shown = {"attention_inputs", "weights"} & {*capture}
  wants_rotated = cache is not None or bool(shown)
  return ForwardPass(
    shape=tokens_BS.shape,
    plan=plan,
    pos_BS=pos_BS,
    positions=plan.prepare(pos_BS, num_keys, config.head_dim, config.num_heads),
    num_keys=num_keys,
    kernel_rotates=attention.rotates(backend) and not wants_rotated,
    segments_BS=segments_BS,
    logit_scale=config.logit_scale if logit_scale is None else logit_scale,
    logit_soft_cap=config.logit_soft_cap,
    backend=backend,
    from_empty=from_empty,
    kept_B=jnp.full(B, S) if kept_B is None else kept_B,
    joined=join_sequences,
    captures=frozenset(capture),
    reader=reader,
    remat=remat,
    unroll=unroll,
    groups=tuple(
      jax.tree.map(lambda x_N, part=part: x_N[part], layers)
      for part in config.group_slices
    ),
  )
