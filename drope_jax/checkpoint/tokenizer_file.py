"""The copy of a tokenizer's file that a checkpoint carries."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

from etils import epath
import jax
import tokenizers as hf_tokenizers

from drope_jax.checkpoint.manifest import TokenizerRef
from drope_jax.data import json_object
from drope_jax.data import tokenizer as tokenizers

_CONFIG = "tokenizer_config.json"
_GENERATION = "generation_config.json"
_TEMPLATES = "additional_chat_templates"
_BESIDE = (
  "added_tokens.json",
  "chat_template.jinja",
  _GENERATION,
  "special_tokens_map.json",
  "tokenizer.json",
  "tokenizer.model",
  _CONFIG,
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
      (folder / name).parent.mkdir(exist_ok=True)
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
  for template in (file.parent / _TEMPLATES).glob("*.jinja"):
    contents[f"{_TEMPLATES}/{template.name}"] = template.read_bytes()
  said = json_object.read_if_there(file.parent / _GENERATION)
  # transformers generates by config.json's ids where nothing else says them.
  of_model = json_object.read_if_there(file.parent / "config.json")
  lacking = {
    name: of_model[name]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    if said.get(name) is None and of_model.get(name) is not None
  }
  _ends(said | lacking, file.parent)  # Refuses now what `end_ids` would.
  if lacking:
    contents[_GENERATION] = json.dumps(said | lacking, indent=2).encode()
  return Files(contents)


def with_format_defaults(
  file: epath.Path,
  scratch: epath.Path,
  *,
  adds_bos: bool | None,
  ends_at_bos: bool,
) -> epath.Path:
  """Returns a tokenizer with files beside it that say what its format implies.

  Args:
    file: the tokenizer's. It is returned as it is where it is no sentencepiece
      model, or where a tokenizer_config.json beside it says all.
    scratch: a folder for a copy.
    adds_bos: whether BOS is put before a text; None: unknown.
    ends_at_bos: whether a text ends where the model writes BOS, as at EOS.

  Raises:
    ValueError: as `reference`.
  """
  said = (file.parent / _CONFIG).exists()
  if file.suffix != ".model" or said or adds_bos is None:
    return file
  contents = dict(collect(file, reference(file)).contents)
  contents[_CONFIG] = json.dumps({"add_bos_token": adds_bos}, indent=2).encode()
  tokenizer = tokenizers.load(os.fspath(file))
  if ends_at_bos and tokenizer.bos_id is not None:
    generation = json.loads(contents.get(_GENERATION, "{}"))
    ends = [tokenizer.eos_id, tokenizer.bos_id]
    contents[_GENERATION] = json.dumps(
      {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends} | generation,
      indent=2,
    ).encode()
  Files(contents).write(scratch)
  return scratch / file.name


def adds_bos(file: epath.Path) -> bool:
  """Returns whether a text begins with BOS, by what lies beside a tokenizer's.

  Where nothing lies beside a sentencepiece model, as beside one of our own,
  only EOS delimits documents.
  """
  config = json_object.read_if_there(file.parent / _CONFIG)
  if "add_bos_token" in config or file.suffix != ".json":
    # LlamaTokenizer's default, where its config does not say.
    return bool(config.get("add_bos_token", bool(config)))
  encode = hf_tokenizers.Tokenizer.from_buffer(tokenizers.contents(file)).encode
  return encode("").ids != []


def end_ids(file: epath.Path) -> tuple[int, ...]:
  """Returns the ids that the file beside a tokenizer's lets generation end at.

  A document ends with the tokenizer's EOS alone; a turn in a chat may end with
  others, which a model's generation_config.json names.

  Raises:
    ValueError: that file has others than ids.
  """
  return _ends(
    json_object.read_if_there(file.parent / _GENERATION), file.parent
  )


def _ends(generation: Mapping[str, Any], folder: epath.Path) -> tuple[int, ...]:
  given = generation.get("eos_token_id")
  ids = given if isinstance(given, list) else [] if given is None else [given]
  if not all(type(i) is int for i in ids):
    raise ValueError(
      f"eos_token_id must be an id or a list of them, got {given!r} in "
      f"{folder}. Put the model's there."
    )
  return tuple(ids)


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
