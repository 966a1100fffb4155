"""Positional schemes: frozen dataclasses that a model's config names.

To add one: a file here with a frozen dataclass of `scheme.Scheme`, and its line
in `CATALOGUE`.
"""

import types

from drope_jax.positional.alibi import Alibi
from drope_jax.positional.fope import Fope
from drope_jax.positional.kerple import Kerple
from drope_jax.positional.learned_absolute import LearnedAbsolute
from drope_jax.positional.log_scaled import LogScaled
from drope_jax.positional.longrope import LongRope, RescaledRope
from drope_jax.positional.nope import Nope
from drope_jax.positional.partial import PartialRope
from drope_jax.positional.pattern import Pattern
from drope_jax.positional.rotary import Rope
from drope_jax.positional.scaling import (
  CriticalNtk,
  Dynamic,
  Llama3Rope,
  NtkAware,
  PositionInterpolation,
  Yarn,
)
from drope_jax.positional.scheme import Scheme

CATALOGUE = types.MappingProxyType(
  {
    scheme.__name__: scheme
    for scheme in (
      Rope,
      PartialRope,
      Fope,
      Nope,
      Alibi,
      Kerple,
      LearnedAbsolute,
      PositionInterpolation,
      NtkAware,
      Yarn,
      Llama3Rope,
      CriticalNtk,
      Dynamic,
      RescaledRope,
      LongRope,
      LogScaled,
      Pattern,
    )
  }
)

__all__ = ["CATALOGUE", "Scheme", *CATALOGUE]
