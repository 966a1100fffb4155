"""GGUF's fields are of their kinds, or refused by name."""

import pytest

from drope_jax.checkpoint.formats import gguf_metadata

MODEL = {
  "llama.block_count": 2,
  "llama.context_length": 64,
  "llama.embedding_length": 32,
  "llama.feed_forward_length": 48,
  "llama.attention.head_count": 4,
  "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
PIECES = ["<unk>", "<s>", "a", "b", "ab"]
SENTENCEPIECE = {
  "tokenizer.ggml.model": "llama",
  "tokenizer.ggml.tokens": PIECES,
  "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -3.0],
  "tokenizer.ggml.token_type": [2, 3, 1, 1, 1],
  "tokenizer.ggml.bos_token_id": 1,
}
BYTE_LEVEL = {
  "tokenizer.ggml.model": "gpt2",
  "tokenizer.ggml.tokens": PIECES,
  "tokenizer.ggml.merges": ["a b"],
}


def test_what_is_absent_has_its_default():
  read = gguf_metadata.model_fields(MODEL, "llama")
  assert (read["block_count"], read["rope.freq_base"]) == (2, 1e4)
  assert read["attention.head_count_kv"] is None


def test_a_list_that_says_one_number_for_every_layer_is_that_number():
  alike = MODEL | {"llama.attention.head_count_kv": [2, 2]}
  read = gguf_metadata.model_fields(alike, "llama")
  assert read["attention.head_count_kv"] == 2
  for other in ([2, 1], [2], []):
    differing = MODEL | {"llama.attention.head_count_kv": other}
    says = r"llama.attention.head_count_kv must be a whole number.*got \["
    with pytest.raises(ValueError, match=says):
      gguf_metadata.model_fields(differing, "llama")


def test_what_changes_nothing_is_read_over():
  harmless = {
    "llama.vocab_size": 5,
    "llama.rope.scaling.finetuned": True,
    "llama.rope.scaling.original_context_length": 8192,
    "llama.tensor_data_layout": "Meta AI original pth",
    "llama.expert_count": 0,
    "llama.attention.causal": True,
    "llama.rope.scaling.attn_factor": 1.0,
    "general.name": ["anything"],
  }
  read = gguf_metadata.model_fields(MODEL | harmless, "llama")
  assert read == gguf_metadata.model_fields(MODEL, "llama")


def test_all_that_is_wrong_with_a_model_is_said_at_once():
  wrong = MODEL | {
    "llama.block_count": 10**9,
    "llama.embedding_length": [32],
    "llama.attention.layer_norm_rms_epsilon": -1.0,
    "llama.expert_count": 8,
    "llama.attn_logit_softcapping": 30.0,
    "llama.embedding_scale": 2.0,
  }
  del wrong["llama.context_length"]
  with pytest.raises(ValueError) as refused:
    gguf_metadata.model_fields(wrong, "llama")
  for says in (
    "llama.block_count must be a whole number from 1 to 10000, got 1000000000",
    "llama.embedding_length must be a whole number from 1 to 2147483647, got [",
    "llama.attention.layer_norm_rms_epsilon must be a number above 0, got -1.0",
    "llama.expert_count must be 0, got 8",
    "llama.context_length must be a whole number from 1 to 2147483647, got no",
    "got llama.attn_logit_softcapping, llama.embedding_scale",
  ):
    assert says in str(refused.value)


@pytest.mark.parametrize(
  ("whole", "changes", "says"),
  [
    (SENTENCEPIECE, {"scores": None}, "scores must be there, got none"),
    (SENTENCEPIECE, {"token_type": None}, "token_type must be there"),
    (BYTE_LEVEL, {"merges": None}, "merges must be there, got none"),
    (BYTE_LEVEL, {"tokens": None}, "tokens must be there, got none"),
    (BYTE_LEVEL, {"tokens": 7}, "tokens must be a list, each text, got 7"),
    (BYTE_LEVEL, {"merges": [1]}, r"merges must be a list.*got \[1\]"),
    (BYTE_LEVEL, {"merges": ["a c"]}, "two pieces to a third, got 'a c'"),
    (BYTE_LEVEL, {"merges": ["ab"]}, "two pieces to a third, got 'ab'"),
    (SENTENCEPIECE, {"scores": [1.0]}, "each of 5 pieces, got 1"),
    (SENTENCEPIECE, {"token_type": [9] * 5}, "each a whole number from 0 to 6"),
    (SENTENCEPIECE, {"scores": [float("nan")] * 5}, "scores must be a list"),
    (SENTENCEPIECE, {"bos_token_id": 5}, "from 0 to 4, got 5"),
    (SENTENCEPIECE, {"bos_token_id": [1]}, r"bos_token_id.*got \[1\]"),
    (SENTENCEPIECE, {"tokens": ["a"] * 5}, "differ from each other, got 4"),
    (SENTENCEPIECE, {"model": ["llama"]}, "model must be text"),
    (SENTENCEPIECE, {"add_bos_token": 1}, "true or false, got 1"),
  ],
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(whole, changes, says):
  gguf_metadata.require_tokenizer(whole)
  changed = whole | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}
  changed = {
    name: value for name, value in changed.items() if value is not None
  }
  with pytest.raises(ValueError, match=says):
    gguf_metadata.require_tokenizer(changed)
