"""`drope export`: transformers reads the same model as we do."""

import dataclasses
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.checkpoint.formats import (
  hf_architecture,
  hf_layers,
  safetensors_io,
)
from drope_jax.cli import main
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizer_lib
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  LearnedAbsolute,
  Llama3Rope,
  Nope,
  PartialRope,
  Pattern,
  PositionInterpolation,
  Rope,
  Yarn,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(
  vocab_size=64,
  num_layers=2,
  width=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  mlp_width=48,
  context_tokens=1024,
)
HEAD_NORM = {"qk_norm": "qk", "qk_norm_scope": "head"}
POST_NORM = {"qk_norm": "qk", "norm_placement": "post"}
JOINT_NORM = {"qk_norm": "qk", "head_dim": 8}  # The heads fill the width.
GEMMA3 = HEAD_NORM | {
  "norm_placement": "both",
  "norm_gain_offset": 1.0,
  "mlp_activation": "gelu_tanh",
  "embedding_scale": 32**0.5,
  "positional": Pattern((Rope(), Nope()), (100, None)),
}
GEMMA2 = {
  **{name: value for name, value in GEMMA3.items() if name not in HEAD_NORM},
  "positional": Pattern((Rope(), Rope()), (100, None)),
  "logit_soft_cap": 2.0,
  "final_logit_soft_cap": 1.5,
}
GRANITE = {
  "head_dim": 8,
  "embedding_scale": 3.0,
  "residual_scale": 0.3,
  "final_logit_scale": 1.25,
  "logit_scale": 1.25,
}
GPT2 = {
  "positional": LearnedAbsolute(1024),
  "norm_kind": "layer",
  "gated_mlp": False,
  "mlp_activation": "gelu_tanh",
  "num_kv_heads": 4,
  "head_dim": 8,
  "qkv_bias": True,
  "o_bias": True,
  "mlp_bias": True,
  "tied_embeddings": True,
}
NEOX = {
  **GPT2,
  "positional": PartialRope(Rope(1e8), 2),
  "parallel_residual": True,
  "mlp_activation": "gelu",
  "tied_embeddings": False,
}
# Short prompts hide mistakes in RoPE.
TOKENS_BS = np.random.default_rng(0).integers(0, 64, (1, 700))

