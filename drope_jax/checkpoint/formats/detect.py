"""Which format a path holds."""

import pathlib
from typing import Any

from drope_jax.checkpoint.formats import gguf_file, hf, llama2c, meta
from drope_jax.checkpoint.formats.source import Source

_FILES = {".bin": llama2c.open_file, ".gguf": gguf_file.open_file}


def open_source(
  path: pathlib.Path,
  *,
  llama: str | None,
  dtype: str,
  allow_nonfinite: bool,
) -> Source:
  """Returns the checkpoint at `path`, told by its files; no weight is read.

  Args:
    path: a Hugging Face or Meta folder, a llama2.c .bin, or a .gguf.
    llama: which of `meta.RELEASES` a Meta folder holds; None for the others.
    dtype: as `leaves.build` takes it.
    allow_nonfinite: likewise.

  Raises:
    FileNotFoundError: nothing is there, or a part of it is missing.
    ValueError: no format that is known, or one that needs no `llama`; or as
      the format's own reader.
  """
  options: dict[str, Any] = {"dtype": dtype, "allow_nonfinite": allow_nonfinite}
  if not path.exists():
    raise FileNotFoundError(
      f"A checkpoint to convert is needed, got {path}, which does not exist. "
      "Check the path."
    )
  if meta.is_folder(path):
    return meta.open_folder(path, llama=llama, **options)
  if llama is not None:
    raise ValueError(
      f"`llama` is of Meta's folders, with {meta.PARAMS} and no config.json, "
      f"got {path}. Leave it out."
    )
  if path.is_dir():
    return hf.open_folder(path, **options)
  if path.suffix not in _FILES:
    raise ValueError(
      "A checkpoint to convert is a folder, or a file that ends in "
      f"{' or '.join(_FILES)}, got {path}. Name one of these."
    )
  return _FILES[path.suffix](path, **options)
