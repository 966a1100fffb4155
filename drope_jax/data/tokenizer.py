"""Tokenizers: sentencepiece models and Hugging Face tokenizer.json files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import hashlib
import io
import json
import os
import re
from typing import Any, Protocol

from etils import epath
import numpy as np
from numpy.typing import ArrayLike
import sentencepiece
import tokenizers

from drope_jax.data import json_object, paths, whole_file

# The document end in a tokenizer.json that has no tokenizer_config.json beside
# it.
_EOS_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>")
_BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>")

# Files that name the special tokens; the first that names one decides.
_NAMED_IN = ("tokenizer_config.json", "special_tokens_map.json")
_ROLES = ("bos_token", "eos_token")

_SAVED_LENGTHS = re.compile(rb'"(truncation|padding)"\s*:\s*\{')


class Tokenizer(Protocol):
  """Text to token ids and back.

  Attributes:
    path: the file it was loaded from.
    fingerprint: sha256 of its `contents`, in hex.
    vocab_size: ids are in [0, vocab_size).
    bos_id: the beginning-of-text id; None if there is none.
    eos_id: the end-of-document id.
  """

  path: str
  fingerprint: str
  vocab_size: int
  bos_id: int | None
  eos_id: int

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without BOS or EOS.

    Text that spells a special token ("</s>") is encoded as plain text.
    """

  def encode_batch(self, texts: Sequence[str]) -> list[ArrayLike]:
    """Returns `encode` of each text."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`.

    Special tokens are left out, and so are ids without a token, which models
    with a padded embedding can produce.
    """


def contents(path: epath.Path) -> bytes:
  """Returns a tokenizer's file, without a saved `truncation` and `padding`.

  A tokenizer.json keeps the lengths of its last use, and would truncate or pad
  every text to them. transformers sets both at each call.
  """
  data = path.read_bytes()
  if path.suffix != ".json" or not _SAVED_LENGTHS.search(data):
    return data
  try:
    saved = dict(json.loads(data))
  except (ValueError, TypeError, RecursionError):
    return data  # `load` says what is wrong with it.
  return json.dumps(saved | {"truncation": None, "padding": None}).encode()


def load(path: str | os.PathLike) -> Tokenizer:
  """Returns the tokenizer in a `.model` (sentencepiece) or `.json` file.

  Raises:
    FileNotFoundError: no such file.
    ValueError: another suffix, an unreadable file, or a file without EOS.
  """
  file = paths.resolve(os.fspath(path))
  kinds: Mapping[str, Callable[[str], Tokenizer]] = {
    ".model": SentencePieceTokenizer,
    ".json": HuggingFaceTokenizer,
  }
  if file.suffix not in kinds:
    raise ValueError(
      f"A tokenizer must be a file that ends in {' or '.join(kinds)}, got "
      f"{path}. Name the sentencepiece model or the tokenizer.json itself."
    )
  if not file.exists():
    raise FileNotFoundError(
      f"A tokenizer file is needed, got {path}, which does not exist. Check "
      "the path, or train one with `drope tokenize --train-vocab N`."
    )
  return kinds[file.suffix](os.fspath(file))


class SentencePieceTokenizer:
  """A sentencepiece model: this project's, Llama 2's, Gemma's.

  Lossless for this project's models, with one exception: sentencepiece writes
  a space as U+2581, so that character is decoded as a space.
  """

  def __init__(self, path: str):
    data = epath.Path(path).read_bytes()
    self._model = sentencepiece.SentencePieceProcessor()
    try:
      self._model.LoadFromSerializedProto(data)
    except RuntimeError as error:
      raise ValueError(
        f"{path} must be a sentencepiece model, got {len(data)} bytes that do "
        "not parse as one. Fetch or train it again."
      ) from error
    self.path = path
    self.fingerprint = hashlib.sha256(data).hexdigest()
    self.vocab_size = self._model.vocab_size()
    bos_id, eos_id = self._model.bos_id(), self._model.eos_id()
    self.bos_id = None if bos_id < 0 else bos_id
    self.eos_id = _checked_eos(path, None if eos_id < 0 else eos_id)

  def encode(self, text: str) -> list[int]:
    """Returns ids without BOS or EOS."""
    return self._model.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns `encode` of each text, as int32 arrays."""
    # Lists of int objects would take ten times as long.
    return self._model.encode(list(texts), num_threads=1, return_type="numpy")

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`."""
    return self._model.decode([int(i) for i in ids if i < self.vocab_size])


