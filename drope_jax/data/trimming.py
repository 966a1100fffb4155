"""A tokenizer with fewer tokens: those that a text has most.

Special tokens stay, and what encodes any other text: bytes, or single
characters where the tokenizer does not fall back on bytes. Text of kept tokens
alone is encoded to the same tokens as before; other text to shorter ones.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import re
from typing import Any, NamedTuple

from etils import epath
import numpy as np
from sentencepiece import sentencepiece_model_pb2 as protos
import tokenizers as hf_tokenizers

from drope_jax.data import tokenizer as tokenizers

_PIECE = protos.ModelProto.SentencePiece
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Trimmed(NamedTuple):
  """A tokenizer of fewer tokens.

  Attributes:
    contents: of its file.
    ids: which token of the whole tokenizer each one is; ascending.
  """

  contents: bytes
  ids: tuple[int, ...]


def trim(path: str, counts_V: np.ndarray, size: int) -> Trimmed:
  """Returns a tokenizer of the tokens that are counted most.

  A kept token of BPE keeps those that its merges go through.

  Args:
    path: of the tokenizer's file.
    counts_V: how often a text has each token.
    size: how many tokens to keep.

  Raises:
    ValueError: the size is not below the whole vocabulary's, or does not hold
      what has to stay; a tokenizer.json is neither BPE nor unigram, or marks
      parts of words.

  Source: vocabulary trimming, Ushio et al. 2023 (arXiv:2305.15020).
  """
  data = tokenizers.contents(epath.Path(path))
  if epath.Path(path).suffix == ".model":
    return _trim_sentencepiece(data, counts_V, size)
  # As the library writes it, whichever version wrote the file.
  saved = json.loads(hf_tokenizers.Tokenizer.from_buffer(data).to_str())
  return _trim_hugging_face(path, saved, counts_V, size)


def _trim_sentencepiece(
  data: bytes, counts_V: np.ndarray, size: int
) -> Trimmed:
  model = protos.ModelProto.FromString(data)
  spec = model.trainer_spec
  names = {piece.piece: i for i, piece in enumerate(model.pieces)}
  stay = {i for i, p in enumerate(model.pieces) if p.type != _PIECE.NORMAL}
  if not spec.byte_fallback:
    stay |= {i for name, i in names.items() if len(name) == 1}
  merges = spec.model_type == spec.BPE
  ranks = {p.piece: -p.score for p in model.pieces if p.type == _PIECE.NORMAL}

  def rank(left: str, right: str) -> float | None:
    return ranks.get(left + right)

  ids = _choose(names, stay, counts_V, size, rank if merges else None)
  pieces = [model.pieces[i] for i in ids]
  del model.pieces[:]
  model.pieces.extend(pieces)
  spec.vocab_size = len(ids)
  for special in ("unk", "bos", "eos", "pad"):
    old = getattr(spec, f"{special}_id")
    if old in ids:
      setattr(spec, f"{special}_id", ids.index(old))
  model.DiscardUnknownFields()  # Such as tests of the whole vocabulary.
  return Trimmed(model.SerializeToString(), ids)


def _trim_hugging_face(
  path: str, saved: dict[str, Any], counts_V: np.ndarray, size: int
) -> Trimmed:
  model = saved["model"]
  kind = model["type"]
  if kind not in ("BPE", "Unigram"):
    raise ValueError(
      "A tokenizer.json must be BPE or unigram to be trimmed, got "
      f"{kind} in {path}. Use the model with its whole vocabulary."
    )
  merges = kind == "BPE"
  for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
    if model.get(affix):
      raise ValueError(
        f"A tokenizer.json must have no {affix} to be trimmed, got "
        f"{model[affix]!r} in {path}. Use the model with its whole vocabulary."
      )
  if merges:
    names, unknown = model["vocab"], model["vocab"].get(model["unk_token"])
    ranks = {tuple(pair): n for n, pair in enumerate(model["merges"])}
  else:
    names = {name: i for i, (name, _) in enumerate(model["vocab"])}
    unknown, ranks = model["unk_id"], {}
  added = {token["content"]: token["id"] for token in saved["added_tokens"]}
  of_bytes = model.get("byte_fallback")
  stay = {*added.values()} | ({unknown} - {None})
  stay |= {
    i
    for name, i in names.items()
    if (_BYTE.fullmatch(name) if of_bytes else len(name) == 1)
  }

  def rank(left: str, right: str) -> int | None:
    return ranks.get((left, right))

  ids = _choose(names | added, stay, counts_V, size, rank if merges else None)
  new = {old: i for i, old in enumerate(ids)}
  kept = {name: new[i] for name, i in names.items() if i in new}
  if merges:
    model["vocab"] = kept
    model["merges"] = [
      list(pair) for pair in ranks if {*pair, "".join(pair)} <= kept.keys()
    ]
  else:
    model["vocab"] = [scored for scored in model["vocab"] if scored[0] in kept]
    model["unk_id"] = new.get(unknown)
  for token in saved["added_tokens"]:
    token["id"] = new[token["id"]]
  _renumber(saved["post_processor"], {n: new[i] for n, i in added.items()})
  return Trimmed(json.dumps(saved, ensure_ascii=False).encode(), ids)


def _choose(
  names: Mapping[str, int],
  stay: Iterable[int],
  counts_V: np.ndarray,
  size: int,
  rank: Callable[[str, str], float | None] | None,
) -> tuple[int, ...]:
  """Returns the ids of `size` tokens.

  Args:
    names: ids of tokens.
    stay: ids that are kept in any case.
    counts_V: of each id.
    size: at most that many are kept.
    rank: of merging two tokens, least first; None where they are not merged.
  """
  kept = set(stay)
  if not len(kept) < size < len(names):
    raise ValueError(
      f"This vocabulary can be trimmed to {len(kept) + 1} to {len(names) - 1} "
      f"of its {len(names)} tokens, got {size}. Choose a size between these."
    )
  by_id = {i: name for name, i in names.items()}
  for i in np.argsort(-counts_V, kind="stable").tolist():
    if i not in by_id:
      continue
    needed = {i}
    if rank is not None:
      needed |= {names[p] for p in _made_of(by_id[i], rank) if p in names}
    needed -= kept
    if len(kept) + len(needed) <= size:
      kept |= needed
    if len(kept) == size:
      break
  return tuple(sorted(kept))


def _made_of(name: str, rank: Callable[[str, str], float | None]) -> set[str]:
  """Returns the characters of a token, and what its merges make of them."""
  parts = list(name)
  found = {*parts}
  while True:
    ranked = [
      (order, at)
      for at in range(len(parts) - 1)
      if (order := rank(parts[at], parts[at + 1])) is not None
    ]
    if not ranked:
      return found
    _, at = min(ranked)
    parts[at : at + 2] = [parts[at] + parts[at + 1]]
    found.add(parts[at])


def _renumber(processor: Any, ids: Mapping[str, int]) -> None:
  """Puts new ids of special tokens into a post-processor, in place."""
  if isinstance(processor, list):
    if len(processor) == 2 and processor[0] in [*ids]:
      processor[1] = ids[processor[0]]
      return
    for part in processor:
      _renumber(part, ids)
  elif isinstance(processor, dict):
    if {"ids", "tokens"} <= processor.keys():
      processor["ids"] = [ids[name] for name in processor["tokens"]]
    for part in processor.values():
      _renumber(part, ids)
