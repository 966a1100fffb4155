"""The library in a page: what `import drope_jax as dj` offers.

Each function is what the command of the same purpose runs. A checkpoint on disk
is read into a `Model`; a training and an export are folders.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any
import warnings

from etils import epath

from drope_jax.axes import Array
from drope_jax.checkpoint import model as models
from drope_jax.checkpoint.files import Path
from drope_jax.checkpoint.formats import convert as formats
from drope_jax.checkpoint.formats import export as exports
from drope_jax.checkpoint.model import Model
from drope_jax.data import inputs, paths, writer
from drope_jax.data.pipeline import DataConfig
from drope_jax.data.store import Store
from drope_jax.evals.interface import Result
from drope_jax.evals.record import Record
from drope_jax.evals.suite import Material, Suite
from drope_jax.inference import evaluation, measurement
from drope_jax.inference.lm import CheckpointLM
from drope_jax.model.config import ModelConfig
from drope_jax.surgery import compose
from drope_jax.surgery.compose import Surgery
from drope_jax.train import loop
from drope_jax.train.optimizer import (
  AdamW,
  Constant,
  Cosine,
  Muon,
  WarmupStableDecay,
)
from drope_jax.train.phases import HeldOut, SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe

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


def load(path: Path, *, dtype: str | None = None) -> Model:
  """Returns the checkpoint at `path`, on the first device.

  Args:
    path: a checkpoint; a run, for its newest step; RUN/best; or
      "packaged:checkpoints/demo_base", which comes with the library.
    dtype: to cast the weights to; None keeps each as stored.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: it is damaged, or of a later version.
  """
  return models.load(paths.resolve(os.fspath(path)), dtype=dtype)


def save(model: Model, out: Path) -> Model:
  """Writes a model to a new checkpoint, and returns it with that path.

  Raises:
    ValueError: `out` exists.
  """
  return models.save(model, out)


def convert(
  source: str,
  out: Path,
  *,
  dtype: str = "keep",
  llama: str | None = None,
  tokenizer: str | None = None,
  allow_nonfinite: bool = False,
) -> Model:
  """Writes a checkpoint of another project's weights, and returns it.

  Args:
    source: a Hugging Face or Meta folder, a llama2.c .bin, or a .gguf file.
    out: the new checkpoint.
    dtype: of the weights, "float32" or "bfloat16"; "keep" is the source's.
    llama: which Llama a Meta folder holds, such as "3.1"; None for the others.
    tokenizer: its file; None: the one that lies with the source.
    allow_nonfinite: whether NaN and infinite weights are let through.

  Raises:
    FileNotFoundError: a part of the source is missing.
    ValueError: the source cannot be converted exactly, or `out` exists.
  """
  formats.convert(
    paths.local(source, "What is converted"),
    out,
    dtype=dtype,
    llama=llama,
    tokenizer=None if tokenizer is None else paths.local(tokenizer, "A file"),
    allow_nonfinite=allow_nonfinite,
  )
  return models.load(out)


def tokenize(
  texts: Sequence[str],
  out: str,
  tokenizer: Path,
  *,
  workers: int = 1,
) -> Store:
  """Writes a token store for `DataConfig.stores`, and returns it.

  Killed, the same call resumes; finished, it returns the store.

  Args:
    texts: files, folders and globs, or "packaged:fit" and the like.
    out: the store's folder.
    tokenizer: its file, such as `Model.tokenizer_path`.
    workers: processes that encode.

  Raises:
    FileNotFoundError, ValueError: a text cannot be read, or `out` holds
      something else.
  """
  sources, left_out = inputs.expand(texts)
  if left_out:
    warnings.warn(inputs.describe(left_out), stacklevel=2)
  return writer.write(out, sources, os.fspath(tokenizer), workers=workers)


def operate(
  model: Model, surgery: Surgery, tokens_BS: Array | None = None
) -> Model:
  """Returns the model after a surgery: without its positions, say.

  The result computes another function than the model; recalibrate it.

  Args:
    model: is not changed; the result shares the parameters that stay.
    surgery: what to change.
    tokens_BS: int32 text on which matched gains are measured; needed where
      `surgery.needs_tokens`.

  Raises:
    ValueError: the surgery does not fit the model, or needs tokens.
  """
  config, params = compose.apply(surgery, model.config, model.params, tokens_BS)
  arguments = {"surgery": surgery}
  manifest = model.manifest.after(
    "surgery", arguments, model.parent, model=config
  )
  return dataclasses.replace(model, params=params, manifest=manifest, path=None)


def run_recipe(
  recipe: Recipe,
  out: Path,
  *,
  base_dir: str | None = None,
  on_metrics: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> Model:
  """Runs the phases of a recipe, and returns the model of the last.

  Interrupted, the same call resumes; finished, it returns the model.

  Args:
    recipe: what to train, from what.
    out: the run's folder, with metrics.jsonl and a checkpoint for each phase.
    base_dir: where relative paths of stores and of the tokenizer start; None:
      the working directory.
    on_metrics: called with each line of metrics.jsonl.

  Raises:
    FileNotFoundError: a store, tokenizer or checkpoint is missing.
    ValueError: `out` is another recipe's, or the parts of the recipe do not
      fit each other.
  """
  directory = epath.Path(out)
  loop.run(
    recipe,
    directory,
    base_dir=base_dir,
    on_metrics=on_metrics,
    evaluator=measurement.Measurement,
  )
  return models.load(directory / recipe.phases[-1].name)


def lm(model: Model, *, dtype: str = "float32") -> CheckpointLM:
  """Returns the language model that encodes, scores and generates.

  Args:
    model: with a tokenizer.
    dtype: of its weights, and of computations; a CPU computes in float32 and
      may have weights in "bfloat16" or "int8".

  Raises:
    ValueError: the model has no tokenizer, or the device cannot have the dtype.
  """
  return CheckpointLM.of(model, dtype)


def evaluate(
  lms: Mapping[str, CheckpointLM],
  suite: Suite,
  material: Material | None = None,
) -> list[Result]:
  """Returns the results of several models on the same samples.

  Args:
    lms: by the names that they have in the results.
    suite: evals, lengths, and methods such as YaRN.
    material: text to test on and to fit the softmax scale on; None: the
      packaged corpus.

  Raises:
    ValueError: there is no model, the models do not have the same context and
      tokenizer, a method fits none of them, or the text is too short.
  """
  record = Record()
  material = evaluation.packaged() if material is None else material
  for step in evaluation.plan(suite, lms, material, record):
    step.run()
  return record.rows


def export(
  checkpoint: Path,
  out: str,
  *,
  format: str = "hf",
  architecture: str | None = None,
  context_tokens: int | None = None,
  logit_scale: float | None = None,
) -> str:
  """Writes a checkpoint as a Hugging Face folder, and returns its architecture.

  Args:
    checkpoint: as `load` takes it.
    out: the new folder.
    format: "hf": a stock architecture; "sakana": the layout of the DroPE
      paper's repository.
    architecture: of transformers, such as "llama"; None: the plainest that
      holds the model.
    context_tokens: that a client may read, of a model without positions; None:
      8 times the trained context.
    logit_scale: the softmax scale to multiply into q's weights; None: that of
      `context_tokens` by the checkpoint's slope, if it has one.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: no architecture holds the model exactly, or `out` exists.
  """
  options = exports.Options(
    format=format,
    architecture=architecture,
    context_tokens=context_tokens,
    logit_scale=logit_scale,
  )
  exported = exports.export(
    paths.resolve(os.fspath(checkpoint)),
    paths.local(out, "An export's folder"),
    options,
  )
  return exported.architecture