CASES = {
  "RoPE": ({}, [], "LlamaForCausalLM"),
  "dropped": ({"positional": Nope()}, [], "SmolLM3ForCausalLM"),
  "dropped in part, beside a window, tied": (
    {
      "positional": Pattern((Rope(), Nope()), (100, None)),
      "tied_embeddings": True,
    },
    [],
    "SmolLM3ForCausalLM",
  ),
  "dropped, biased": (
    {"positional": Nope(), "qkv_bias": True},
    [],
    "SmolLM3ForCausalLM",
  ),
  "biases": ({"qkv_bias": True}, [], "Qwen2ForCausalLM"),
  "a width that is no multiple of the heads": (
    {"num_heads": 6},
    [],
    "MistralForCausalLM",
  ),
  "dropped, as a Llama": (
    {"positional": Nope()},
    ["--architecture", "llama"],
    "LlamaForCausalLM",
  ),
  # At 700 tokens every pair has gone beyond what it met in 128.
  "slow pairs dropped": (
    {"positional": PartialRope(Rope(100.0), 6), "context_tokens": 128},
    [],
    "LlamaForCausalLM",
  ),
  "slow pairs dropped, norms per head": (
    HEAD_NORM
    | {"positional": PartialRope(Rope(100.0), 6), "context_tokens": 128},
    [],
    "Qwen3ForCausalLM",
  ),
  "norms per head": (HEAD_NORM, [], "Qwen3ForCausalLM"),
  "dropped, norms per head": (
    HEAD_NORM | {"positional": Nope()},
    [],
    "Qwen3ForCausalLM",
  ),
  "dropped, norms over all heads": (
    JOINT_NORM | {"positional": Nope()},
    [],
    "OlmoeForCausalLM",
  ),
  "slow pairs dropped, norms over all heads, tied, biased, a logit scale": (
    JOINT_NORM
    | {"positional": PartialRope(Rope(100.0), 3), "context_tokens": 128}
    | {"tied_embeddings": True, "qkv_bias": True, "num_kv_heads": 4},
    ["--logit-scale", "1.5"],
    "OlmoeForCausalLM",
  ),
  "post-norms, positions dropped in layers without a window": (
    POST_NORM | {"positional": Pattern((Rope(), Nope()), (100, None))},
    [],
    "Olmo3ForCausalLM",
  ),
  "post-norms, dropped": (
    POST_NORM | {"positional": Nope()},
    [],
    "Olmo2ForCausalLM",
  ),
  "Gemma 2": (GEMMA2, [], "Gemma2ForCausalLM"),
  "Gemma 2, dropped, without windows": (
    GEMMA2 | {"positional": Nope()},
    ["--logit-scale", "1.5"],
    "Gemma2ForCausalLM",
  ),
  "Gemma 3, positions dropped in layers without a window": (
    GEMMA3,
    [],
    "Gemma3ForCausalLM",
  ),
  "Gemma 3, a logit scale in q's norm": (
    GEMMA3,
    ["--logit-scale", "1.5"],
    "Gemma3ForCausalLM",
  ),
  "Granite, dropped": (
    GRANITE | {"positional": Nope()},
    [],
    "GraniteForCausalLM",
  ),
  "GPT-NeoX": (NEOX, [], "GPTNeoXForCausalLM"),
  "GPT-NeoX, a pair more dropped": (
    NEOX | {"positional": PartialRope(Rope(1e8), 1)},
    [],
    "GPTNeoXForCausalLM",
  ),
  "GPT-NeoX, dropped, a logit scale": (
    NEOX | {"positional": Nope()},
    ["--logit-scale", "1.5"],
    "GPTNeoXForCausalLM",
  ),
  "GPT-2": (GPT2, [], "GPT2LMHeadModel"),
  "GPT-2, dropped, a logit scale": (
    GPT2 | {"positional": Nope(), "tied_embeddings": False},
    ["--logit-scale", "1.5"],
    "GPT2LMHeadModel",
  ),
  "slow pairs dropped, as ERNIE 4.5": (
    {"positional": PartialRope(Rope(100.0), 6), "context_tokens": 128},
    ["--architecture", "ernie4_5"],
    "Ernie4_5ForCausalLM",
  ),
  "a logit scale in q": (
    {"positional": Nope(), "qkv_bias": True},
    ["--logit-scale", "1.5"],
    "SmolLM3ForCausalLM",
  ),
  "a logit scale in q's norm": (
    HEAD_NORM | {"positional": Nope()},
    ["--logit-scale", "1.5"],
    "Qwen3ForCausalLM",
  ),
}
# Another case has each of these in it.
WITHIN_OTHERS = (
  "dropped, biased",
  "norms per head",
  "dropped, norms per head",
  "Gemma 3, positions dropped in layers without a window",
)


ARCHITECTURES = {
  "llama": {},
  "mistral": {"positional": Pattern((Rope(),), (100,))},
  "qwen2": {"qkv_bias": True},
  "qwen3": HEAD_NORM | {"positional": Nope()},
  "smollm3": {"positional": Pattern((Rope(), Nope()))},
  "olmoe": JOINT_NORM | {"positional": Nope()},
  "olmo2": POST_NORM | {"positional": Nope()},
  "olmo3": POST_NORM | {"positional": Pattern((Rope(), Nope()), (100, None))},
  "seed_oss": {"qkv_bias": True},
  "ernie4_5": {},
  "gemma2": GEMMA2 | {"logit_scale": (16 / 24) ** 0.5},
  "gpt2": GPT2 | {"tied_embeddings": False},
  "gpt_neox": NEOX,
  "granite": GRANITE,
  "gemma3_text": GEMMA3 | {"logit_scale": (16 / 24) ** 0.5},
}


