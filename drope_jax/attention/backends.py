"""The backends of `attend`, and what each of them honors."""

from collections.abc import Callable
import dataclasses
import enum
import functools
import types
from typing import NamedTuple

import jax

from drope_jax import tpus
from drope_jax.attention import blockwise, flash_tpu, library, reference, splash
from drope_jax.attention.divided import Divided
from drope_jax.attention.flash_tpu import blocks
from drope_jax.attention.flash_tpu.blocks import Blocks
from drope_jax.axes import Array


class Need(enum.StrEnum):
  """What a call of `attend` may need beyond causality."""

  OFFSET = "a query offset"
  WINDOW = "a window"
  TRACED_WINDOW = "a traced window"
  SEGMENTS = "segments"
  SLOPES = "a linear bias"
  BIAS = "a bias by distance"
  SOFT_CAP = "a soft cap"
  STATS = "statistics"
  ROTATION = "a rotation"
  FLOAT32 = "float32 inputs"


@dataclasses.dataclass(frozen=True)
class FlashTpu:
  """The backend "flash_tpu" with its blocks.

  Attributes:
    forward, backward: how each kernel cuts its work; None: as the table that
      `tools/tune_attention.py` writes has it for the chip, see `resolve`.
  """

  forward: Blocks | None = None
  backward: Blocks | None = None


class Backend(NamedTuple):
  """One way to compute attention.

  Attributes:
    attend: takes q_BSHD, k_BTKD, v_BTKD, mask, scale, slopes_H and soft_cap,
      as `attention.attend` does but for `scale`, which is all that multiplies
      q k^T; float, or float32 [B, S]. Without an offset, S = T. Returns
      out_BSHD, and lse_BHS and max_logit_BHS or, without `Need.STATS`, None.
      With `Need.ROTATION` it takes `rotation` too, with `Need.BIAS` `bias_HT`.
    honors: every need that it does not meet is refused.
    is_kernel: whether it is a kernel of ours or a peer's, which `jit` does not
      divide among devices; see `Divided`.
    divides_tokens: whether `jit` divides S and T among devices; a library's
      kernel may be divided by sequences and heads alone.
    platform: of the devices that run it; None: any.
  """

  attend: Callable[..., tuple[Array, Array | None, Array | None]]
  honors: frozenset[Need]
  is_kernel: bool = False
  divides_tokens: bool = True
  platform: str | None = None


_ALL = frozenset(Need) - {Need.ROTATION}
_XLA = functools.partial(library.attend, implementation="xla")
_CUDNN = functools.partial(library.attend, implementation="cudnn")

BACKENDS = types.MappingProxyType(
  {
    "reference": Backend(reference.attend, _ALL),
    "blockwise": Backend(blockwise.attend, _ALL),
    "flash_tpu": Backend(
      flash_tpu.attend,
      _ALL - {Need.BIAS} | {Need.ROTATION},
      is_kernel=True,
      platform="tpu",
    ),
    "splash": Backend(
      splash.attend,
      _ALL
      - {Need.OFFSET, Need.TRACED_WINDOW, Need.SLOPES, Need.BIAS, Need.STATS},
      is_kernel=True,
      platform="tpu",
    ),
    "xla": Backend(_XLA, _ALL - {Need.SOFT_CAP, Need.STATS}),
    "cudnn": Backend(
      _CUDNN,
      _ALL - {Need.SLOPES, Need.BIAS, Need.SOFT_CAP, Need.STATS, Need.FLOAT32},
      divides_tokens=False,
      platform="gpu",
    ),
  }
)


Choice = str | FlashTpu | Divided
"""A name in `BACKENDS`, or a backend with settings."""


def resolve(choice: Choice, device: jax.Device, head_dim: int) -> Choice:
  """Returns a backend with all the settings that it has on a device.

  `attend` does not know the device, so it needs our kernel's blocks from here.
  """
  if choice == "flash_tpu":
    choice = FlashTpu()
  if not isinstance(choice, FlashTpu):
    return choice
  chip = tpus.chip(device.device_kind)
  return FlashTpu(
    choice.forward or blocks.nearest(chip, head_dim, "forward"),
    choice.backward or blocks.nearest(chip, head_dim, "backward"),
  )


def rotates(backend: Choice) -> bool:
  """Returns whether a backend takes a `Rotation`."""
  named = BACKENDS.get(_name(backend))
  return named is not None and Need.ROTATION in named.honors


def is_kernel(backend: Choice) -> bool:
  """Returns whether a backend is a kernel, not products of XLA or a library."""
  named = BACKENDS.get(_name(backend))
  return named is not None and named.is_kernel


def on_mesh(
  backend: Choice,
  mesh: jax.sharding.Mesh,
  *,
  batch: tuple[str, ...],
  tokens: tuple[str, ...],
  heads: tuple[str, ...],
) -> Choice:
  """Returns a backend as it runs on a mesh; see `Divided` for the axes."""
  divided = Divided(backend, mesh, batch, tokens, heads)
  named = BACKENDS.get(_name(backend))
  by_jit = named is None or (
    not named.is_kernel and (named.divides_tokens or divided.ways(tokens) == 1)
  )
  return backend if mesh.size == 1 or by_jit else divided


def require_platform(backend: Choice, device: jax.Device) -> None:
  """Raises ValueError where a backend does not run on a device."""
  named = BACKENDS.get(_name(backend))
  if named and named.platform not in (None, device.platform):
    raise ValueError(
      f"The attention backend {_name(backend)} needs a "
      f"{named.platform.upper()}, got a {device.platform.upper()}. Choose "
      "another, or auto."
    )


def select(backend: Choice, needs: set[Need]) -> Callable[..., tuple]:
  """Returns the `attend` of a backend that meets all needs.

  Raises:
    ValueError: there is none of that name, or it does not meet them; the
      message names those that do.
  """
  if isinstance(backend, Divided):
    if backend.ways(backend.tokens) > 1:
      needs = needs | {Need.OFFSET}
    run = select(backend.backend, needs)
    return functools.partial(backend.attend, run)
  name = _name(backend)
  able = [name for name, other in BACKENDS.items() if needs <= other.honors]
  if name not in BACKENDS:
    raise ValueError(
      f"The attention backend must be one of {', '.join(able)}, got {name!r}. "
      "Name one of these."
    )
  if name not in able:
    unmet = sorted(needs - BACKENDS[name].honors)
    raise ValueError(
      f"Attention with {' and '.join(unmet)} needs a backend that honors it, "
      f"got {name!r}. Name one of {', '.join(able)}."
    )
  attend = BACKENDS[name].attend
  if isinstance(backend, str):
    return attend
  return functools.partial(
    attend, forward_blocks=backend.forward, backward_blocks=backend.backward
  )


def _name(backend: Choice) -> str:
  match backend:
    case str():
      return backend
    case FlashTpu():
      return "flash_tpu"
    case Divided():
      return _name(backend.backend)
