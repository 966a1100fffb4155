"""Hugging Face folders: config.json, weights and a tokenizer."""

from collections.abc import Callable, Mapping
import dataclasses
import itertools
import pathlib

import numpy as np

from drope_jax import trees
from drope_jax.checkpoint.formats import (
  export_manifest,
  families,
  hf_config,
  leaves,
  rope_layout,
  safetensors_io,
  torch_file,
  vocabulary_files,
)
from drope_jax.checkpoint.formats import tensors as tensors_lib
from drope_jax.checkpoint.formats.source import Source
from drope_jax.checkpoint.formats.tensors import Tensor
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

_TOKENIZERS = (
  "tokenizer.json",
  "tokenizer.model",
  vocabulary_files.VOCABULARY,
)
_Opener = Callable[[pathlib.Path, tuple[str, ...]], dict[str, Tensor]]
_WEIGHTS: Mapping[str, _Opener] = {
  safetensors_io.SINGLE: safetensors_io.open_file,
  safetensors_io.INDEX: safetensors_io.open_shards,
  torch_file.SINGLE: torch_file.open_file,
  torch_file.INDEX: lambda index, buffers: safetensors_io.open_shards(
    index, buffers, torch_file.open_file
  ),
}


def open_folder(
  folder: pathlib.Path, *, dtype: str, allow_nonfinite: bool
) -> Source:
  """Returns the checkpoint in a folder; no weight is read.

  Args:
    folder: as transformers saves one.
    dtype: as `leaves.build` takes it.
    allow_nonfinite: likewise.

  Raises:
    FileNotFoundError: config.json, the weights or a shard are missing.
    ValueError: the model cannot be read exactly; a file is damaged; the weights
      are not those that config.json describes; or the folder is an export of
      ours, and a file in it was changed.
  """
  exported = export_manifest.read(folder)
  config, family = hf_config.read(folder / hf_config.FILENAME)
  tensors = _with_prefix(_tensors(folder, family.buffers), family)
  try:
    config = family.positions.by_weights(config, tensors)
    _drop_non_weights(tensors, config, family)
    _split_merged(tensors, config, family)
    if (order_D := family.order(config)) is not None:
      rope_layout.to_ours(tensors, config, family.names, order_D)
    built = leaves.build(
      config,
      family.names,
      tensors,
      dtype=dtype,
      allow_nonfinite=allow_nonfinite,
      kernels_as_ours=family.kernels_as_ours,
    )
  except ValueError as error:
    raise ValueError(f"{folder}: {error}") from error
  if exported:
    # For a model without positions, config.json has a longer context.
    trained = exported.model.context_tokens
    config = dataclasses.replace(config, context_tokens=trained)
  return Source(
    config,
    built,
    lambda _: _tokenizer(folder, exported),
    facts={"format": "hf", "architecture": family.architecture},
    lineage=exported.lineage if exported else (),
    # As transformers' LlamaTokenizer does with a sentencepiece model alone.
    adds_bos=True if exported is None else None,
  )


def _tokenizer(
  folder: pathlib.Path, exported: Manifest | None
) -> pathlib.Path | None:
  """Returns the kind of tokenizer that was exported, or any that is there."""
  names = _TOKENIZERS
  had = exported.tokenizer if exported else None
  if had and had.filename.endswith(".model"):
    names = ("tokenizer.model", *names)
  found = [folder / name for name in names if (folder / name).exists()]
  return found[0] if found else None


def _tensors(
  folder: pathlib.Path, buffers: tuple[str, ...]
) -> dict[str, Tensor]:
  for name, open_weights in _WEIGHTS.items():
    if (folder / name).exists():
      return open_weights(folder / name, buffers)
  raise FileNotFoundError(
    f"Weights are needed, got none of {', '.join(_WEIGHTS)} in {folder}. Fetch "
    "them."
  )


def _with_prefix(
  tensors: dict[str, Tensor], family: families.Family
) -> dict[str, Tensor]:
  """Returns the tensors by full names, as a base model's lack the prefix."""
  prefix, head = family.prefix, family.names["head/kernel"]
  if any(name.startswith(prefix) for name in tensors):
    return tensors
  return {
    name if name == head else prefix + name: tensor
    for name, tensor in tensors.items()
  }


def _drop_non_weights(
  tensors: dict[str, Tensor], config: ModelConfig, family: families.Family
) -> None:
  """Removes a tied head, and the family's constants.

  Raises:
    ValueError: a value that must be fixed is not.
  """
  embedding, head = family.names["embed/table"], family.names["head/kernel"]
  if config.tied_embeddings and head in tensors:
    # safetensors saves one name of what is shared, whichever comes first.
    tensors.setdefault(embedding, tensors[head])
    if not tensors_lib.same(tensors[head], tensors[embedding]):
      raise ValueError(
        f"A tied head must be the embedding, got a {head} that differs from "
        f"{embedding}. Set tie_word_embeddings to false."
      )
    del tensors[head]
  for constant in family.constants(config):
    for name in constant.names(config):
      tensor = tensors.pop(name, None)
      if constant.must_be is not None and not _is(tensor, constant.value):
        raise ValueError(
          f"{constant.must_be}, got {'none' if tensor is None else 'others'} "
          f"for {name}. This checkpoint cannot be read exactly."
        )


def _split_merged(
  tensors: dict[str, Tensor], config: ModelConfig, family: families.Family
) -> None:
  """Puts the parts of merged tensors in their place, by the parts' names.

  Raises:
    ValueError: a merged tensor is missing or of another shape.
  """
  flat = trees.flatten(transformer.param_shapes(config))
  for merged, paths in family.merged.items():
    shapes = [family.shape(path, flat[path].shape) for path in paths]
    axis = family.merged_axis(merged)
    ends = [0, *itertools.accumulate(shape[axis] for shape in shapes)]
    want = family.merged_shape(merged, shapes)
    for n in range(config.num_layers):
      tensor = tensors.pop(merged.format(n), None)
      if tensor is None or tensor.shape != want:
        raise ValueError(
          f"{merged.format(n)} must be {want}, got {tensor and tensor.shape}. "
          "Use the configuration that the weights were saved with."
        )
      for i, path in enumerate(paths):
        name = family.names[path].format(n)
        tensors[name] = (
          tensors_lib.every(tensor, config.head_dim, i, len(paths))
          if family.merged_by_head
          else tensors_lib.part(tensor, ends[i], ends[i + 1], axis)
        )


def _is(tensor: Tensor | None, value: float) -> bool:
  if tensor is None:
    return False
  return bool((tensor.array().astype(np.float32) == value).all())