def _random_params(config):
  rng = np.random.default_rng(0)

  def leaf(path, shape):
    x = rng.normal(size=shape)
    if path.endswith("gain"):
      x = 1 - config.norm_gain_offset + 0.3 * x
    else:
      x *= 0.3 if path.endswith("bias") else shape[-2] ** -0.5
    return np.float32(x)

  shapes = trees.flatten(transformer.param_shapes(config))
  return trees.unflatten({k: leaf(k, s.shape) for k, s in shapes.items()})


def _save(config, folder, tokenizer=None, dtype="float32", lineage=()):
  """Writes a checkpoint; returns its parameters."""
  params = jax.tree.map(
    lambda x: jax.numpy.asarray(x.astype(dtype)), _random_params(config)
  )
  reference = tokenizer and tokenizer_file.reference(tokenizer)
  manifest = manifests.Manifest(config, reference, lineage)
  store.save_model(folder, params, manifest, tokenizer)
  return params


def _logits(config, params, **options):
  forward = jax.jit(
    transformer.forward, static_argnums=0, static_argnames="logit_scale"
  )
  return np.asarray(forward(config, params, TOKENS_BS, **options))


@torch.no_grad()
def _their_logits(folder):
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  )
  return model.eval()(torch.asarray(TOKENS_BS)).logits.numpy()


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in WITHIN_OTHERS else ())
    for name in CASES
  ],
)
def test_transformers_reads_the_same_model(name, tmp_path, drope):
  fields, options, architecture = CASES[name]
  config = dataclasses.replace(CONFIG, **fields)
  params = _save(config, tmp_path / "ours")
  ran = drope(
    "export", tmp_path / "ours", "--out", tmp_path / "theirs", *options
  )
  assert (ran.status, ran.err) == (0, "")
  assert architecture in ran.out
  scale = 1.5 if "--logit-scale" in options else 1.0
  want = _logits(config, params, logit_scale=scale * config.logit_scale)
  assert 0.3 < np.std(want) < 3, "logits are not of order one"
  got = _their_logits(tmp_path / "theirs")
  np.testing.assert_allclose(got, want, atol=1e-5)
  if scale != 1:
    unscaled = _logits(config, params)
    assert np.abs(unscaled - want).max() > 1e-3, "the scale does nothing"


class _Normed(torch.nn.Module):
  """A projection with a norm over all of its channels after it."""

  def __init__(self, projection, gain, eps):
    super().__init__()
    self.projection = projection
    self.norm = torch.nn.RMSNorm(len(gain), eps)
    self.norm.weight.copy_(gain)

  def forward(self, x):
    return self.norm(self.projection(x))


@pytest.mark.parametrize(
  ("fields", "attention_type"),
  [
    ({"qk_norm": "qk", "logit_scale": 1.25}, "qk_norm_nope"),
    ({"qk_norm": "q"}, "q_norm_nope"),
    ({"qk_norm": "k", "qkv_bias": True}, "k_norm_nope"),
  ],
)
@torch.no_grad()
def test_the_papers_layout_is_the_same_model(
  fields, attention_type, tmp_path, drope
):
  config = dataclasses.replace(CONFIG, positional=Nope(), **fields)
  params = _save(config, tmp_path / "ours")
  out = tmp_path / "theirs"
  ran = drope("export", tmp_path / "ours", "--out", out, "--format", "sakana")
  assert (ran.status, ran.err) == (0, "")
  assert "needs its code" in ran.out
  written = json.loads((out / "config.json").read_text())
  assert written["attention_type"] == attention_type
  # Their layers, from transformers' and the description of their repository.
  family = "Qwen2" if config.qkv_bias else "Llama"
  hf_config = getattr(transformers, f"{family}Config")(
    **{k: v for k, v in written.items() if k not in ("model_type", "dtype")},
    attn_implementation="eager",
  )
  model = getattr(transformers, f"{family}ForCausalLM")(hf_config)
  state = {
    name: torch.asarray(tensor.array())
    for name, tensor in safetensors_io.open_file(
      out / "model.safetensors"
    ).items()
  }
  gains = {
    name: state.pop(name)
    for name in list(state)
    if "_norm.w" in name and "self_attn" in name
  }
  assert len(gains) == 4, "their layers have both norms"
  model.load_state_dict(state)
  cos, sin = model.model.rotary_emb(
    torch.zeros(1, 1), torch.arange(TOKENS_BS.size)[None]
  )
  still = (torch.ones_like(cos), torch.zeros_like(sin))
  model.model.rotary_emb.forward = lambda *args, **kwargs: still
  for n, layer in enumerate(model.model.layers):
    attention = layer.self_attn
    attention.scaling = written["softmax_scale"]
    for x in attention_type.split("_")[0]:
      name = f"model.layers.{n}.self_attn.{x}_norm.weight"
      projection = getattr(attention, f"{x}_proj")
      normed = _Normed(projection, gains[name], written["rms_norm_eps"])
      setattr(attention, f"{x}_proj", normed)
  got = model.eval()(torch.asarray(TOKENS_BS)).logits.numpy()
  want = _logits(config, params)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert drope("convert", out, "--out", tmp_path / "again").status == 0
  again, manifest = store.load_model(tmp_path / "again")
  assert manifest.model == config
  _assert_same(again, params)


