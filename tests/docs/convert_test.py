"""Every command of docs/convert.md runs, on tiny models of the same names."""

import json
import pathlib
import re
import shlex

import pytest
import tokenizers

from drope_jax.checkpoint import store
from drope_jax.checkpoint.formats.families import FAMILIES
from drope_jax.cli import main
from drope_jax.positional import Nope

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "convert.md").read_text()


def _blocks(language):
  return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.S | re.M)


COMMANDS = [
  shlex.split(line) for block in _blocks("bash") for line in block.splitlines()
]


def _make(folder):
  """A tiny Llama, and a tokenizer of bytes."""
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
  )
  transformers.LlamaForCausalLM(config).save_pretrained(folder)
  byte_level = tokenizers.pre_tokenizers.ByteLevel
  letters = sorted(byte_level.alphabet())
  vocabulary = {piece: i for i, piece in enumerate(["</s>", *letters])}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
  tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  tokenizer.add_special_tokens(["</s>"])
  tokenizer.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(
    json.dumps(
      {"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    )
  )


@pytest.mark.slow
def test_every_command_runs_in_order(
  write_meta_folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  write_meta_folder(tmp_path / "Llama3.1-8B")
  for name in ("SmolLM2-135M", "Llama-2-7b-hf"):
    _make(tmp_path / name)
  assert {words[1] for words in COMMANDS} == {"convert", "surgery", "export"}
  for words in COMMANDS:
    assert words[0] == "drope"
    assert main.main(words[1:]) == 0, capsys.readouterr().err
  dropped, _ = store.describe("smollm2-dropped")
  assert dropped.model.positional == Nope()
  (code,) = _blocks("python")
  capsys.readouterr()
  exec(code, {})
  assert capsys.readouterr().out.startswith("The President")


def test_the_families_are_those_that_are_read():
  rows = re.findall(r"^\| [^|]+ \| ((?:`\w+`(?:, )?)+) \|", TEXT, re.M)
  named = re.findall(r"`(\w+)`", " ".join(rows))
  assert named[0] == "model_type"
  assert set(named[1:]) == set(FAMILIES)
