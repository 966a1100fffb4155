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
    params: the parameter tree; of `describe`, shapes in their place.
    manifest: config, tokenizer's fingerprint, and lineage.
    tokenizer_path: the tokenizer's file; None if the manifest has none.
    path: of the same checkpoint on disk; None if it is not saved.
  """

  params: Params
  manifest: Manifest
  tokenizer_path: epath.Path | None = None
  path: epath.Path | None = None

  @property
  def config(self) -> ModelConfig:
    """The config of `params`."""
    return self.manifest.model

  @property
  def tokens(self) -> int:
    """Tokens that it was trained on in its whole history."""
    return self.manifest.lineage[-1].tokens if self.manifest.lineage else 0

  @property
  def parent(self) -> str | None:
    """The name of this model in the lineage of one made from it.

    It is the path, or the operation that made the model.
    """
    if self.path is not None:
      return str(self.path)
    lineage = self.manifest.lineage
    return lineage[-1].operation if lineage else None


def load(path: Path, **options: Any) -> Model:
  """Returns the checkpoint at `path`.

  Args:
    path, options: as for `store.load_model`.

  Raises:
    FileNotFoundError, ValueError: as `store.load_model`.
  """
  checkpoint = store.locate(path)
  params, manifest = store.load_model(checkpoint, **options)
  return _of(checkpoint, params, manifest)


def describe(path: Path) -> Model:
  """Returns the checkpoint at `path`, without reading arrays; see `load`."""
  checkpoint = store.locate(path)
  manifest, shapes = store.describe(checkpoint, check=True)
  return _of(checkpoint, shapes, manifest)


def _of(checkpoint: epath.Path, params: Any, manifest: Manifest) -> Model:
  tokenizer = manifest.tokenizer and store.tokenizer_path(checkpoint)
  return Model(params, manifest, tokenizer, checkpoint)


def save(model: Model, directory: Path) -> Model:
  """Writes a new checkpoint; returns the model with its path.

  Raises:
    ValueError: as `store.save_model`.
  """
  store.save_model(
    directory, model.params, model.manifest, model.tokenizer_path
  )
  return dataclasses.replace(model, path=store.locate(directory))