def _assert_same(got, want):
  got, want = trees.flatten(got), trees.flatten(want)
  assert got.keys() == want.keys()
  for path, array in want.items():
    assert got[path].dtype == array.dtype
    assert np.asarray(got[path]).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_round_trip_is_exact_and_keeps_the_lineage(dtype, tmp_path, drope):
  torch.manual_seed(0)
  model = transformers.MistralForCausalLM(
    transformers.MistralConfig(
      vocab_size=64,
      hidden_size=32,
      intermediate_size=48,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=1,
      max_position_embeddings=64,
      sliding_window=None,
    )
  ).to(getattr(torch, dtype))
  model.save_pretrained(tmp_path / "theirs")
  names = ("theirs", "ours", "theirs2", "ours2")
  theirs, ours, theirs2, ours2 = (tmp_path / name for name in names)
  assert drope("convert", theirs, "--out", ours).status == 0
  ran = drope("export", ours, "--out", theirs2)
  assert ran.status == 0
  assert "MistralForCausalLM" in ran.out, "not what it came in as"
  assert drope("convert", theirs2, "--out", ours2).status == 0
  one, two = (
    safetensors_io.open_file(folder / "model.safetensors")
    for folder in (theirs, theirs2)
  )
  assert one.keys() == two.keys()
  for name, tensor in one.items():
    assert tensor.dtype == two[name].dtype == np.dtype(tensor.dtype)
    assert tensor.array().tobytes() == two[name].array().tobytes()
  (params, before), (params2, after) = map(store.load_model, (ours, ours2))
  _assert_same(params2, params)
  assert after.model == before.model
  assert after.lineage[:1] == before.lineage
  assert [entry.operation for entry in after.lineage] == ["convert"] * 2


@pytest.mark.parametrize(
  "name",
  [
    "olmoe",
    "olmo2",
    "olmo3",
    "seed_oss",
    "ernie4_5",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt2 dropped",
    "gpt_neox",
    "gpt_neox dropped",
    "granite",
  ],
)
def test_a_folder_says_all_of_a_model_without_its_manifest(
  name, tmp_path, drope
):
  # At one dtype less than float32, so that any arithmetic would show.
  name, _, dropped = name.partition(" ")
  config = dataclasses.replace(CONFIG, **ARCHITECTURES[name])
  if dropped:
    config = dataclasses.replace(config, positional=Nope())
  params = _save(config, tmp_path / "ours", dtype="bfloat16")
  out, again = tmp_path / "theirs", tmp_path / "again"
  options = ["--out", out, "--architecture", name]
  assert drope("export", tmp_path / "ours", *options).status == 0
  (out / "drope_manifest.json").unlink()
  assert drope("convert", out, "--out", again).status == 0
  params_again, manifest = store.load_model(again)
  _assert_same(params_again, params)
  written = json.loads((out / "config.json").read_text())
  tokens = written.get("max_position_embeddings") or written["n_positions"]
  assert manifest.model == dataclasses.replace(config, context_tokens=tokens)


def _is_stock(config):
  try:
    hf_architecture.choose(config)
  except ValueError:
    return False
  return True


