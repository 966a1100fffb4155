"""The rule in a tokenizer.json that puts BOS before a text."""

import tokenizers


def add(tokenizer: tokenizers.Tokenizer, bos: str) -> None:
  """Makes `tokenizer` begin each text with BOS, where special tokens are added.

  Args:
    tokenizer: changed in place.
    bos: the name of BOS, one of its tokens.
  """
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{bos} $A",
    pair=f"{bos} $A {bos}:1 $B:1",
    special_tokens=[(bos, tokenizer.token_to_id(bos))],
  )
