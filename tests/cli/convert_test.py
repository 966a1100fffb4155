"""`drope convert`: a folder in, a checkpoint that is the same model out."""

import importlib.util
import json
import os
import pathlib
import runpy
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from drope_jax.checkpoint import store
from drope_jax.data import tokenizer as tokenizer_lib
from drope_jax.positional import Llama3Rope

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = pathlib.Path(__file__).parents[2]
V = 300
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
  """A folder with a tiny Llama and a byte-level tokenizer.json."""
  folder = tmp_path_factory.mktemp("theirs")
  config = transformers.LlamaConfig(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    initializer_range=0.2,
  )
  torch.manual_seed(0)
  model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
  model.save_pretrained(folder)
  byte_level = tokenizers.pre_tokenizers.ByteLevel
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=V - 10,
    special_tokens=["<|endoftext|>", "<|im_start|>"],
    initial_alphabet=byte_level.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(["a whale of a tale"] * 9, trainer)
  tokenizer.save(str(folder / "tokenizer.json"))
  (folder / "tokenizer_config.json").write_text(
    json.dumps({"eos_token": "<|im_start|>", "bos_token": "<|endoftext|>"})
  )
  return folder


@pytest.fixture
def folder(theirs, tmp_path, monkeypatch):
  """A copy to spoil, under the name theirs, in the current folder."""
  monkeypatch.chdir(tmp_path)
  return shutil.copytree(theirs, tmp_path / "theirs")


def _weights(folder):
  return dict(safetensors.numpy.load_file(folder / WEIGHTS))


def test_the_checkpoint_is_the_same_model(folder, drope):
  ran = drope("convert", "theirs", "--out", "ours", "--verify")
  assert (ran.status, ran.err) == (0, "")
  summary, unused, verified = ran.out.splitlines()
  assert summary == "ours: 34,720 parameters in bfloat16, tokenizer.json"
  words = verified.replace(",", "").split()
  assert verified.startswith("640 tokens against transformers")
  assert float(words[words.index("logit") + 1]) < 1e-5
  assert float(words[words.index("KL") + 1]) < 1e-9
  params, manifest = store.load_model("ours")
  pieces = manifest.tokenizer.vocab_size
  assert V - pieces >= 10
  assert unused == (
    f"The model's last {V - pieces} of {V} ids have no piece in tokenizer.json."
  )
  weight = _weights(folder)["model.layers.1.mlp.up_proj.weight"]
  got = np.asarray(params["layers"]["mlp"]["up"]["kernel"][1])
  assert got.tobytes() == weight.T.tobytes()
  (entry,) = manifest.lineage
  assert entry.operation == "convert"
  assert entry.parent == str(folder)
  assert entry.arguments == {
    "source": {"format": "hf", "architecture": "LlamaForCausalLM"},
    "dtype": "keep",
  }


def test_the_tokenizer_travels(folder, drope):
  assert drope("convert", "theirs", "--out", "ours").status == 0
  copy = store.tokenizer_path("ours")
  assert copy.read_bytes() == (folder / "tokenizer.json").read_bytes()
  tokenizer = tokenizer_lib.load(str(copy))
  assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)


@pytest.mark.parametrize("template_in", ["tokenizer_config", "chat_template"])
@pytest.mark.parametrize("ids_in", ["generation_config", "config"])
def test_a_chat_model_leaves_with_its_template_and_its_ends(
  template_in, ids_in, folder, drope
):
  template = "{% for turn in messages %}<{{ turn['content'] }}>{% endfor %}"
  if template_in == "tokenizer_config":
    _edit_json(folder / "tokenizer_config.json", chat_template=template)
  else:
    (folder / "chat_template.jinja").write_text(template)
  ids = {"bos_token_id": 0, "eos_token_id": [1, 7], "pad_token_id": 9}
  _edit_json(folder / f"{ids_in}.json", **ids)
  if ids_in == "config":
    (folder / "generation_config.json").unlink()
  assert drope("convert", "theirs", "--out", "ours").status == 0
  assert drope("export", "ours", "--out", "exported").status == 0
  tokenizer = transformers.AutoTokenizer.from_pretrained("exported")
  turn = {"role": "user", "content": "Hello"}
  assert tokenizer.apply_chat_template([turn], tokenize=False) == "<Hello>"
  generation = transformers.GenerationConfig.from_pretrained("exported")
  config = transformers.AutoConfig.from_pretrained("exported")
  for name, want in ids.items():
    assert getattr(generation, name) == want
    assert getattr(config, name) == want


def test_eos_may_be_named_in_the_map_of_special_tokens_alone(folder, drope):
  (folder / "tokenizer_config.json").write_text("{}")
  (folder / "special_tokens_map.json").write_text(
    json.dumps({"eos_token": {"content": "<|im_start|>"}})
  )
  for command in ("convert theirs --out ours", "export ours --out exported"):
    assert drope(*command.split()).status == 0
  tokenizer = tokenizer_lib.load(str(store.tokenizer_path("ours")))
  assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 1)
  theirs = transformers.AutoTokenizer.from_pretrained("exported")
  assert theirs.eos_token_id == 1


