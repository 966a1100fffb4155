"""A positional scheme and an attention window for each layer.

RNoPE-SWA, partial drops and sliding windows are patterns. The scanned layer
body is one for all of them: what differs enters it as arrays.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array
from drope_jax.positional.scheme import Scheme

_SEES_ALL = int(np.iinfo(np.int32).max)
"""A window longer than any sequence."""


@dataclasses.dataclass(frozen=True)
class Pattern:
  """Schemes and windows by layer, repeated until the layers are covered.

  Attributes:
    schemes: one a layer of the period, first layer first.
    windows: tokens a query sees, itself included, one a layer of the period;
      None sees all. Empty: no layer has a window.

  Example: RNoPE-SWA (arXiv:2501.18795), three windowed RoPE layers to each
  full NoPE layer, is `Pattern((Rope(), Rope(), Rope(), Nope()),
  (4096, 4096, 4096, None))`.
  """

  schemes: tuple[Scheme, ...]
  windows: tuple[int | None, ...] = ()

  def __post_init__(self):
    if not self.schemes:
      raise ValueError(
        "Pattern needs at least one scheme, got none. Name one a layer."
      )
    if any(isinstance(scheme, Pattern) for scheme in self.schemes):
      raise ValueError(
        "Pattern needs a scheme for each layer, got a Pattern within. "
        "Write out its schemes and windows."
      )
    if self.windows and len(self.windows) != len(self.schemes):
      raise ValueError(
        f"Pattern needs a window for each of its {len(self.schemes)} schemes, "
        f"got {len(self.windows)}. Write None where a layer sees all."
      )
    for window in self.windows:
      if window is not None and not 1 <= window <= _SEES_ALL:
        raise ValueError(
          f"Pattern needs windows of at most {_SEES_ALL} and at least 1 token, "
          f"got {window}. Write None where a layer sees all."
        )

  def at(self, length: int) -> "Pattern":
    """Returns the pattern of the schemes of sequences of `length` tokens."""
    fixed = tuple(scheme.at(length) for scheme in self.schemes)
    return dataclasses.replace(self, schemes=fixed)

  @property
  def most_tokens(self) -> int | None:
    """As a scheme's; all of a model's schemes have the same."""
    return self.schemes[0].most_tokens


class Positions(NamedTuple):
  """What a scheme does to attention in one forward pass, as arrays.

  `LayerPlan.prepare` stacks those of several schemes: each array then leads
  with an axis of schemes. None: no scheme does this.

  Attributes:
    rotation_B2SD: see `Scheme.rotation`.
    slopes_H: see `Scheme.bias_slopes`.
    bias_HT: see `Scheme.bias`; of a layer, with `Scheme.learned_bias`.
    scale_BS: see `Scheme.query_scale`.
  """

  rotation_B2SD: Array | None
  slopes_H: Array | None
  bias_HT: Array | None
  scale_BS: Array | None

  def scaled(
    self, logit_scale: Array | float, shape: tuple[int, int]
  ) -> Array | float:
    """Returns a logit scale times the queries' own, of B and S queries.

    It is returned as it is where queries have none of their own.
    """
    if self.scale_BS is None:
      return logit_scale
    return jnp.broadcast_to(logit_scale * self.scale_BS, shape)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
  """A pattern laid over N layers.

  Attributes:
    schemes: the distinct schemes.
    scheme_N: for each layer, its index in `schemes`.
    windows: for each layer, its window in tokens or None; empty where no
      layer has one.
  """

  schemes: tuple[Scheme, ...]
  scheme_N: tuple[int, ...]
  windows: tuple[int | None, ...]

  def prepare(
    self, pos_BS: Array, num_keys: int, head_dim: int, num_heads: int
  ) -> Positions:
    """Returns what the distinct schemes do, stacked.

    Args:
      pos_BS: int32 positions of the queries, from 0. B may be 1.
      num_keys: T. Keys are at positions 0 to T - 1, queries below T.
      head_dim: D.
      num_heads: H.
    """
    each, distance_T = self.schemes, jnp.arange(num_keys)
    unrotated_211 = np.asarray([[[1.0]], [[0.0]]], np.float32)
    return Positions(
      _stacked([s.rotation(pos_BS, head_dim) for s in each], unrotated_211),
      _stacked([s.bias_slopes(num_heads) for s in each], 0.0),
      _stacked([s.bias(num_heads, distance_T) for s in each], 0.0),
      _stacked([s.query_scale(pos_BS) for s in each], 1.0),
    )

  @property
  def learner(self) -> Scheme | None:
    """The scheme that layers have parameters of, if there is one."""
    return next((scheme for scheme in self.schemes if scheme.learns), None)

  @property
  def embedder(self) -> Scheme | None:
    """The scheme whose table is added to the embeddings, if there is one."""
    first = self.schemes[0]
    return None if first.table_tokens is None else first

  def of_layer(
    self,
    stacked: Positions,
    scheme: Array,
    learned: Mapping[str, Array],
    num_keys: int,
  ) -> Positions:
    """Returns what a layer's scheme does, out of `prepare`'s.

    Args:
      stacked: as `prepare` returned it.
      scheme: the layer's index in `schemes`; may be traced.
      learned: the layer's parameters of `learner`; {} where there is none.
      num_keys: as `prepare` took it.
    """
    own = jax.tree.map(lambda x_N: x_N[scheme], stacked)
    if self.learner is None:
      return own
    bias_HT = self.learner.learned_bias(learned, jnp.arange(num_keys))
    is_learner = scheme == self.schemes.index(self.learner)
    bias_HT = jnp.where(is_learner, bias_HT, 0.0)
    if own.bias_HT is not None:
      bias_HT += own.bias_HT
    return own._replace(bias_HT=bias_HT)

  def shapes(self, head_dim: int, num_heads: int) -> Positions:
    """Returns what `of_layer` does of one token, as `jax.ShapeDtypeStruct`.

    What is None there is done by no layer.
    """

    def one_token() -> Positions:
      pos_11, learned = jnp.zeros((1, 1), jnp.int32), {}
      if self.learner is not None:
        learned = self.learner.init(num_heads, jax.random.key(0))
      stacked = self.prepare(pos_11, 1, head_dim, num_heads)
      return self.of_layer(stacked, 0, learned, 1)

    return jax.eval_shape(one_token)

  def scheme_array(self) -> Array:
    """Returns scheme_N as int32."""
    return jnp.asarray(self.scheme_N, jnp.int32)

  def window_array(self) -> Array | None:
    """Returns int32 windows_N, or None where no layer has a window."""
    if not any(self.windows):
      return None
    return jnp.asarray([w or _SEES_ALL for w in self.windows], jnp.int32)


def _stacked(arrays: Sequence[Array | None], neutral: Any) -> Array | None:
  """Returns arrays as one, `neutral` in place of None; None if all are None."""
  given = [array for array in arrays if array is not None]
  if not given:
    return None
  shape = given[0].shape
  return jnp.stack(
    [
      jnp.broadcast_to(jnp.float32(neutral), shape) if array is None else array
      for array in arrays
    ]
  )


def layer_plan(positional: Scheme | Pattern, num_layers: int) -> LayerPlan:
  """Returns the plan of `num_layers` layers under a scheme or a pattern.

  Raises:
    ValueError: the pattern's period does not divide the layers, two of its
      schemes learn, or only some layers have a table of positions.
  """
  by_layer = layer_schemes(positional, num_layers)
  windows = getattr(positional, "windows", ())
  distinct = tuple(dict.fromkeys(by_layer))
  learners = [scheme for scheme in distinct if scheme.learns]
  if len(learners) > 1:
    raise ValueError(
      "A model has the parameters of one scheme that learns, got "
      f"{' and '.join(map(str, learners))}. Keep one of them."
    )
  if len({(s.table_tokens, s.most_tokens) for s in distinct}) > 1:
    raise ValueError(
      "A table of positions is added to the embeddings, which every layer "
      "reads, so that all layers must have it alike, got "
      f"{' and '.join(map(str, distinct))}. Keep it in all layers, or drop it "
      "in all."
    )
  return LayerPlan(
    distinct,
    tuple(distinct.index(scheme) for scheme in by_layer),
    windows * (num_layers // len(windows)) if windows else (),
  )


def layer_schemes(
  positional: Scheme | Pattern, num_layers: int
) -> tuple[Scheme, ...]:
  """Returns the scheme of each layer.

  Raises:
    ValueError: the pattern's period does not divide the layers.
  """
  if not isinstance(positional, Pattern):
    return (positional,) * num_layers
  period = len(positional.schemes)
  if num_layers % period:
    raise ValueError(
      f"A Pattern's period must divide the layers, got {period} schemes for "
      f"{num_layers} layers. Name a scheme for every layer."
    )
  return positional.schemes * (num_layers // period)


def of_layers(
  schemes: Sequence[Scheme], windows: Sequence[int | None] = ()
) -> Scheme | Pattern:
  """Returns the shortest positions that give each layer its scheme and window.

  Args:
    schemes: one a layer.
    windows: tokens, one a layer, None where it sees all; empty: all see all.
  """
  N = len(schemes)
  windows = windows or [None] * N
  layers = list(zip(schemes, windows, strict=True))
  period = next(
    p for p in range(1, N + 1) if not N % p and layers == layers[:p] * (N // p)
  )
  if period == 1 and windows[0] is None:
    return schemes[0]
  see_all = set(windows) == {None}
  return Pattern(
    tuple(schemes[:period]), () if see_all else tuple(windows[:period])
  )


def with_schemes(
  positional: Scheme | Pattern, schemes: Sequence[Scheme]
) -> Scheme | Pattern:
  """Returns positions with another scheme in each layer, and the same windows.

  Args:
    positional: has the windows.
    schemes: one a layer.
  """
  return of_layers(schemes, layer_plan(positional, len(schemes)).windows)
