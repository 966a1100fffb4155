"""A tokenizer of the tokenizers library as transformers' fast tokenizer."""

from collections.abc import Mapping
import pathlib
from typing import Any

import tokenizers

from drope_jax.data import json_object
from drope_jax.data import tokenizer as tokenizer_lib

FILENAME, CONFIG = "tokenizer.json", "tokenizer_config.json"
CLASS = "PreTrainedTokenizerFast"
"""Of a tokenizer.json as it is, in transformers 4 and 5."""


def write(
  tokenizer: tokenizers.Tokenizer,
  config: Mapping[str, Any],
  folder: pathlib.Path,
) -> pathlib.Path:
  """Returns the path of the tokenizer.json, written into `folder`.

  Beside it lies its tokenizer_config.json.

  Args:
    tokenizer: changed in place where it is to put BOS before a text.
    config: of tokenizer_config.json, but for the class. Where "add_bos_token"
      is true, its "bos_token" is put wherever special tokens are added.
    folder: is there.
  """
  bos = tokenizer_lib.special_name(config, "bos_token")
  if config["add_bos_token"] and bos is not None:
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single=f"{bos} $A",
      pair=f"{bos} $A {bos}:1 $B:1",
      special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
  tokenizer.save(str(folder / FILENAME))
  json_object.write(folder / CONFIG, {**config, "tokenizer_class": CLASS})
  return folder / FILENAME
