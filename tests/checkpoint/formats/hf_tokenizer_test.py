"""A tokenizer leaves as transformers reads it, with BOS as it came."""

import json
import shutil

from etils import epath
import pytest

from drope_jax.checkpoint.formats import hf_tokenizer
from drope_jax.data import corpus

transformers = pytest.importorskip("transformers")


@pytest.fixture
def copied(tmp_path):
  """Copies a sentencepiece model, beside which the given files lie."""

  def copy(**beside):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    shutil.copy(corpus.tokenizer_path(), source / "t.model")
    for name, data in beside.items():
      (source / f"{name}.json").write_text(json.dumps(data))
    hf_tokenizer.copy(epath.Path(source / "t.model"), out)
    return out

  return copy


@pytest.mark.parametrize("adds_bos", [True, False, None])
def test_bos_is_added_as_it_was(copied, adds_bos):
  beside = {}
  if adds_bos is not None:
    beside = {"tokenizer_config": {"add_bos_token": adds_bos}}
  out = copied(**beside)
  tokenizer = transformers.AutoTokenizer.from_pretrained(out)
  bos = [tokenizer.bos_token_id] if adds_bos else []
  assert tokenizer("a whale")["input_ids"] == bos + tokenizer.encode(
    "a whale", add_special_tokens=False
  )
  # What llama.cpp's converter goes by, which would add it where nothing is.
  config = json.loads((out / "tokenizer_config.json").read_text())
  assert config["add_bos_token"] is bool(adds_bos)


def test_what_transformers_5_calls_anew_has_its_old_name(copied):
  out = copied(
    tokenizer_config={
      "tokenizer_class": "TokenizersBackend",
      "extra_special_tokens": ["<|turn|>"],
      "chat_template": [{"name": "default", "template": "D"}],
    }
  )
  assert json.loads((out / "tokenizer_config.json").read_text()) == {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "additional_special_tokens": ["<|turn|>"],
    "chat_template": [{"name": "default", "template": "D"}],
  }


@pytest.mark.parametrize(
  ("limit", "context_tokens", "left"),
  [(512, 4096, 4096), (100, 4096, 100), (10**30, 4096, 10**30)]
  + [(1024, 512, 1024), (None, 4096, None)],
)
def test_a_limit_of_the_trained_context_is_lifted(
  limit, context_tokens, left, copied
):
  generation = {"eos_token_id": 2, "max_length": limit}
  out = copied(
    tokenizer_config={"add_bos_token": True, "model_max_length": limit},
    generation_config=generation,
  )
  hf_tokenizer.lift_limits(out, 512, context_tokens)
  found = json.loads((out / "generation_config.json").read_text())
  assert found == generation | {"max_length": left}
  if left == 4096:
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    ids = tokenizer("a whale " * 3000, truncation=True)["input_ids"]
    assert len(ids) == 4096


def test_files_of_others_stay(copied):
  # Orbax writes one into the tokenizer's folder of a training's save.
  out = copied(tokenizer_config={}, commit_success={})
  assert not (out / "commit_success.json").exists()
  assert (out / "tokenizer_config.json").exists()
