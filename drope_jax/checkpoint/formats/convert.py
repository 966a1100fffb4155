"""Turns another project's weights into a checkpoint."""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import tempfile

from etils import epath

from drope_jax import trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.checkpoint.files import Path
from drope_jax.checkpoint.formats import detect, leaves, vocabulary_files
from drope_jax.checkpoint.formats.source import Source


@dataclasses.dataclass(frozen=True)
class Converted:
  """What was written.

  Attributes:
    manifest: the checkpoint's.
    parameters: how many.
    dtypes: of them, each once, in order.
  """

  manifest: manifests.Manifest
  parameters: int
  dtypes: tuple[str, ...]


def convert(
  source: pathlib.Path,
  out: Path,
  *,
  dtype: str = leaves.KEEP,
  llama: str | None = None,
  tokenizer: pathlib.Path | None = None,
  overwrite: bool = False,
  allow_nonfinite: bool = False,
) -> Converted:
  """Writes a checkpoint of `source`, exactly or not at all.

  Weights are read and written block by block.

  Args:
    source: a Hugging Face or Meta folder, a llama2.c .bin, or a .gguf.
    out: the new checkpoint's directory.
    dtype: of the weights: "float32", "bfloat16", or as the source has them.
    llama: which of `meta.RELEASES` a Meta folder holds; None for the others.
    tokenizer: a .model, tokenizer.json or vocab.json; None: the source's own.
    overwrite: whether a checkpoint at `out` is replaced, once this one is
      whole.
    allow_nonfinite: whether NaN and infinite weights are let through.

  Raises:
    FileNotFoundError, ValueError: as `detect.open_source` and
      `store.save_streamed`; or the tokenizer does not fit the model.
  """
  found = detect.open_source(
    source, llama=llama, dtype=dtype, allow_nonfinite=allow_nonfinite
  )
  with tempfile.TemporaryDirectory() as scratch:
    file = _tokenizer(found, tokenizer, pathlib.Path(scratch))
    manifest = _manifest(source, found, file, dtype)
    store.save_streamed(out, found.leaves, manifest, file, overwrite=overwrite)
  parameters = found.leaves.values()
  return Converted(
    manifest,
    trees.count(parameters),
    tuple(sorted({leaf.dtype.name for leaf in parameters})),
  )


def _tokenizer(
  source: Source, chosen: pathlib.Path | None, scratch: pathlib.Path
) -> epath.Path | None:
  """Returns the file that the checkpoint takes, which may be in `scratch`."""
  file = source.tokenizer(scratch) if chosen is None else chosen
  if file is None:
    return None
  prepared = file
  if not file.is_relative_to(scratch):  # Else it is made already.
    prepared = vocabulary_files.prepare(
      file, scratch, rows=source.config.vocab_size
    )
  return tokenizer_file.with_format_defaults(
    epath.Path(prepared),
    epath.Path(scratch),
    adds_bos=source.adds_bos,
    ends_at_bos=source.ends_at_bos,
  )


def _manifest(
  path: pathlib.Path,
  source: Source,
  tokenizer: epath.Path | None,
  dtype: str,
) -> manifests.Manifest:
  reference = None if tokenizer is None else tokenizer_file.reference(tokenizer)
  before = manifests.Manifest(source.config, reference, source.lineage)
  arguments: Mapping[str, object] = {
    "source": dict(source.facts),
    "dtype": dtype,
  }
  return before.after("convert", arguments, os.fspath(path.absolute()))