@st.composite
def _stock_configs(draw):
  """Configs of any shape that some stock architecture holds."""
  K, N = draw(st.integers(1, 3)), draw(st.integers(1, 3))
  scheme = draw(
    st.sampled_from(
      (Nope(), Rope(), Rope(5e5), PositionInterpolation(1e4, 4.0))
      + (Llama3Rope(5e5, 32.0), Yarn(1e6, 4.0, 32768))
    )
  )
  each = st.lists(st.booleans(), min_size=N, max_size=N)
  schemes = tuple(
    scheme if on else Nope() for on in draw(each | st.just([1] * N))
  )
  windows = tuple(7 if on else None for on in draw(each | st.just([0] * N)))
  return ModelConfig(
    vocab_size=draw(st.integers(2, 40)),
    num_layers=N,
    width=draw(st.integers(1, 20)),
    num_heads=K * draw(st.integers(1, 3)),
    num_kv_heads=K,
    head_dim=2 * draw(st.integers(2, 5)),
    mlp_width=draw(st.integers(1, 20)),
    context_tokens=draw(st.integers(8, 4096)),
    positional=Pattern(schemes, windows if any(windows) else ()),
    **draw(st.sampled_from(({}, HEAD_NORM, {"qk_norm": "qk"}, POST_NORM))),
    qkv_bias=draw(st.booleans()),
    tied_embeddings=draw(st.booleans()),
    norm_eps=draw(st.sampled_from((1e-5, 3e-7))),
  )


@pytest.mark.slow
@hypothesis.settings(max_examples=25)
@hypothesis.given(
  _stock_configs().filter(_is_stock), st.sampled_from(("bfloat16", "float32"))
)
def test_any_model_comes_back_as_it_left(config, dtype):
  with tempfile.TemporaryDirectory() as folder:
    ours, theirs, again = (f"{folder}/{i}" for i in range(3))
    params = _save(config, ours, dtype=dtype)
    assert main.main(["export", ours, "--out", theirs]) == 0
    assert main.main(["convert", theirs, "--out", again]) == 0
    params_again, manifest = store.load_model(again)
    _assert_same(params_again, params)
  layers = hf_layers.Layers.of
  assert layers(manifest.model) == layers(config)
  # A pattern may be written in more than one way.
  unpatterned = {"positional": config.positional}
  assert dataclasses.replace(manifest.model, **unpatterned) == config


def test_the_tokenizer_reads_alike(tmp_path, drope):
  path = pathlib.Path(corpus.tokenizer_path())
  ours = tokenizer_lib.load(str(path))
  config = dataclasses.replace(CONFIG, vocab_size=ours.vocab_size)
  _save(config, tmp_path / "ours", path)
  out = tmp_path / "theirs"
  assert drope("export", tmp_path / "ours", "--out", out).status == 0
  assert (out / "tokenizer.model").read_bytes() == path.read_bytes()
  written = json.loads((out / "config.json").read_text())
  assert written["eos_token_id"] == ours.eos_id
  theirs = transformers.AutoTokenizer.from_pretrained(out)
  text = next(corpus.documents("test"))[:3000] + "  two\n\n1999 naïve 漢字"
  assert theirs.encode(text) == ours.encode(text)
  assert theirs.decode(theirs.encode(text)) == text
  assert theirs.eos_token_id == ours.eos_id
  assert drope("convert", out, "--out", tmp_path / "again").status == 0
  _, manifest = store.load_model(tmp_path / "again")
  assert manifest.tokenizer.fingerprint == ours.fingerprint
  twice = tmp_path / "twice"
  assert drope("export", tmp_path / "again", "--out", twice).status == 0
  names = {file.name for file in out.iterdir()}
  assert {file.name for file in twice.iterdir()} == names


