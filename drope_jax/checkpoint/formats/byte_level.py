"""Byte-level BPE: pieces and merges as a tokenizer.json.

What a vocabulary does not say is how text is cut before it is merged. Sources:
each model's tokenizer.json, by the names and patterns in
github.com/ggml-org/llama.cpp, src/llama-vocab.cpp; for Command-R, transformers
5, models/cohere/tokenization_cohere.py.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
import types

import tokenizers

LLAMA_3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
  r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
  r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
  r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _escaped(ranges: str) -> str:
  """Returns the inside of a character class."""
  return re.sub("[0-9A-F]+", r"\\x{\g<0>}", ranges).replace(" ", "")


_CJK = "[一-龥ࠀ-一가-퟿]+"
# Letters that have a case, but for some.
_CASED = (
  "0041-005A 0061-007A 00B5 00C0-00D6 00D8-00F6 00F8-01BA 01BC-01BF 01C4-0293 "
  "0295-02AF 0370-0373 0376-0377 037B-037D 037F 0386 0388-038A 038C 038E-03A1 "
  "03A3-03F5 03F7-0481 048A-052F 0531-0556 10A0-10C5 13A0-13F5 13F8-13FD "
  "1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D "
  "1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC "
  "1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC "
  "2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 "
  "213C-213F 2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2-2CF3 "
  "A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 "
  "FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB "
  "10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_LLM = (
  r"[\r\n]",
  rf"\s?[{_escaped(_CASED)}]+",
  r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
  r"\s+$",
  _CJK,
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK)
_DEEPSEEK_3 = (
  r"\p{N}{1,3}",
  "[一-龥぀-ゟ゠-ヿ]+",
  r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
  r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
  r"|\s+(?!\S)|\s+",
)


@dataclasses.dataclass(frozen=True)
class Cuts:
  """What is done to a text before it is merged.

  Attributes:
    patterns: of what is cut out, one after another, each in what is left.
    digits: whether each digit is then cut out.
    words: whether the rest is then cut into words as by GPT-2.
    composed: whether the text is first composed (NFC).
    whole_pieces: whether a part that is a piece is not made by merges.
  """

  patterns: tuple[str, ...] = ()
  digits: bool = False
  words: bool = False
  composed: bool = False
  whole_pieces: bool = False


_SMOLLM = Cuts(digits=True, words=True)
_OF_QWEN_2 = Cuts((_QWEN_2,), composed=True)

CUTS: Mapping[str, Cuts] = types.MappingProxyType(
  {
    "command-r": Cuts(digits=True, words=True, composed=True),
    "deepseek-coder": Cuts(_DEEPSEEK_CODER, digits=True),
    "deepseek-llm": Cuts(_DEEPSEEK_LLM, digits=True),
    "deepseek-r1-qwen": _OF_QWEN_2,
    "deepseek-v3": Cuts(_DEEPSEEK_3),
    "gpt-2": Cuts(words=True),
    "llama-bpe": Cuts((LLAMA_3,), whole_pieces=True),
    "qwen2": _OF_QWEN_2,
    "refact": _SMOLLM,
    "smaug-bpe": Cuts((LLAMA_3,)),
    "smollm": _SMOLLM,
    "starcoder": _SMOLLM,
    "tekken": Cuts((_TEKKEN,), whole_pieces=True),
  }
)
"""By GGUF's name in tokenizer.ggml.pre."""


def build(
  ids: Mapping[str, int], merges: Sequence[tuple[str, str]], cuts: Cuts
) -> tokenizers.Tokenizer:
  """Returns a tokenizer without special tokens.

  Args:
    ids: of the pieces, in GPT-2's letters for bytes.
    merges: best first.
    cuts: what is done to the text before.
  """
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      dict(ids), list(merges), ignore_merges=cuts.whole_pieces
    )
  )
  pre = tokenizers.pre_tokenizers
  steps = [
    pre.Split(tokenizers.Regex(pattern), "isolated")
    for pattern in cuts.patterns
  ]
  if cuts.digits:
    steps.append(pre.Digits(individual_digits=True))
  steps.append(pre.ByteLevel(add_prefix_space=False, use_regex=cuts.words))
  tokenizer.pre_tokenizer = pre.Sequence(steps)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  if cuts.composed:
    tokenizer.normalizer = tokenizers.normalizers.NFC()
  return tokenizer
