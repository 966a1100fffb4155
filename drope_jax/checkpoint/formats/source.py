"""What an importer finds: a model of another format, not read yet."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from drope_jax.checkpoint.manifest import LineageEntry
from drope_jax.checkpoint.streaming import Leaf
from drope_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint to import.

  Attributes:
    config: the model's.
    leaves: its parameters by path.
    tokenizer_path: the file, with what belongs to it beside; None where the
      checkpoint has none.
    facts: for the lineage: what it was.
    lineage: of the checkpoint that it was exported from, if one of ours.
  """

  config: ModelConfig
  leaves: Mapping[str, Leaf]
  tokenizer_path: pathlib.Path | None
  facts: Mapping[str, Any]
  lineage: tuple[LineageEntry, ...] = ()
