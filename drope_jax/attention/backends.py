"""The backends of `attend`, and what each of them honours."""

from collections.abc import Callable
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
  FLOAT32 = "float32 inputs"


class Backend(NamedTuple):
  """One way to compute attention.

  Attributes:
    attend: takes q_BSHD, k_BTKD, v_BTKD, mask, scale, slopes_H and soft_cap,
      as `attention.attend` does but for `scale`, which is all that multiplies
      q k^T; float, or float32 [B, S]. Without an offset, S = T. Returns
      out_BSHD, and lse_BHS and max_logit_BHS or, without `Need.STATS`, None.
    honours: every need that it does not meet is refused.
  """

  attend: Callable[..., tuple[Array, Array | None, Array | None]]
  honours: frozenset[Need]


_ALL = frozenset(Need)
_BLOCKS = Blocks(q=1024, k=1024, unit_q=256, unit_k=256, ahead=2, behind=1)
_FLASH_TPU = functools.partial(
  flash_tpu.attend, forward_blocks=_BLOCKS, backward_blocks=_BLOCKS
)
_XLA = functools.partial(library.attend, implementation="xla")
_CUDNN = functools.partial(library.attend, implementation="cudnn")

BACKENDS = types.MappingProxyType(
  {
    "reference": Backend(reference.attend, _ALL),
    "blockwise": Backend(blockwise.attend, _ALL),
    "flash_tpu": Backend(_FLASH_TPU, _ALL),
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
