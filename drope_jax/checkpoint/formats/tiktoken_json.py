"""Llama 3's tokenizer.model, tiktoken's list of ranks, as a tokenizer.json.

Each line is a token in base64 and its rank, which is its id; of two neighbors
those are merged first that make the token of the lowest rank. The special
tokens and the way that text is cut beforehand are in Meta's code alone.
Source: github.com/meta-llama/llama-models, models/llama3/tokenizer.py.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
import pathlib

import tokenizers

from drope_jax.checkpoint.formats import byte_level, fast_tokenizer
from drope_jax.data import json_object

_BOS, _EOS = "<|begin_of_text|>", "<|end_of_text|>"
_ENDS = (_EOS, "<|eom_id|>", "<|eot_id|>")
_NUM_SPECIAL = 256


def _special(named: Sequence[str]) -> tuple[str, ...]:
  """Returns the special tokens' names, where an empty one is reserved."""
  names = (*named, *[""] * (_NUM_SPECIAL - len(named)))
  reserved = (f"<|reserved_special_token_{i}|>" for i in range(_NUM_SPECIAL))
  return tuple(name or next(reserved) for name in names)


_HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
LLAMA_3 = _special((_BOS, _EOS, *[""] * 4, *_HEADERS, "", "<|eot_id|>"))
LLAMA_3_1 = _special(
  (
    *(_BOS, _EOS, "", "", "<|finetune_right_pad_id|>", "", *_HEADERS),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
  )
)
"""Of Llama 3.2 and 3.3 too."""


def write(
  model: pathlib.Path, special: Sequence[str], folder: pathlib.Path
) -> pathlib.Path:
  """Returns the path of a tokenizer.json that encodes alike.

  Args:
    model: the list of ranks.
    special: names of the special tokens, whose ids follow the ranks.
    folder: where it is written; beside it what names the special tokens, and
      what generation ends at, a chat's turns too.

  Raises:
    ValueError: `model` is no such list.
  """
  tokenizer = _convert(_ranks(model), special)
  config = {"bos_token": _BOS, "eos_token": _EOS, "add_bos_token": True}
  path = fast_tokenizer.write(tokenizer, config, folder)
  ends = [tokenizer.token_to_id(name) for name in _ENDS if name in special]
  generation = {"bos_token_id": tokenizer.token_to_id(_BOS)}
  generation["eos_token_id"] = ends
  json_object.write(folder / "generation_config.json", generation)
  return path


def _ranks(model: pathlib.Path) -> dict[bytes, int]:
  try:
    pairs = [line.split() for line in model.read_bytes().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
  except ValueError as error:
    raise ValueError(
      f"{model} must be lines of a token in base64 and its rank, got others "
      f"({error}). Fetch it again."
    ) from error
  letters = {bytes([byte]) for byte in range(256)}
  if not letters <= ranks.keys() or set(ranks.values()) != set(
    range(len(pairs))
  ):
    raise ValueError(
      f"{model} must rank every byte, and each of its lines once, got "
      f"{len(pairs)} lines that do not. Fetch it again."
    )
  return ranks


def _convert(
  ranks: Mapping[bytes, int], special: Sequence[str]
) -> tokenizers.Tokenizer:
  letters = _letters()
  vocabulary = {
    token.decode("latin-1").translate(letters): rank
    for token, rank in ranks.items()
  }
  merges = [pair for _, pair in sorted(_merges(vocabulary))]
  cuts = byte_level.CUTS["llama-bpe"]
  tokenizer = byte_level.build(vocabulary, merges, cuts)
  tokenizer.add_special_tokens(
    [tokenizers.AddedToken(name, normalized=False) for name in special]
  )
  return tokenizer


def _letters() -> str:
  """Returns the letter that stands for each byte, as GPT-2 chose them."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  own = [letter for letter in alphabet if ord(letter) < 256]
  others = iter(alphabet[len(own) :])
  return "".join(
    chr(byte) if chr(byte) in own else next(others) for byte in range(256)
  )


def _merges(
  ranks: Mapping[str, int],
) -> Iterator[tuple[tuple[int, int, int], tuple[str, str]]]:
  """Yields every way to make a token of two, after what it is sorted by."""
  for token, rank in ranks.items():
    for cut in range(1, len(token)):
      left, right = token[:cut], token[cut:]
      if left in ranks and right in ranks:
        yield (rank, ranks[left], ranks[right]), (left, right)
