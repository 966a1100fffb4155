"""The copy of a tokenizer's files in a checkpoint."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
from typing import Any

from etils import epath
import jax
import numpy as np
import tokenizers as hf_tokenizers

from drope_jax.checkpoint.manifest import TokenizerRef
from drope_jax.data import json_object, trimming
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
"""Files of a Hugging Face folder that belong to its tokenizer.

tokenizer_config.json names the special tokens of a tokenizer.json.
"""


@dataclasses.dataclass(frozen=True)
class Files:
  """Files that Orbax saves with the arrays, in one atomic commit.

  Implements Orbax's `StatefulCheckpointable`.
  """

  contents: Mapping[str, bytes]

  async def save(self, directory):
    """Starts to write into `directory`, once Orbax has created it."""

    async def write():
      path = await directory.await_creation()
      if jax.process_index() == 0:
        self.write(path)

    return write()

  async def load(self, directory):
    """Is never called: readers open the files directly."""
    raise NotImplementedError

  def write(self, folder: epath.Path) -> None:
    """Writes every file into `folder`."""
    for name, content in self.contents.items():
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).write_bytes(content)


def collect(file: epath.Path, tokenizer: TokenizerRef) -> Files:
  """Returns a tokenizer's file and the files that belong to it.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is another tokenizer's file.
  """
  contents = {tokenizer.filename: read_checked(file, tokenizer)}
  for name in _BESIDE:
    beside = file.parent / name
    if name != tokenizer.filename and beside.exists():
      contents[name] = beside.read_bytes()
  for template in (file.parent / _TEMPLATES).glob("*.jinja"):
    contents[f"{_TEMPLATES}/{template.name}"] = template.read_bytes()
  generation = json_object.read_if_there(file.parent / _GENERATION)
  # transformers takes these ids from config.json where no other file has them.
  model = json_object.read_if_there(file.parent / "config.json")
  missing = {
    name: model[name]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    if generation.get(name) is None and model.get(name) is not None
  }
  # Raises now what `end_ids` would.
  _end_ids(generation | missing, file.parent)
  if missing:
    contents[_GENERATION] = json.dumps(generation | missing, indent=2).encode()
  return Files(contents)


def with_format_defaults(
  file: epath.Path,
  scratch: epath.Path,
  *,
  adds_bos: bool | None,
  ends_at_bos: bool,
) -> epath.Path:
  """Returns a tokenizer with files beside it that state its format's defaults.

  Args:
    file: the tokenizer's. It is returned unchanged if it is not a sentencepiece
      model, or if a tokenizer_config.json is beside it.
    scratch: a folder for a copy.
    adds_bos: whether BOS is put before a text; None if unknown.
    ends_at_bos: whether generation ends at BOS, as it does at EOS.

  Raises:
    ValueError: as `reference`.
  """
  configured = (file.parent / _CONFIG).exists()
  if file.suffix != ".model" or configured or adds_bos is None:
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


def trimmed(
  file: epath.Path, scratch: epath.Path, counts_V: np.ndarray, size: int
) -> tuple[epath.Path, tuple[int, ...]]:
  """Returns a trimmed tokenizer, and which ids of the whole one it has.

  Args:
    file: the tokenizer's.
    scratch: a folder for the trimmed one and the files that belong to it.
    counts_V, size: as of `data.trimming.trim`.

  Raises:
    ValueError: as `trim`; or a file beside it names a token that the tokenizer
      does not have.
  """
  contents = dict(collect(file, reference(file)).contents)
  model, ids = trimming.trim(os.fspath(file), counts_V, size)
  contents[file.name] = model
  for other in {"tokenizer.json", "tokenizer.model"} - {file.name}:
    contents.pop(other, None)  # The same tokenizer, whole, in another form.
  new = {old: i for i, old in enumerate(ids)}
  for name in (_CONFIG, _GENERATION, "added_tokens.json"):
    if name not in contents:
      continue
    found = json.loads(contents[name])
    try:
      if name == _CONFIG:
        decoder = found.get("added_tokens_decoder", {})
        renumbered = {str(new[int(i)]): token for i, token in decoder.items()}
        found |= {"added_tokens_decoder": renumbered} if decoder else {}
      elif name == _GENERATION:
        found |= {
          key: [new[i] for i in value] if type(value) is list else new[value]
          for key, value in found.items()
          if key.endswith("_token_id") and value is not None
        }
      else:
        found = {token: new[i] for token, i in found.items()}
    except (KeyError, ValueError) as error:
      raise ValueError(
        f"A trimmed tokenizer keeps every token that {name} names, got the id "
        f"{error} there, which {file} does not have. Correct {name}."
      ) from error
    contents[name] = json.dumps(found, indent=2).encode()
  Files(contents).write(scratch)
  return scratch / file.name, ids


def adds_bos(file: epath.Path) -> bool:
  """Returns whether a text begins with BOS, from a tokenizer and its files.

  If there are none beside a sentencepiece model, as with this project's own,
  documents are delimited by EOS only.
  """
  config = json_object.read_if_there(file.parent / _CONFIG)
  if "add_bos_token" in config or file.suffix != ".json":
    # The default of LlamaTokenizer, if its config has no such field.
    return bool(config.get("add_bos_token", bool(config)))
  encode = hf_tokenizers.Tokenizer.from_buffer(tokenizers.contents(file)).encode
  return encode("").ids != []


def end_ids(file: epath.Path) -> tuple[int, ...]:
  """Returns the ids at which generation ends, from generation_config.json.

  A document ends only with the tokenizer's EOS. A turn in a chat may end with
  other ids, which this file names.

  Raises:
    ValueError: the file names something other than ids.
  """
  return _end_ids(
    json_object.read_if_there(file.parent / _GENERATION), file.parent
  )


def _end_ids(
  generation: Mapping[str, Any], folder: epath.Path
) -> tuple[int, ...]:
  given = generation.get("eos_token_id")
  ids = given if isinstance(given, list) else [] if given is None else [given]
  if not all(type(i) is int for i in ids):
    raise ValueError(
      f"eos_token_id must be an id or a list of them, got {given!r} in "
      f"{folder}. Correct its generation_config.json."
    )
  return tuple(ids)


def reference(file: epath.Path) -> TokenizerRef:
  """Returns the manifest's description of the tokenizer in `file`.

  Raises:
    ValueError: it is not a tokenizer, or has no EOS.
  """
  tokenizer = tokenizers.load(os.fspath(file))
  return TokenizerRef(file.name, tokenizer.fingerprint, tokenizer.vocab_size)


def read_checked(file: epath.Path, tokenizer: TokenizerRef) -> bytes:
  """Returns the file's `contents`; raises as `collect`."""
  content = tokenizers.contents(file)
  fingerprint = hashlib.sha256(content).hexdigest()
  if fingerprint != tokenizer.fingerprint:
    raise ValueError(
      f"The tokenizer of this checkpoint has SHA-256 {tokenizer.fingerprint}, "
      f"got {fingerprint} for {file}. Use the file that the model was trained "
      "with."
    )
  return content