# In 1,024 tokens theta 1e4 completes 1.6 rotations in its fifth pair, and 0.5
# in its sixth.
@pytest.mark.parametrize(
  ("positional", "options", "context_tokens"),
  [
    (Nope(), [], 8192),
    (Nope(), ["--context", "3000"], 3000),
    (PartialRope(Rope(), 5), [], 8192),
    (Pattern((Rope(), Nope()), (1024, None)), [], 8192),
  ],
)
def test_a_dropped_model_is_not_held_to_its_trained_context(
  positional, options, context_tokens, tmp_path, drope
):
  _save(dataclasses.replace(CONFIG, positional=positional), tmp_path / "ours")
  out, again = tmp_path / "theirs", tmp_path / "again"
  ran = drope("export", tmp_path / "ours", "--out", out, *options)
  assert ran.status == 0
  assert f"may read {context_tokens:,} tokens" in ran.out
  written = json.loads((out / "config.json").read_text())
  assert written["max_position_embeddings"] == context_tokens
  readme = (out / "README.md").read_text()
  assert "Trained at 1,024 tokens" in readme and f"{context_tokens:,}" in readme
  assert drope("convert", out, "--out", again).status == 0
  assert store.describe(again)[0].model.context_tokens == 1024


def test_what_clients_do_otherwise_is_said(tmp_path, drope):
  tokenizer = tmp_path / "t.model"
  shutil.copy(corpus.tokenizer_path(), tokenizer)
  (tmp_path / "tokenizer_config.json").write_text(
    '{"add_bos_token": true, "model_max_length": 1024}'
  )
  config = dataclasses.replace(CONFIG, vocab_size=2048, positional=Nope())
  entry = manifests.LineageEntry("recalibrate", {}, None, 9, 1, "0.1", "2026")
  ours = tmp_path / "ours"
  _save(config, ours, tokenizer, lineage=(entry,))
  row = {
    **{"task": "passkey", "metric": "accuracy", "method": "model"},
    **{"model": "ours", "scale_fitted": True, "logit_scale": 1.25},
    **{"factor": 4, "context_tokens": 1024, "value": 0.5},
    **{"low": 0.4, "high": 0.6, "series": None, "seed": 0, "outcomes": [0, 1]},
    **{"count": 2, "mean_tokens": 4096.0},
  }
  fit = {"c": 0.25, "factor": 4, "scale": 1.35, "losses": []}
  results = {
    "schema": 2,
    "finished": True,
    "models": {"ours": {"manifest": store.describe(ours)[0].to_json()}},
    "fits": {"ours": {"model": fit}},
    "rows": [row],
  }
  (tmp_path / "results.json").write_text(json.dumps(results))
  out = tmp_path / "theirs"
  ran = drope("export", ours, "--out", out, "--results", tmp_path)
  assert (ran.status, ran.err) == (0, "")
  first, context, scale, bos = ran.out.splitlines()
  assert first.endswith("llama.cpp needs --architecture llama")
  assert "4,096 tokens, the longest that it was evaluated at" in context
  assert "--context 4096" in scale and "1.35" in scale  # 1 + 0.25 ln 4
  assert "training here put none there" in bos
  own, out_own = tmp_path / "own", tmp_path / "own_out"
  _save(dataclasses.replace(config, logit_scale_slope=0.1), own, tokenizer)
  ran = drope("export", own, "--out", out_own)
  assert "1.21, into the weights" in ran.out  # The checkpoint's: 1 + 0.1 ln 8.
  assert "here 0.1" in (out_own / "README.md").read_text()
  assert "| 0.500 | 0.400..0.600 |" in (out / "README.md").read_text()
  read = transformers.AutoTokenizer.from_pretrained(out)
  assert read("a whale")["input_ids"][0] == 1
  assert read.model_max_length == 4096
  bound, out_bound = tmp_path / "bound", tmp_path / "bound_out"
  _save(dataclasses.replace(CONFIG, logit_scale_slope=0.1), bound)
  ran = drope("export", bound, "--out", out_bound)
  assert ran.out.count("\n") == 1, "no scale for a length that is not read"


