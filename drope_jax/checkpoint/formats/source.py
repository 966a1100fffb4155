"""What an importer finds: a model of another format, not read yet."""

from collections.abc import Callable, Mapping
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
    tokenizer: takes a folder for files that must be made, and returns the
      tokenizer's file, with what belongs to it beside; None where the
      checkpoint has none. Raises ValueError for one that is not read here.
    facts: for the lineage: what it was.
    lineage: of the checkpoint that it was exported from, if one of ours.
    adds_bos: whether the format's own programs put BOS before a text, where
      no file beside the tokenizer says it; None: they leave it to the file.
    ends_at_bos: whether they also end a text where the model writes BOS.
  """

  config: ModelConfig
  leaves: Mapping[str, Leaf]
  tokenizer: Callable[[pathlib.Path], pathlib.Path | None]
  facts: Mapping[str, Any]
  lineage: tuple[LineageEntry, ...] = ()
  adds_bos: bool | None = None
  ends_at_bos: bool = False
