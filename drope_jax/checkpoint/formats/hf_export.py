"""Writes a checkpoint as a Hugging Face folder."""

from collections.abc import Iterator, Mapping
import dataclasses
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from drope_jax import parameters, trees
from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats import (
  export_manifest,
  families,
  hf_config,
  hf_tokenizer,
  leaves,
  rope_layout,
  safetensors_io,
)
from drope_jax.checkpoint.formats.safetensors_io import Entry
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import json_object
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Target:
  """The form in which a checkpoint is written.

  Attributes:
    family: the family of the folder.
    fields: those of config.json, without the tokenizer's.
    logit_scale: multiplies what q is linear in, as config.json has no field
      for it.
  """

  family: families.Family
  fields: Mapping[str, Any]
  logit_scale: float = 1.0


def write_folder(
  checkpoint: os.PathLike, out: pathlib.Path, target: Target, readme: str
) -> None:
  """Writes `checkpoint` to the new folder `out`, whole or not at all.

  It holds one parameter in memory at a time, with all its layers.

  Args:
    checkpoint: as `store.locate` returns it.
    out: must not exist.
    target: the form to write.
    readme: the text of README.md.

  Raises:
    ValueError: `out` exists; the checkpoint is damaged.
  """
  require_new(out)
  manifest, shapes = store.describe(checkpoint)
  config = manifest.model
  trees.require_same_leaves(
    transformer.param_shapes(config), shapes, f"{checkpoint}"
  )
  flat = trees.flatten(shapes)
  begun = out.with_name(f"{out.name}.exporting")
  if begun.exists():
    shutil.rmtree(begun)
  begun.mkdir(parents=True)
  try:
    safetensors_io.write(
      begun,
      list(_entries(config, target.family, flat)),
      _arrays(checkpoint, config, target, flat),
    )
    dtype = np.dtype(flat["embed/table"].dtype)
    _write_beside(checkpoint, begun, manifest, target, dtype)
    (begun / export_manifest.README).write_text(readme)
    export_manifest.write(begun, manifest)
  except BaseException:
    shutil.rmtree(begun)
    raise
  begun.rename(out)


def require_new(out: pathlib.Path) -> None:
  """Raises ValueError where `out` exists."""
  if out.exists():
    raise ValueError(
      f"An export is written to a new folder, but {out} exists. Choose "
      "another, or remove it first."
    )


def _entries(
  config: ModelConfig, family: families.Family, flat: Mapping[str, Any]
) -> Iterator[Entry]:
  for path, leaf in flat.items():
    shape = leaves.source_shape(path, leaf.shape)
    for name in leaves.source_names(config, family.names, path):
      yield Entry(name, shape, np.dtype(leaf.dtype))
  for constant in family.constants(config):
    dtype = np.dtype(flat[constant.like].dtype)
    for n in range(config.num_layers):
      yield Entry(constant.name.format(n), constant.shape, dtype)


def _arrays(
  checkpoint: os.PathLike,
  config: ModelConfig,
  target: Target,
  flat: Mapping[str, Any],
) -> Iterator[np.ndarray]:
  scaled = _scaled_by_logit_scale(config) if target.logit_scale != 1 else ()
  for path, leaf in flat.items():
    array = np.asarray(store.load_leaf(checkpoint, path, leaf))
    if path in scaled:
      offset = config.norm_gain_offset if config.norms_q else 0
      folded = (array.astype(np.float32) + offset) * target.logit_scale
      array = (folded - offset).astype(array.dtype)
    parameter = parameters.describe(path)
    for one in array if parameter.is_stacked else [array]:
      rows = one.T if parameter.is_matrix else one
      if target.family.interleaved and parameter.is_rotated:
        rows = rope_layout.to_interleaved(rows, config.head_dim)
      yield rows
  for constant in target.family.constants(config):
    dtype = np.dtype(flat[constant.like].dtype)
    for _ in range(config.num_layers):
      yield np.full(constant.shape, constant.value, dtype)


def _scaled_by_logit_scale(config: ModelConfig) -> tuple[str, ...]:
  """Returns the last parameters before the logits that q is linear in."""
  if config.norms_q:
    return ("layers/attention/q_norm/gain",)
  return ("layers/attention/q/kernel", "layers/attention/q/bias")


def _write_beside(
  checkpoint: os.PathLike,
  folder: pathlib.Path,
  manifest: Manifest,
  target: Target,
  dtype: np.dtype,
) -> None:
  fields = dict(target.fields)
  fields["torch_dtype"] = dtype.name
  if manifest.tokenizer is not None:
    tokenizer = store.tokenizer_path(checkpoint)
    fields |= hf_tokenizer.copy(tokenizer, folder)
  V, pad = fields["vocab_size"], fields["pad_token_id"]
  if pad is not None and not -V <= pad < V:
    # transformers would not build an embedding without the padding's row.
    fields["pad_token_id"] = None
  json_object.write(folder / hf_config.FILENAME, fields)
