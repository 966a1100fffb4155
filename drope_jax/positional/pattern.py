"""A positional scheme and an attention window for each layer.

RNoPE-SWA, partial drops and sliding windows are patterns. The scanned layer
body is one for all of them: what differs enters it as arrays.
"""

from collections.abc import Sequence
import dataclasses

import jax.numpy as jnp
import numpy as np

from drope_jax.axes import Array
from drope_jax.positional.scheme import Scheme


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
      if window is not None and window < 1:
        raise ValueError(
          f"Pattern needs windows of at least 1 token, got {window}. "
          "Write None where a layer sees all."
        )


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

  def prepare(self, pos_BS: Array, head_dim: int) -> Array | None:
    """Returns turns_NB2SD of the distinct schemes; None where all q, k stay."""
    turns = [scheme.prepare(pos_BS, head_dim) for scheme in self.schemes]
    if all(turn is None for turn in turns):
      return None
    one, zero = jnp.ones(()), jnp.zeros(())
    stay_B2SD = jnp.broadcast_to(
      jnp.stack([one, zero])[:, None, None],
      (pos_BS.shape[0], 2, pos_BS.shape[1], head_dim),
    )
    return jnp.stack([stay_B2SD if turn is None else turn for turn in turns])

  def scheme_array(self) -> Array:
    """Returns scheme_N as int32."""
    return jnp.asarray(self.scheme_N, jnp.int32)

  def window_array(self) -> Array | None:
    """Returns int32 windows_N, or None where no layer has a window."""
    if not any(self.windows):
      return None
    no_window = np.iinfo(np.int32).max
    return jnp.asarray([w or no_window for w in self.windows], jnp.int32)

  def slopes_array(self, num_heads: int) -> Array | None:
    """Returns float32 slopes_NH, or None where no layer is biased."""
    by_scheme = [scheme.bias_slopes(num_heads) for scheme in self.schemes]
    if all(slopes is None for slopes in by_scheme):
      return None
    zeros_H = np.zeros(num_heads, np.float32)
    rows = [zeros_H if slopes is None else slopes for slopes in by_scheme]
    return jnp.asarray(np.stack(rows))[np.asarray(self.scheme_N)]


def layer_plan(positional: Scheme | Pattern, num_layers: int) -> LayerPlan:
  """Returns the plan of `num_layers` layers under a scheme or a pattern.

  Raises:
    ValueError: the pattern's period does not divide the layers.
  """
  by_layer = layer_schemes(positional, num_layers)
  windows = getattr(positional, "windows", ())
  distinct = tuple(dict.fromkeys(by_layer))
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
