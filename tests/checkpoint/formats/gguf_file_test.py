"""GGUF files, written by the gguf library, are the same model and tokenizer."""

import json
import os

import jax
import numpy as np
import pytest
import tokenizers

from drope_jax.checkpoint.formats import (
  gguf_file,
  hf,
  hf_tokenizer,
  rope_layout,
)
from drope_jax.cli import main
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizer_lib
from drope_jax.positional import (
  Llama3Rope,
  Nope,
  PartialRope,
  PositionInterpolation,
  RescaledRope,
  Rope,
)
from tests.checkpoint.formats import rope

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PARTS = {
  "input_layernorm": "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
}
ENDS = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
}
CUTS = tokenizers.pre_tokenizers
TEMPLATE = "{% for turn in messages %}<{{ turn['content'] }}>{% endfor %}"


OWN_PARTS = {
  "olmo2": {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
  },
  "seed_oss": {"post_attention_layernorm": "post_attention_norm"},
}


def _name(theirs, arch):
  if theirs in ENDS:
    return ENDS[theirs]
  _, _, n, *part, kind = theirs.split(".")
  parts = PARTS | OWN_PARTS.get(arch, {})
  return f"blk.{n}.{parts['.'.join(part)]}.{kind}"


def _byte_level(before):
  """A tokenizers' BPE of 300 pieces, cut as the family does."""
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  cuts = [CUTS.ByteLevel(add_prefix_space=False)]
  if before == "smollm":
    cuts.insert(0, CUTS.Digits(individual_digits=True))
  tokenizer.pre_tokenizer = CUTS.Sequence(cuts)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=["<|endoftext|>", "<|im_start|>"],
    initial_alphabet=CUTS.ByteLevel.alphabet(),
    show_progress=False,
  )
  text = next(corpus.documents("fit"))[:5000]
  tokenizer.train_from_iterator([text], trainer)
  return tokenizer


