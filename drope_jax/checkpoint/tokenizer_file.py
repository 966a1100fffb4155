"""The copy of a tokenizer's file that a checkpoint carries."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

from etils import epath
import jax

from drope_jax.checkpoint.manifest import TokenizerRef
from drope_jax.data import tokenizer as tokenizers

_GENERATION = "generation_config.json"
_BESIDE = (
  "added_tokens.json",
  "chat_template.jinja",
  _GENERATION,
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
)
"""What a Hugging Face folder has beside its tokenizer, and must go with it.

tokenizer_config.json names the special tokens of a tokenizer.json.
"""


@dataclasses.dataclass(frozen=True)
class Files:
  """Files that Orbax saves with the arrays, so that all commit as one.

  Meets Orbax's `StatefulCheckpointable`.
  """

  contents: Mapping[str, bytes]

  async def save(self, directory):
    """Starts to write into `directory`, which Orbax is still creating."""

    async def write():
      path = await directory.await_creation()
      if jax.process_index() == 0:
        self.write(path)

    return write()

  async def load(self, directory):
    """Is never called: readers open the file where it lies."""
    raise NotImplementedError

  def write(self, folder: epath.Path) -> None:
    """Writes every file into `folder`."""
    for name, content in self.contents.items():
      (folder / name).write_bytes(content)


def collect(file: epath.Path, tokenizer: TokenizerRef) -> Files:
  """Returns a tokenizer's file and what must lie beside it.

  Raises:
    FileNotFoundError: no such file.
    ValueError: it is another tokenizer's.
  """
  contents = {tokenizer.filename: checked(file, tokenizer)}
  for name in _BESIDE:
    beside = file.parent / name
    if name != tokenizer.filename and beside.exists():
      contents[name] = beside.read_bytes()
  if _GENERATION not in contents and (ids := _ids(file.parent)):
    contents[_GENERATION] = json.dumps(ids, indent=2).encode()
  return Files(contents)


def _ids(folder: epath.Path) -> dict[str, Any]:
  """Returns what transformers generates by where nothing else says it."""
  config = folder / "config.json"
  if not config.exists():
    return {}
  data = json.loads(config.read_text())
  names = ("bos_token_id", "eos_token_id", "pad_token_id")
  return {name: data[name] for name in names if data.get(name) is not None}


def reference(file: epath.Path) -> TokenizerRef:
  """Returns what a manifest says of the tokenizer in `file`.

  Raises:
    ValueError: it is no tokenizer, or has no EOS.
  """
  tokenizer = tokenizers.load(os.fspath(file))
  return TokenizerRef(file.name, tokenizer.fingerprint, tokenizer.vocab_size)


def checked(file: epath.Path, tokenizer: TokenizerRef) -> bytes:
  """Returns the file's `contents`; raises as `collect` does."""
  content = tokenizers.contents(file)
  fingerprint = hashlib.sha256(content).hexdigest()
  if fingerprint != tokenizer.fingerprint:
    raise ValueError(
      f"The tokenizer of this checkpoint has SHA-256 {tokenizer.fingerprint}, "
      f"got {fingerprint} for {file}. Use the file that the model was trained "
      "with."
    )
  return content