def test_the_scale_of_the_context_asked_for_is_in_the_weights(tmp_path, drope):
  config = dataclasses.replace(CONFIG, positional=Nope(), logit_scale_slope=0.1)
  ours, fitted, by_hand = (tmp_path / name for name in ("a", "b", "c"))
  _save(config, ours)
  context = ("export", ours, "--context", 4096)
  ran = drope(*context, "--out", fitted)
  scale = 1 + 0.1 * math.log(4)
  assert f"logit scale {scale:g} in q's weights" in ran.out
  assert (
    f"multiplied by {scale:g}, by way" in (fitted / "README.md").read_text()
  )
  drope(*context, "--out", by_hand, "--logit-scale", scale)
  weights = [p / "model.safetensors" for p in (fitted, by_hand)]
  assert weights[0].read_bytes() == weights[1].read_bytes()
  plain = tmp_path / "d"
  drope("export", ours, "--out", plain)
  assert (plain / "model.safetensors").read_bytes() != weights[0].read_bytes()


def test_the_papers_layout_has_the_scale_of_the_context_in_its_field(
  tmp_path, drope
):
  config = dataclasses.replace(
    CONFIG,
    positional=Nope(),
    qk_norm="qk",
    logit_scale=1.25,
    logit_scale_slope=0.1,
  )
  ours = tmp_path / "ours"
  _save(config, ours)

  def exported(name, *options):
    out = tmp_path / name
    command = ("export", ours, "--format", "sakana", "--out", out, *options)
    assert drope(*command).status == 0
    return out, json.loads((out / "config.json").read_text())["softmax_scale"]

  plain, own = exported("plain")
  assert own == 1.25 * config.head_dim**-0.5
  longer, fitted = exported("longer", "--context", 4096)
  assert fitted == pytest.approx(own * (1 + 0.1 * math.log(4)), rel=1e-12)
  weights = [out / "model.safetensors" for out in (plain, longer)]
  assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_changed_weight_does_not_come_back(tmp_path, drope):
  _save(CONFIG, tmp_path / "ours")
  out = tmp_path / "theirs"
  assert drope("export", tmp_path / "ours", "--out", out).status == 0
  path = out / "model.safetensors"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  ran = drope("convert", out, "--out", tmp_path / "again")
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "got model.safetensors in" in ran.err
  assert not (tmp_path / "again").exists()


_TRANSFORMERS_4 = """
import sys
import numpy, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
root, *names = sys.argv[1:]
tokens_BS = torch.as_tensor(numpy.load(f"{root}/tokens.npy"))
for name in names:
  folder = f"{root}/{name}"
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager", torch_dtype="float32"
  )
  with torch.no_grad():
    numpy.save(f"{folder}/logits", model.eval()(tokens_BS).logits.numpy())
  numpy.save(f"{folder}/ids", tokenizer("a whale </s>")["input_ids"])
"""


def test_transformers_4_reads_each_architecture(tmp_path, drope):
  path = os.environ.get("DROPE_TRANSFORMERS_4")
  if not path:
    pytest.skip("DROPE_TRANSFORMERS_4 names no folder with transformers 4")
  assert ARCHITECTURES.keys() == set(hf_architecture.STOCK)
  tokenizer = pathlib.Path(corpus.tokenizer_path())
  for name, fields in ARCHITECTURES.items():
    ours = tmp_path / f"{name}-ours"
    config = dataclasses.replace(CONFIG, vocab_size=2048, **fields)
    _save(config, ours, tokenizer)
    out = tmp_path / name
    ran = drope("export", ours, "--out", out, "--architecture", name)
    assert ran.status == 0, ran.err
  np.save(tmp_path / "tokens.npy", TOKENS_BS)
  subprocess.run(
    [sys.executable, "-c", _TRANSFORMERS_4, tmp_path, *ARCHITECTURES],
    env=os.environ | {"PYTHONPATH": path},
    check=True,
  )
  for name in ARCHITECTURES:
    want = _their_logits(tmp_path / name)
    assert 0.3 < np.std(want) < 3, "logits are not of order one"
    got = np.load(tmp_path / name / "logits.npy")
    np.testing.assert_allclose(got, want, atol=1e-5)
    loader = transformers.AutoTokenizer
    if name == "qwen2":  # For which transformers 5 has another tokenizer.
      loader = transformers.PreTrainedTokenizerFast
    newer = loader.from_pretrained(tmp_path / name)
    ids = np.load(tmp_path / name / "ids.npy")
    assert newer("a whale </s>")["input_ids"] == ids.tolist()


