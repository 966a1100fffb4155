"""A checkpoint in memory."""

import dataclasses
from typing import Any

from etils import epath

from drope_jax.checkpoint import store
from drope_jax.checkpoint.files import Path
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.model.config import ModelConfig
from drope_jax.model.transformer import Params


@dataclasses.dataclass(frozen=True)
class Model:
  """A model's weights with its config, history and tokenizer.

  Attributes:
    params: the parameter tree.
    manifest: its config, its tokenizer's fingerprint, and its lineage.
    tokenizer_path: the tokenizer's file; None where the manifest has none.
    path: the checkpoint on disk that holds exactly this; None where none does.
  """

  params: Params
  manifest: Manifest
  tokenizer_path: epath.Path | None = None
  path: epath.Path | None = None

  @property
  def config(self) -> ModelConfig:
    """The config that `params` match."""
    return self.manifest.model

  @property
  def parent(self) -> str | None:
    """What the lineage of a model that is made from this one calls it.

    Its path, or the name of the operation that made it.
    """
    if self.path is not None:
      return str(self.path)
    lineage = self.manifest.lineage
    return lineage[-1].operation if lineage else None


def load(path: Path, *, shardings: Any = None, dtype: Any = None) -> Model:
  """Returns the checkpoint at `path`.

  Args:
    path, shardings, dtype: as `store.load_model` takes them.

  Raises:
    FileNotFoundError, ValueError: as `store.load_model`.
  """
  checkpoint = store.locate(path)
  params, manifest = store.load_model(
    checkpoint, shardings=shardings, dtype=dtype
  )
  tokenizer = manifest.tokenizer and store.tokenizer_path(checkpoint)
  return Model(params, manifest, tokenizer, checkpoint)


def save(model: Model, directory: Path) -> Model:
  """Writes a new checkpoint, and returns the model with its path.

  Raises:
    ValueError: as `store.save_model`.
  """
  store.save_model(
    directory, model.params, model.manifest, model.tokenizer_path
  )
  return dataclasses.replace(model, path=store.locate(directory))