def _write(
  path,
  theirs,
  *,
  arch="llama",
  before="smollm",
  quantized=None,
  settings=lambda writer: None,
):
  """Writes transformers' model as llama.cpp's converter lays it out."""
  config = theirs.config
  writer = gguf.GGUFWriter(path, arch)
  writer.add_block_count(config.num_hidden_layers)
  writer.add_context_length(config.max_position_embeddings)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  head_dim = getattr(config, "head_dim", None) or (
    config.hidden_size // config.num_attention_heads
  )
  writer.add_key_length(head_dim)
  writer.add_value_length(head_dim)
  writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
  tokenizer = json.loads(_byte_level(before).to_str())["model"]
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(before)
  writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
  count = len(tokenizer["vocab"])
  writer.add_token_types([3, 3] + [1] * (count - 2))
  writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
  writer.add_bos_token_id(1)
  writer.add_eos_token_id(0)
  settings(writer)
  for name, tensor in theirs.state_dict().items():
    if name == "lm_head.weight" and config.tie_word_embeddings:
      continue
    array = tensor.detach().numpy()
    permuted = ("q_proj", "k_proj")
    if arch == "llama" and any(part in name for part in permuted):
      array = rope.to_interleaved(array, head_dim)
    if quantized is not None and array.ndim == 2:
      packed = gguf.quants.quantize(array, quantized)
      writer.add_tensor(_name(name, arch), packed, raw_dtype=quantized)
    else:
      writer.add_tensor(_name(name, arch), array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def _open(path):
  return gguf_file.open_file(path, dtype="keep", allow_nonfinite=False)


@pytest.fixture
def path(tmp_path):
  return tmp_path / "model.gguf"


@pytest.mark.parametrize(
  ("family", "arch", "settings"),
  [
    ("Llama", "llama", {}),
    ("Llama", "llama", {"tie_word_embeddings": True, "head_dim": 16}),
    ("Qwen2", "qwen2", {}),
    ("Qwen3", "qwen3", {"head_dim": 16}),
    ("Olmo2", "olmo2", {}),
    ("SeedOss", "seed_oss", {"head_dim": 16}),
    ("Ernie4_5", "ernie4_5", {"head_dim": 16, "tie_word_embeddings": False}),
  ],
)
def test_the_same_model_as_from_hugging_face(
  family, arch, settings, make_theirs, params_of, tmp_path, path
):
  theirs = make_theirs(family, vocab_size=300, **settings)
  theirs.save_pretrained(tmp_path / "hf")
  _write(path, theirs, arch=arch)
  want = hf.open_folder(tmp_path / "hf", dtype="keep", allow_nonfinite=False)
  got = _open(path)
  assert got.config == want.config
  got, want = params_of(got), params_of(want)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_quantized_types_are_what_the_library_makes_of_them(
  kind, make_theirs, params_of, tmp_path, path
):
  theirs = make_theirs(
    "Llama", vocab_size=300, hidden_size=64, intermediate_size=64
  )
  kind = gguf.GGMLQuantizationType[kind]
  _write(path, theirs, quantized=kind)
  source = _open(path)
  got = params_of(source)["layers"]["attention"]["q"]["kernel"][1]
  name = "model.layers.1.self_attn.q_proj.weight"
  weight = theirs.state_dict()[name].numpy()
  packed = gguf.quants.quantize(rope.to_interleaved(weight, 16), kind)
  want = rope_layout.to_half_split(gguf.quants.dequantize(packed, kind), 16)
  np.testing.assert_array_equal(np.float32(got), want.T)
  kept = {"BF16": "bfloat16", "F16": "float16"}.get(kind.name, "float32")
  assert got.dtype.name == kept
  assert source.facts["types"] == sorted(["F32", kind.name])


def _positions(path, make_theirs, tmp_path, settings):
  theirs = make_theirs("Llama", vocab_size=300, head_dim=16)
  _write(path, theirs, settings=settings)
  return _open(path).config.positional


def _factors(scheme):
  plain_F, got_F = (x.frequencies(16) for x in (Rope(1e4), scheme))
  return lambda writer: writer.add_tensor("rope_freqs.weight", plain_F / got_F)


def test_positions(make_theirs, tmp_path, path):
  def linear(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)

  def untyped(writer):
    writer.add_rope_scaling_factor(4.0)

  for settings in (linear, untyped):
    got = _positions(path, make_theirs, tmp_path, settings)
    assert got == PositionInterpolation(1e4, 4.0)
  llama3 = Llama3Rope(1e4, 32.0)
  got = _positions(path, make_theirs, tmp_path, _factors(llama3))
  assert got == llama3

  def none(writer):
    still = np.full(8, 1e30, np.float32)
    writer.add_tensor("rope_freqs.weight", still)

  assert _positions(path, make_theirs, tmp_path, none) == Nope()

  def fast(writer):
    factors = np.array([1] * 5 + [1e30] * 3, np.float32)
    writer.add_tensor("rope_freqs.weight", factors)

  got = _positions(path, make_theirs, tmp_path, fast)
  assert got == PartialRope(Rope(1e4), 5)
  others = Llama3Rope(1e4, 32.0, 4096)
  got = _positions(path, make_theirs, tmp_path, _factors(others))
  assert isinstance(got, RescaledRope)
  np.testing.assert_allclose(
    got.frequencies(16), others.frequencies(16), rtol=1e-6
  )

  def few(writer):
    writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))

  with pytest.raises(ValueError, match=r"must be 8 factors.*got \(4,\)"):
    _positions(path, make_theirs, tmp_path, few)

  def yarn(writer):
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)

  with pytest.raises(ValueError, match="'yarn'"):
    _positions(path, make_theirs, tmp_path, yarn)


@pytest.mark.parametrize("before", ["smollm", "gpt-2"])
def test_the_tokenizer_is_rebuilt(before, make_theirs, tmp_path, path):
  _write(path, make_theirs("Llama", vocab_size=300), before=before)
  got = tokenizer_lib.load(str(_open(path).tokenizer(tmp_path)))
  want = _byte_level(before)
  text = next(corpus.documents("test"))[:3000] + " 1234 naïve\n\n  x=1"
  assert got.encode(text) == want.encode(text).ids
  assert got.decode(got.encode(text)) == text
  assert (got.bos_id, got.eos_id) == (1, 0)


