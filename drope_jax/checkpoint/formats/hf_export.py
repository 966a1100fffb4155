"""Writes a checkpoint as a Hugging Face folder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.safetensors_io import Entry
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.data import json_object
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Target:
  """The form in which a checkpoint is written.

  Attributes:
    config: the model, with the context that clients may read.
    family: the family of the folder.
    fields: those of config.json, without the tokenizer's.
    logit_scale: multiplies what q is linear in, as config.json has no field
      for it.
  """

  config: ModelConfig
  family: families.Family
  fields: Mapping[str, Any]
  logit_scale: float = 1.0


def write_folder(
  checkpoint: os.PathLike, out: pathlib.Path, target: Target, readme: str
) -> None:
  """Writes `checkpoint` to the new folder `out`, whole or not at all.

  It holds the parameters of one tensor in memory at a time, with all layers.

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
  config = target.config
  trees.require_same_leaves(
    transformer.param_shapes(config), shapes, f"{checkpoint}"
  )
  flat = trees.flatten(shapes)
  begun = out.with_name(f"{out.name}.exporting")
  if begun.exists():
    shutil.rmtree(begun)
  begun.mkdir(parents=True)
  try:
    entries = list(_entries(config, target.family, flat))
    safetensors_io.write(begun, entries, _arrays(checkpoint, target, flat))
    # Clients cast every tensor to the one that config.json names.
    dtype = tensors_lib.common_dtype(entry.dtype for entry in entries)
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
  for name, paths in _tensors(family, flat):
    shapes = [family.shape(path, flat[path].shape) for path in paths]
    shape = shapes[0]
    if name in family.merged:
      shape = family.merged_shape(name, shapes)
    for one in leaves.layer_names(config, name, paths[0]):
      yield Entry(one, shape, _dtype(paths, flat))
  for constant in family.constants(config):
    dtype = np.dtype(flat[constant.like].dtype)
    for one in constant.names(config):
      yield Entry(one, constant.shape, dtype)


def _dtype(paths: Sequence[str], flat: Mapping[str, Any]) -> np.dtype:
  """Returns the dtype of a tensor of some parameters."""
  return tensors_lib.common_dtype(np.dtype(flat[path].dtype) for path in paths)


def _tensors(
  family: families.Family, paths: Iterable[str]
) -> Iterator[tuple[str, Sequence[str]]]:
  """Yields each tensor's name and the parameters in it, in order."""
  merged = {path: name for name, own in family.merged.items() for path in own}
  for path in paths:
    name = merged.get(path)
    if name is None:
      yield family.names[path], (path,)
    elif path == family.merged[name][0]:
      yield name, family.merged[name]


def _arrays(
  checkpoint: os.PathLike, target: Target, flat: Mapping[str, Any]
) -> Iterator[np.ndarray]:
  config, family = target.config, target.family
  for name, paths in _tensors(family, flat):
    parts = [
      _layers(path, _loaded(checkpoint, target, path, flat[path]))
      for path in paths
    ]
    dtype = _dtype(paths, flat)
    for layer in zip(*parts, strict=True):
      rows = [
        _as_theirs(config, family, path, one).astype(dtype, copy=False)
        for path, one in zip(paths, layer, strict=True)
      ]
      yield rows[0] if len(rows) == 1 else _merged(config, family, name, rows)
  for constant in family.constants(config):
    dtype = np.dtype(flat[constant.like].dtype)
    for _ in constant.names(config):
      yield np.full(constant.shape, constant.value, dtype)


def _loaded(
  checkpoint: os.PathLike, target: Target, path: str, leaf: Any
) -> np.ndarray:
  """Returns a parameter, with the logit scale in it where it takes it."""
  config = target.config
  array = np.asarray(store.load_leaf(checkpoint, path, leaf))
  if target.logit_scale == 1 or path not in _scaled_by_logit_scale(config):
    return array
  offset = config.norm_gain_offset if config.norms_q else 0
  with np.errstate(over="ignore", invalid="ignore"):
    folded = (array.astype(np.float32) + offset) * target.logit_scale
    was_finite = tensors_lib.is_finite(array)
    array = (folded - offset).astype(array.dtype)
  if was_finite and not tensors_lib.is_finite(array):
    raise ValueError(
      f"{path} times the logit scale must be finite in {array.dtype.name}, got "
      f"infinity for {target.logit_scale:g}. Lower `logit_scale`."
    )
  return array


def _merged(
  config: ModelConfig,
  family: families.Family,
  name: str,
  parts: Sequence[np.ndarray],
) -> np.ndarray:
  """Returns a tensor of several parameters, each as if it were apart."""
  if not family.merged_by_head:
    return np.concatenate(parts, family.merged_axis(name))
  first = parts[0]
  heads = [x.reshape(-1, config.head_dim, *first.shape[1:]) for x in parts]
  return np.stack(heads, axis=1).reshape(-1, *first.shape[1:])


def _layers(path: str, array: np.ndarray) -> Sequence[np.ndarray]:
  return array if parameters.describe(path).is_stacked else [array]


def _as_theirs(
  config: ModelConfig, family: families.Family, path: str, one: np.ndarray
) -> np.ndarray:
  """Returns one layer's array of a parameter, as the family's tensor is."""
  rows = one.T if leaves.is_transposed(path, family.kernels_as_ours) else one
  order_D = family.order(config)
  if order_D is not None and parameters.describe(path).is_rotated:
    rows = rope_layout.reordered(rows, np.argsort(order_D))
  return rows


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
    hf_tokenizer.lift_limits(
      folder, manifest.model.context_tokens, target.config.context_tokens
    )
  V, pad = fields["vocab_size"], fields["pad_token_id"]
  if pad is not None and not -V <= pad < V:
    # transformers would not build an embedding without the padding's row.
    fields["pad_token_id"] = None
  json_object.write(folder / hf_config.FILENAME, fields)