def test_named_templates_travel(folder, drope):
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  theirs.chat_template = {"default": "D", "tool_use": "T"}
  theirs.save_pretrained(folder)
  for command in ("convert theirs --out ours", "export ours --out exported"):
    assert drope(*command.split()).status == 0
  exported = transformers.AutoTokenizer.from_pretrained("exported")
  assert exported.chat_template == {"default": "D", "tool_use": "T"}


def test_dtype_casts(folder, drope):
  command = ("convert", "theirs", "--out", "ours", "--dtype", "float32")
  assert drope(*command).status == 0
  params, _ = store.load_model("ours")
  table = np.asarray(params["embed"]["table"])
  want = _weights(folder)["model.embed_tokens.weight"].astype(np.float32)
  np.testing.assert_array_equal(table, want)


def test_overwrite(folder, drope):
  command = ("convert", "theirs", "--out", "ours")
  assert drope(*command).status == 0
  ran = drope(*command)
  assert ran.status == 2 and "ours exists" in ran.err
  assert drope(*command, "--overwrite", "--dtype", "float32").status == 0
  assert store.load_model("ours")[0]["embed"]["table"].dtype == np.float32
  # What cannot be replaced stays, and nothing is left beside it.
  _nan(folder)
  assert drope(*command, "--overwrite").status == 2
  assert store.load_model("ours")[0]["embed"]["table"].dtype == np.float32
  assert not list(folder.parent.glob("ours?*"))


def _without_config(folder):
  (folder / "config.json").unlink()


def _unknown(folder):
  _edit_config(folder, architectures=["FalconForCausalLM"])


def _edit_config(folder, **fields):
  _edit_json(folder / "config.json", **fields)


def _edit_json(path, **fields):
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _truncate(folder):
  size = (folder / WEIGHTS).stat().st_size
  os.truncate(folder / WEIGHTS, size - 100)


def _truncate_header(folder):
  os.truncate(folder / WEIGHTS, 100)


