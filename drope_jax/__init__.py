"""DroPE in JAX: train with RoPE, drop it, recalibrate, read longer contexts.

`import drope_jax as dj` offers the names of `drope_jax.api`. The import itself
is instant: jax and the rest are imported when the first of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from drope_jax.api import (
    AdamW,
    CheckpointLM,
    Constant,
    Cosine,
    DataConfig,
    HeldOut,
    Material,
    Model,
    ModelConfig,
    Muon,
    Recipe,
    Result,
    Store,
    Suite,
    Surgery,
    SurgeryPhase,
    TrainPhase,
    WarmupStableDecay,
    convert,
    evaluate,
    export,
    lm,
    load,
    operate,
    run_recipe,
    save,
    tokenize,
  )

__version__ = "0.1.0"

__all__ = [
  "AdamW",
  "CheckpointLM",
  "Constant",
  "Cosine",
  "DataConfig",
  "HeldOut",
  "Material",
  "Model",
  "ModelConfig",
  "Muon",
  "Recipe",
  "Result",
  "Store",
  "Suite",
  "Surgery",
  "SurgeryPhase",
  "TrainPhase",
  "WarmupStableDecay",
  "convert",
  "evaluate",
  "export",
  "lm",
  "load",
  "operate",
  "run_recipe",
  "save",
  "tokenize",
]


def __getattr__(name: str) -> Any:
  """Returns a name of `drope_jax.api`, importing that at the first use."""
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module("drope_jax.api"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