def test_a_sentencepiece_tokenizer_is_rebuilt(make_theirs, tmp_path, path):
  import sentencepiece

  want = sentencepiece.SentencePieceProcessor(corpus.tokenizer_path())
  ids = range(want.vocab_size())

  def kind(i):
    if want.is_unknown(i):
      return 2
    return 3 if want.is_control(i) else 6 if want.is_byte(i) else 1

  metadata = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [want.id_to_piece(i) for i in ids],
    "tokenizer.ggml.scores": [want.get_score(i) for i in ids],
    "tokenizer.ggml.token_type": [kind(i) for i in ids],
    "tokenizer.ggml.unknown_token_id": want.unk_id(),
    "tokenizer.ggml.bos_token_id": want.bos_id(),
    "tokenizer.ggml.eos_token_id": want.eos_id(),
    "tokenizer.ggml.add_space_prefix": False,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
    "tokenizer.chat_templates": ["tool_use"],
    "tokenizer.chat_template.tool_use": "T",
  }
  rebuilt, exported = tmp_path / "rebuilt", tmp_path / "exported"
  for folder in (rebuilt, exported):
    folder.mkdir()
  path = gguf_file.gguf_tokenizer.write(metadata, rebuilt)
  got = tokenizer_lib.load(str(path))
  text = next(corpus.documents("test"))[:3000] + " 1234 漢 naïve\n\n  x=1"
  assert got.encode(text) == want.encode(text)
  assert got.decode(got.encode(text)) == text
  assert (got.bos_id, got.eos_id) == (want.bos_id(), want.eos_id())
  hf_tokenizer.copy(path, exported)
  theirs = transformers.AutoTokenizer.from_pretrained(exported)
  assert theirs.chat_template == {"default": TEMPLATE, "tool_use": "T"}
  assert theirs("a whale")["input_ids"] == want.encode("a whale")
  metadata["tokenizer.chat_templates"] = ["../x"]
  with pytest.raises(ValueError, match=r"under it, got '\.\./x'"):
    gguf_file.gguf_tokenizer.write(metadata, rebuilt)


def _chat(folder):
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  turn = {"role": "user", "content": "Hello"}
  return tokenizer.apply_chat_template([turn], tokenize=False)


def test_a_chat_model_leaves_with_its_template_and_its_ends(
  make_theirs, tmp_path, path
):
  def chat(writer):
    writer.add_chat_template(TEMPLATE)
    writer.add_eot_token_id(7)
    writer.add_pad_token_id(8)

  _write(path, make_theirs("Llama", vocab_size=300), settings=chat)
  ours, exported = tmp_path / "ours", tmp_path / "exported"
  assert main.main(["convert", str(path), "--out", str(ours)]) == 0
  assert main.main(["export", str(ours), "--out", str(exported)]) == 0
  assert _chat(exported) == "<Hello>"
  generation = transformers.GenerationConfig.from_pretrained(exported)
  assert generation.eos_token_id == [0, 7]
  assert (generation.bos_token_id, generation.pad_token_id) == (1, 8)


@pytest.mark.parametrize("adds_bos", [True, False, None])
def test_bos_is_added_as_the_file_says(adds_bos, make_theirs, tmp_path, path):
  def settings(writer):
    if adds_bos is not None:
      writer.add_add_bos_token(adds_bos)

  _write(path, make_theirs("Llama", vocab_size=300), settings=settings)
  folder = _open(path).tokenizer(tmp_path).parent
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  begins_with_bos = theirs("a whale")["input_ids"][0] == theirs.bos_token_id
  assert begins_with_bos is bool(adds_bos), "smollm's is without, unless said"


def test_what_is_not_read_is_refused(make_theirs, tmp_path, path):
  theirs = make_theirs("Llama", vocab_size=300)
  for settings, says in (
    (lambda w: w.add_expert_count(8), "llama.expert_count must be 0, got 8"),
    (lambda w: w.add_rope_dimension_count(4), "must be the head's 8, got 4"),
  ):
    _write(path, theirs, settings=settings)
    with pytest.raises(ValueError, match=says):
      _open(path)
  _write(path, theirs, arch="gemma")
  with pytest.raises(ValueError, match="'gemma'"):
    _open(path)
  _write(path, theirs, before="falcon")
  source = _open(path)  # Another tokenizer may be given.
  with pytest.raises(ValueError, match="cut by 'falcon'"):
    source.tokenizer(tmp_path)
  _write(path, theirs)
  os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(ValueError, match="must be a whole GGUF file"):
    _open(path)
  path.write_bytes(b"GGU")
  with pytest.raises(ValueError, match="must be a whole GGUF file"):
    _open(path)