def test_transformers_reads_the_tokenizer_of_a_model_with_biases(
  tmp_path, drope
):
  path = pathlib.Path(corpus.tokenizer_path())
  config = dataclasses.replace(CONFIG, vocab_size=2048, qkv_bias=True)
  _save(config, tmp_path / "ours", path)
  out, qwen2 = tmp_path / "theirs", tmp_path / "qwen2"
  ran = drope("export", tmp_path / "ours", "--out", out)
  assert ran.status == 0 and ran.out.endswith("LlamaForCausalLM\n")
  theirs = transformers.AutoTokenizer.from_pretrained(out)
  ids = tokenizer_lib.load(str(path)).encode("a whale")
  assert theirs("a whale")["input_ids"] == ids
  ran = drope(
    *("export", tmp_path / "ours", "--out", qwen2, "--architecture", "qwen2")
  )
  assert "reads text with Qwen2's own tokenizer" in ran.out
  theirs = transformers.AutoTokenizer.from_pretrained(qwen2)
  assert theirs("a whale")["input_ids"] != ids, "the advice is out of date"


def test_large_models_leave_in_shards(tmp_path, drope, monkeypatch):
  monkeypatch.setattr(safetensors_io, "SHARD_BYTES", 20_000)
  params = _save(CONFIG, tmp_path / "ours")
  out = tmp_path / "theirs"
  assert drope("export", tmp_path / "ours", "--out", out).status == 0
  shards = list(out.glob("*.safetensors"))
  assert len(shards) > 2
  assert all(shard.stat().st_size < 22_000 for shard in shards)
  np.testing.assert_allclose(
    _their_logits(out), _logits(CONFIG, params), atol=1e-5
  )


@pytest.mark.parametrize(
  ("fields", "arguments", "says"),
  [
    (
      {"qk_norm": "qk", "positional": Nope()},
      [],
      ("OlmoeForCausalLM", "--format sakana", "--qk-norm-scope head"),
    ),
    ({"logit_scale": 1.2}, [], ("no field", "--logit-scale 1.2", "sakana")),
    ({}, ["--logit-scale", "0"], ("above 0", "got 0.0")),
    ({}, ["--logit-scale", "inf"], ("above 0", "got inf")),
    ({}, ["--logit-scale", "1e39"], ("finite in float32", "for 1e+39")),
    ({}, ["--format", "sakana"], ("positions in some layers",)),
    (
      {"positional": Nope()},
      ["--format", "sakana", "--logit-scale", "2"],
      ("a field for the softmax scale",),
    ),
    ({}, ["--architecture", "qwen2"], ("Qwen2ForCausalLM", "no biases")),
    (
      {"positional": Nope(), "num_heads": 6},
      ["--architecture", "llama"],
      ("a width of 32, no multiple of 6 heads",),
    ),
    ({}, ["--context", "9"], ("without positions that are new", "1024")),
    (
      {"positional": PartialRope(Rope(), 6)},
      ["--context", "9"],
      ("without positions that are new", "1024"),
    ),
    (
      {"positional": Pattern((Rope(), Nope()), (1025, None))},
      ["--context", "9"],
      ("without positions that are new", "1024"),
    ),
    ({"positional": Nope()}, ["--context", "0"], ("1 or more", "got 0")),
    ({}, ["--format", "gguf"], ("'gguf'",)),
  ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
  fields, arguments, says, tmp_path, drope
):
  _save(dataclasses.replace(CONFIG, **fields), tmp_path / "ours")
  ran = drope("export", tmp_path / "ours", "--out", tmp_path / "x", *arguments)
  assert ran.status == 2 and ran.err.count("\n") == 1
  for words in says:
    assert words in ran.err
  assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_an_existing_folder_and_a_missing_checkpoint(tmp_path, drope):
  _save(CONFIG, tmp_path / "ours")
  ran = drope("export", tmp_path / "ours", "--out", tmp_path / "ours")
  assert ran.status == 2 and "ours exists" in ran.err
  ran = drope("export", tmp_path / "none", "--out", tmp_path / "x")
  assert ran.status == 2 and "does not exist" in ran.err
