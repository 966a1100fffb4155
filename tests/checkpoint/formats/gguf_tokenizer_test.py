"""A sentencepiece model in GGUF ends texts as the file says."""

import sentencepiece

from drope_jax.checkpoint.formats import gguf_tokenizer
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizer_lib


def test_eos_may_be_a_token_that_was_added_as_phi_3s_is(tmp_path):
  model = sentencepiece.SentencePieceProcessor(corpus.tokenizer_path())
  size = model.vocab_size()

  def kind(i):
    if model.is_unknown(i):
      return 2
    return 3 if model.is_control(i) else 6 if model.is_byte(i) else 1

  metadata = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": [
      *map(model.id_to_piece, range(size)),
      *("<|endoftext|>", "<|user|>", "[PAD]"),
    ],
    "tokenizer.ggml.scores": [*map(model.get_score, range(size)), -9, -9, -9],
    # Of the last three: control, user-defined, unused.
    "tokenizer.ggml.token_type": [*map(kind, range(size)), 3, 4, 5],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": size,
    "tokenizer.ggml.add_space_prefix": False,
  }
  rebuilt = tokenizer_lib.load(str(gguf_tokenizer.write(metadata, tmp_path)))
  assert (rebuilt.bos_id, rebuilt.eos_id) == (1, size)
  assert rebuilt.vocab_size == size + 3
  want = [*model.encode("a"), size + 1, *model.encode("The President[PAD]")]
  assert rebuilt.encode("a<|user|>The President[PAD]") == want