def _lose_a_shard_of_the_index(folder):
  weights = _weights(folder)
  (folder / WEIGHTS).unlink()
  weight_map = {}
  for i, name in enumerate(weights):
    shard = f"model-{i}.safetensors"
    safetensors.numpy.save_file({name: weights[name]}, folder / shard)
    weight_map[name] = shard
  del weight_map["lm_head.weight"]
  index = {"metadata": {}, "weight_map": weight_map}
  (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _break_tokenizer_config(folder):
  (folder / "tokenizer_config.json").write_text("{")


def _unknown_dtype(folder):
  _edit_config(folder, torch_dtype="flaot16")


def _lose_a_shard(folder):
  weights = _weights(folder)
  (folder / WEIGHTS).unlink()
  weight_map = {name: "model-00001-of-00001.safetensors" for name in weights}
  index = {"metadata": {}, "weight_map": weight_map}
  (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _edit_weights(folder, edit):
  weights = _weights(folder)
  edit(weights)
  safetensors.numpy.save_file(weights, folder / WEIGHTS)


def _nan(folder):
  def edit(weights):
    weights["lm_head.weight"][3, 4] = np.nan

  _edit_weights(folder, edit)


def _rename(folder):
  def edit(weights):
    weights["lm_haed.weight"] = weights.pop("lm_head.weight")

  _edit_weights(folder, edit)


def _small_embedding(folder):
  def edit(weights):
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
      weights[name] = weights[name][:200].copy()

  _edit_weights(folder, edit)
  _edit_config(folder, vocab_size=200)


@pytest.mark.parametrize(
  ("spoil", "says"),
  [
    (_without_config, "has a config.json"),
    (_unknown, "FalconForCausalLM"),
    (_truncate, "must be a whole safetensors file"),
    (_truncate_header, "must be a whole safetensors file"),
    (_lose_a_shard, "got no model-00001-of-00001.safetensors"),
    (_lose_a_shard_of_the_index, "missing lm_head.weight (300, 32)"),
    (_break_tokenizer_config, "tokenizer_config.json must be JSON, got"),
    (_unknown_dtype, "'flaot16'"),
    (_nan, "infinity in lm_head.weight"),
    (_rename, "missing lm_head.weight (300, 32)"),
    (_small_embedding, "vocab_size=200 for"),
  ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folder, drope, spoil, says):
  spoil(folder)
  ran = drope("convert", "theirs", "--out", "ours")
  assert ran.status == 2
  assert ran.err.count("\n") == 1 and says in ran.err and "got" in ran.err
  assert [path.name for path in folder.parent.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    (("nowhere", "--out", "ours"), "got nowhere, which does not exist"),
    (("theirs/config.json", "--out", "ours"), "ends in .bin or .gguf"),
    (("gs://bucket/m", "--out", "ours"), "must be local, got gs://bucket/m"),
    (("theirs", "--out", "s3://bucket/m"), "gs://BUCKET/..., got s3://"),
    (("theirs/config.json", "--out", "ours", "--verify"), "needs a folder"),
    (("theirs", "--out", "theirs"), "theirs exists"),
    (("theirs", "--out", "theirs/config.json"), "config.json exists"),
    (("theirs", "--out", "theirs/config.json/m"), "config.json is a file"),
    (("theirs", "--out", "/dev/null/m"), "Not a directory"),
    (("theirs", "--out", "m" * 300), "File name too long"),
    (("theirs", "--out", "theirs", "--overwrite"), "theirs exists"),
    (("theirs", "--out", "ours", "--dtype", "flaot32"), "'flaot32'"),
    (("theirs", "--out", "ours", "--tokenizer", "t.model"), "t.model"),
    (("theirs", "--out", "ours", "--llama", "2"), "--llama is of Meta's"),
  ],
)
def test_mistakes_of_the_command_itself(folder, drope, arguments, says):
  ran = drope("convert", *arguments)
  assert ran.status == 2
  assert ran.err.count("\n") == 1 and says in ran.err
  assert not (folder.parent / "ours").exists()


def test_verify_without_transformers_is_refused_before_a_conversion(
  folder, drope, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  ran = drope("convert", "theirs", "--out", "ours", "--verify")
  assert ran.status == 2 and "got no transformers and no torch" in ran.err
  assert not (folder.parent / "ours").exists()


@pytest.fixture
def meta_folder(write_meta_folder, tmp_path, monkeypatch):
  """Its params, in the current folder under the name metas."""
  monkeypatch.chdir(tmp_path)
  return write_meta_folder(tmp_path / "metas")


def test_a_folder_of_metas(meta_folder, drope):
  ran = drope("convert", "metas", "--out", "ours", "--llama", "3.1")
  assert (ran.status, ran.err) == (0, "")
  assert ran.out == "ours: 48,288 parameters in bfloat16, tokenizer.json\n"
  params, manifest = store.load_model("ours")
  config = manifest.model
  assert config.context_tokens == 131_072
  assert config.positional == Llama3Rope(5e5, 8.0, 8192, 1.0, 4.0)
  w2 = [
    torch.load(f"metas/consolidated.{rank:02}.pth")[
      "layers.1.feed_forward.w2.weight"
    ]
    for rank in range(2)
  ]
  got = np.asarray(params["layers"]["mlp"]["down"]["kernel"][1], np.float32)
  np.testing.assert_array_equal(got.T, torch.cat(w2, dim=1).float())
  tokenizer = tokenizer_lib.load(str(store.tokenizer_path("ours")))
  assert tokenizer.encode("Whale") == list(b"Whale")
  assert (tokenizer.bos_id, tokenizer.eos_id) == (256, 257)
  assert drope("export", "ours", "--out", "exported").status == 0
  theirs = transformers.AutoTokenizer.from_pretrained("exported")
  assert theirs("Whale")["input_ids"] == [256, *b"Whale"]
  generation = transformers.GenerationConfig.from_pretrained("exported")
  # The ends of a text, of a message and of a turn.
  assert generation.eos_token_id == [257, 264, 265]


@pytest.mark.parametrize(
  ("options", "says"),
  [
    ((), "metas must be said to be Llama 1, 2"),
    (("--llama", "4"), "invalid choice: '4'"),
    (("--llama", "3"), "Llama 3 must have use_scaled_rope: False, got True"),
    (("--llama", "3.1", "--verify"), "--verify needs a folder that trans"),
  ],
)
def test_mistakes_with_a_folder_of_metas(meta_folder, drope, options, says):
  ran = drope("convert", "metas", "--out", "ours", *options)
  assert ran.status == 2 and ran.err.count("\n") == 1 and says in ran.err
  assert [path.name for path in pathlib.Path().iterdir()] == ["metas"]


def test_a_tokenizer_of_more_pieces_than_the_embedding_has(meta_folder, drope):
  with open("metas/tokenizer.model", "ab") as file:
    file.write(b"YWI= 256\n")
  ran = drope("convert", "metas", "--out", "ours", "--llama", "3.1")
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "vocab_size=512 for 513 pieces" in ran.err


def test_nonfinite_weights_may_be_allowed(folder, drope):
  _nan(folder)
  command = ("convert", "theirs", "--out", "ours", "--allow-nonfinite")
  assert drope(*command).status == 0
  head = store.load_model("ours")[0]["head"]["kernel"]
  assert np.isnan(np.float32(head[4, 3]))


def test_the_tool_is_the_command(folder, monkeypatch, capsys):
  tool = str(ROOT / "tools/convert_llama.py")
  monkeypatch.setattr(sys, "argv", [tool, "theirs", "--out", "ours"])
  for status in (0, 2):  # The second finds the first's checkpoint.
    with pytest.raises(SystemExit) as ended:
      runpy.run_path(tool, run_name="__main__")
    assert ended.value.code == status
  assert "ours exists" in capsys.readouterr().err
  store.load_model("ours")
