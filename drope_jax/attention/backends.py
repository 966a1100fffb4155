"""The backends of `attend`, and what each of them honours."""

from collections.abc import Callable
import dataclasses
import enum
import functools
import types
from typing import NamedTuple

from drope_jax.attention import blockwise, flash_tpu, library, reference, splash
from drope_jax.attention.flash_tpu.units import Blocks
from drope_jax.axes import Array


class Need(enum.StrEnum):
  """What a call of `attend` may need beyond causality."""

  OFFSET = "a query offset"
  WINDOW = "a window"
  TRACED_WINDOW = "a traced window"
  SEGMENTS = "segments"
  ALIBI = "ALiBi slopes"
  SOFT_CAP = "a soft cap"
  STATS = "statistics"
  ROTATION = "a rotation"
  FLOAT32 = "float32 inputs"


@dataclasses.dataclass(frozen=True)
class FlashTpu:
  """The backend "flash_tpu" with blocks of one's own.

  Attributes:
    forward, backward: how each kernel cuts its work; None: as the table that
      `tools/tune_attention.py` writes has it for the chip.
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
      With `Need.ROTATION` it takes `rotation`, too.
    honours: every need that it does not meet is refused.
  """

  attend: Callable[..., tuple[Array, Array | None, Array | None]]
  honours: frozenset[Need]


_ALL = frozenset(Need) - {Need.ROTATION}
_XLA = functools.partial(library.attend, implementation="xla")
_CUDNN = functools.partial(library.attend, implementation="cudnn")

BACKENDS = types.MappingProxyType(
  {
    "reference": Backend(reference.attend, _ALL),
    "blockwise": Backend(blockwise.attend, _ALL),
    "flash_tpu": Backend(flash_tpu.attend, _ALL | {Need.ROTATION}),
    "splash": Backend(
      splash.attend,
      _ALL - {Need.OFFSET, Need.TRACED_WINDOW, Need.ALIBI, Need.STATS},
    ),
    "xla": Backend(_XLA, _ALL - {Need.SOFT_CAP, Need.STATS}),
    "cudnn": Backend(
      _CUDNN, _ALL - {Need.ALIBI, Need.SOFT_CAP, Need.STATS, Need.FLOAT32}
    ),
  }
)


def rotates(backend: str | FlashTpu) -> bool:
  """Returns whether a backend takes a `Rotation`."""
  named = BACKENDS.get(_name(backend))
  return named is not None and Need.ROTATION in named.honours


def select(
  backend: str | FlashTpu, needs: set[Need]
) -> Callable[..., tuple[Array, ...]]:
  """Returns the `attend` of a backend that meets all needs.

  Raises:
    ValueError: there is none of that name, or it does not meet them; the
      message names those that do.
  """
  name = _name(backend)
  able = [name for name, other in BACKENDS.items() if needs <= other.honours]
  if name not in BACKENDS:
    raise ValueError(
      f"The attention backend must be one of {', '.join(able)}, got {name!r}. "
      "Name one of these."
    )
  if name not in able:
    unmet = sorted(needs - BACKENDS[name].honours)
    raise ValueError(
      f"Attention with {' and '.join(unmet)} needs a backend that honours it, "
      f"got {name!r}. Name one of {', '.join(able)}."
    )
  attend = BACKENDS[name].attend
  if isinstance(backend, str):
    return attend
  return functools.partial(
    attend, forward_blocks=backend.forward, backward_blocks=backend.backward
  )


def _name(backend: str | FlashTpu) -> str:
  return backend if isinstance(backend, str) else "flash_tpu"