class HuggingFaceTokenizer:
  """A `tokenizer.json`, as in every Hugging Face model folder.

  BOS and EOS come from the `tokenizer_config.json` or `special_tokens_map.json`
  beside it. Where these name neither, each is the known name (`</s>`,
  `<|endoftext|>`, ...) among the special tokens, if there is exactly one.
  """

  def __init__(self, path: str):
    data = contents(epath.Path(path))
    try:
      self._model = tokenizers.Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises bare Exception.
      raise ValueError(
        f"{path} must be a Hugging Face tokenizer.json, got {error}. Fetch it "
        "again."
      ) from error
    self._model.encode_special_tokens = True
    self.path = path
    self.fingerprint = hashlib.sha256(data).hexdigest()
    # The highest id, since some vocabularies have gaps.
    self.vocab_size = 1 + max(self._model.get_vocab().values())
    self.bos_id = self._special_id("bos_token", _BOS_NAMES)
    self.eos_id = _checked_eos(path, self._special_id("eos_token", _EOS_NAMES))

  def encode(self, text: str) -> list[int]:
    """Returns ids without BOS or EOS."""
    with self._panics_as_errors():
      return self._model.encode(text, add_special_tokens=False).ids

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns `encode` of each text."""
    with self._panics_as_errors():
      # The fast method leaves out the character offsets, which are not needed.
      batch = self._model.encode_batch_fast(
        list(texts), add_special_tokens=False
      )
    return [encoding.ids for encoding in batch]

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of `ids`."""
    return self._model.decode([int(i) for i in ids])

  @contextlib.contextmanager
  def _panics_as_errors(self) -> Iterator[None]:
    """Raises ValueError where the library panics on a text.

    Its PanicException is not an Exception, and cannot be imported.
    """
    try:
      yield
    except BaseException as error:
      if type(error).__name__ != "PanicException":
        raise
      raise ValueError(
        f"The splitting pattern of {self.path} must terminate, got a text on "
        f"which it does not ({error}). Leave out such text, often a long run "
        "of one character, or use another tokenizer."
      ) from error

  def _special_id(self, role: str, names: Sequence[str]) -> int | None:
    beside = epath.Path(self.path).parent
    said = [json_object.read_if_there(beside / name) for name in _NAMED_IN]
    for described in said:
      if name := special_name(described, role):
        return self._model.token_to_id(name)
    if any(special_name(x, named) for x in said for named in _ROLES):
      return None
    known = [i for i in map(self._model.token_to_id, names) if i is not None]
    return known[0] if len(known) == 1 else None


def special_name(described: Mapping[str, Any], role: str) -> str | None:
  """Returns the text of a special token; None if there is none.

  Args:
    described: the content of a file that names special tokens. A name is text,
      or a serialized AddedToken.
    role: for example "eos_token".
  """
  name = described.get(role)
  name = name.get("content") if isinstance(name, Mapping) else name
  return name if isinstance(name, str) and name else None


def train_sentencepiece(
  texts: Iterable[str], vocab_size: int, out_path: str
) -> SentencePieceTokenizer:
  """Trains a lossless BPE model on `texts`, writes it, and returns it.

  Text is kept as it is: no Unicode normalization, no dummy space in front,
  every space and newline. Each digit is a token, and a character that the
  model does not know becomes bytes. Ids: 0 unk, 1 BOS, 2 EOS. Training uses one
  thread, so that the same text always gives the same file.

  Raises:
    ValueError: `vocab_size` is too small for the bytes and characters, or too
      large for the amount of text.
  """
  if not 0 < vocab_size < 2**31:
    raise ValueError(
      f"A vocabulary's size must be 1 to 2^31 - 1, got {vocab_size}. Change it."
    )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.Train(
      sentence_iterator=_sentences(texts),
      model_writer=model,
      vocab_size=vocab_size,
      model_type="bpe",
      character_coverage=0.9999,
      byte_fallback=True,
      split_digits=True,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      allow_whitespace_only_pieces=True,
      unk_id=0,
      bos_id=1,
      eos_id=2,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"The vocabulary's size must suit the text, got {vocab_size} pieces "
      f"({error}). Change the size, or give more text."
    ) from error
  out = epath.Path(out_path)
  out.parent.mkdir(parents=True, exist_ok=True)
  whole_file.write(out, model.getvalue())
  return SentencePieceTokenizer(out_path)


def _sentences(texts: Iterable[str]) -> Iterator[str]:
  """Yields lines, cut before a space to the trainer's limit of 4,192 bytes."""
  for text in texts:
    yield from re.findall(r"[^\n]{1,1000}(?!\S)|[^\n]{1,1000}", text)


def _checked_eos(path: str, eos_id: int | None) -> int:
  if eos_id is None:
    raise ValueError(
      "A tokenizer needs an end-of-document token to join documents, got "
      f"none in {path}. Put its tokenizer_config.json (with eos_token) beside "
      "it, or use another tokenizer."
    )
  return eos_id
