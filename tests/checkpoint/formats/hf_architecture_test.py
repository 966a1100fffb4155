"""A config is held exactly by the architecture it leaves in, or refused."""

import dataclasses
import json

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from drope_jax.checkpoint.formats import (
  hf_architecture,
  hf_config,
  hf_layers,
)
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.positional import (
  Alibi,
  CriticalNtk,
  Dynamic,
  LearnedAbsolute,
  Llama3Rope,
  LogScaled,
  LongRope,
  Nope,
  NtkAware,
  PartialRope,
  Pattern,
  PositionInterpolation,
  RescaledRope,
  Rope,
  Yarn,
  rotary,
)

CONFIG = ModelConfig(
  vocab_size=20,
  num_layers=4,
  width=8,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=12,
  context_tokens=16,
)
DROPPED = dataclasses.replace(CONFIG, positional=Nope())
ROPE = Rope(5e5)
POST = dataclasses.replace(DROPPED, norm_placement="post", qk_norm="qk")
GEMMA = dataclasses.replace(
  CONFIG,
  norm_placement="both",
  norm_gain_offset=1.0,
  qk_norm="qk",
  qk_norm_scope="head",
  mlp_activation="gelu_tanh",
  embedding_scale=8**0.5,
)
GEMMA2 = dataclasses.replace(
  GEMMA,
  qk_norm="none",
  qk_norm_scope="joint",
  logit_soft_cap=50.0,
  final_logit_soft_cap=30.0,
)
GPT2 = dataclasses.replace(
  CONFIG,
  positional=LearnedAbsolute(16),
  width=16,
  num_kv_heads=4,
  norm_kind="layer",
  gated_mlp=False,
  mlp_activation="gelu_tanh",
  qkv_bias=True,
  o_bias=True,
  mlp_bias=True,
)
NEOX = dataclasses.replace(
  GPT2,
  positional=PartialRope(Rope(1e8), 1),
  parallel_residual=True,
  mlp_activation="gelu",
)
JOINT = dataclasses.replace(DROPPED, width=16, qk_norm="qk")


GEMMA3 = "gemma3_text"


def _with(config=CONFIG, **fields):
  return dataclasses.replace(config, **fields)


def _swa(full):
  """Windows with RoPE in three of four layers, as OLMo 3's."""
  return Pattern((ROPE, ROPE, ROPE, full), (9, 9, 9, None))


def _read_back(fields):
  return hf_config.from_dict(json.loads(json.dumps(fields)))[0]


def _same_model(one, other):
  """Whether two configs say the same, however their patterns are written."""
  layers = hf_layers.Layers.of
  plain = dataclasses.replace(one, positional=other.positional)
  return plain == other and layers(one) == layers(other)


@pytest.mark.parametrize(
  ("config", "model_type"),
  [
    (CONFIG, "llama"),
    (_with(positional=Llama3Rope()), "llama"),
    (_with(positional=PartialRope(ROPE, 1)), "llama"),
    (_with(positional=Pattern((PartialRope(ROPE, 1), Nope()))), "smollm3"),
    (_with(qkv_bias=True), "qwen2"),
    (_with(positional=Pattern((ROPE,), (100,))), "mistral"),
    (_with(qk_norm="qk", qk_norm_scope="head"), "qwen3"),
    (_with(DROPPED, qk_norm="qk", qk_norm_scope="head"), "qwen3"),
    (JOINT, "olmoe"),
    (_with(JOINT, positional=ROPE, qkv_bias=True), "olmoe"),
    (POST, "olmo2"),
    (_with(POST, positional=ROPE, qkv_bias=True, head_dim=6), "olmo2"),
    (_with(POST, positional=_swa(ROPE)), "olmo3"),
    (_with(POST, positional=_swa(Yarn(5e5, 4.0, 16))), "olmo3"),
    (_with(POST, positional=_swa(Nope())), "olmo3"),
    (_with(GEMMA, positional=_swa(Rope(1e6)), logit_scale=2**0.5), GEMMA3),
    (_with(GEMMA, positional=_swa(Nope()), tied_embeddings=True), GEMMA3),
    (_with(GEMMA2, positional=Pattern((ROPE,) * 2, (9, None))), "gemma2"),
    (_with(GEMMA2, positional=Nope(), final_logit_soft_cap=None), "gemma2"),
    (_with(residual_scale=0.3), "granite"),
    (_with(embedding_scale=3.0, final_logit_scale=1 / 49), "granite"),
    (_with(GPT2, positional=ROPE), "gpt_neox"),
    (_with(NEOX, positional=Nope()), "gpt_neox"),
    (_with(NEOX, positional=Yarn(5e5, 4.0, 16)), "gpt_neox"),
    (NEOX, "gpt_neox"),
    (GPT2, "gpt2"),
    (DROPPED, "smollm3"),
    (_with(DROPPED, qkv_bias=True), "smollm3"),
    (_with(positional=Pattern((ROPE, Nope()))), "smollm3"),
    (
      _with(positional=Pattern((ROPE, Nope()), (None, 100))),
      "smollm3",
    ),
    (
      _with(qkv_bias=True, positional=Pattern((ROPE,) * 2, (None, 9))),
      "qwen2",
    ),
  ],
)
def test_the_plainest_architecture_is_chosen(config, model_type):
  assert hf_architecture.choose(config) == model_type
  fields = hf_config.to_dict(config, model_type)
  assert _same_model(_read_back(fields), config)


def test_a_model_leaves_as_what_it_came_from():
  for name in ("llama", "mistral", "smollm3", "seed_oss", "ernie4_5"):
    assert hf_architecture.choose(CONFIG, [name]) == name
  assert hf_architecture.choose(DROPPED, ["llama"]) == "smollm3"
  # Its weights say that it has no positions, and no field.
  assert hf_architecture.choose(_with(GPT2, positional=Nope())) == "gpt2"
  assert hf_architecture.choose(CONFIG, ["llama_drope"]) == "llama"


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (
      {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
      "must be plain RoPE, got PositionInterpolation.* for 2 of 4",
    ),
    ({"rotary_pct": 0.75}, "pairs of a head's 4 channels, got .* which is 3"),
    ({"rotary_pct": 0.1}, "a share of 0.1 of them, which is 0"),
    (
      {"rope_scaling": {"partial_rotary_factor": "half"}},
      "a share of half of them, which is 0",
    ),
    ({"rotary_pct": 2.0}, "a share of 2.0 of them, which is 8"),
  ],
)
def test_a_rotation_of_some_channels_is_plain_rope_of_pairs(change, says):
  fields = hf_config.to_dict(NEOX, "gpt_neox")
  assert fields["rotary_pct"] == 0.5 and fields["rotary_emb_base"] == 1e4
  with pytest.raises(ValueError, match=says):
    _read_back(fields | change)


@pytest.mark.parametrize("scheme", [NtkAware(1e4, 4.0), NtkAware(5e5, 7.3)])
def test_ntk_aware_positions_leave_as_plain_rope(scheme):
  config = _with(positional=scheme)
  assert hf_architecture.choose(config) == "llama"
  got = _read_back(hf_config.to_dict(config, "llama"))
  assert got == _with(positional=scheme.as_rope(4))
  np.testing.assert_array_equal(
    got.positional.frequencies(4), scheme.frequencies(4)
  )


def test_pairs_that_a_scaling_leaves_alone_leave_as_plain_ropes():
  # Llama 3.2 1B's rule.
  scaled = Llama3Rope(5e5, 32.0)
  fields = {"head_dim": 64, "context_tokens": 131_072}
  config = _with(positional=PartialRope(scaled, 15), **fields)
  assert hf_architecture.choose(config) == "llama"
  got = _read_back(hf_config.to_dict(config, "llama"))
  assert got == _with(positional=PartialRope(Rope(5e5), 15), **fields)
  np.testing.assert_array_equal(
    got.positional.frequencies(64), config.positional.frequencies(64)
  )
  with pytest.raises(ValueError, match="for which config.json has no rule"):
    hf_architecture.choose(_with(positional=PartialRope(scaled, 16), **fields))


def test_a_required_architecture_may_neutralise_its_rotation():
  assert hf_architecture.choose(DROPPED, required="llama") == "llama"
  fields = hf_config.to_dict(DROPPED, "llama")
  assert _same_model(_read_back(fields), DROPPED)
  partial = _with(positional=Pattern((ROPE, Nope())))
  with pytest.raises(ValueError, match="LlamaForCausalLM.*beside layers with"):
    hf_architecture.choose(partial, required="llama")


@pytest.mark.parametrize(
  ("config", "says"),
  [
    (
      _with(JOINT, width=20),
      'of 20, not the 4 heads.*`format="sakana"`',
    ),
    (
      _with(JOINT, width=20, positional=ROPE),
      "as it got a width of 20, not the 4 heads times head_dim 4. Add the",
    ),
    # A norm per head would not help these.
    (_with(JOINT, positional=Alibi()), "got Alibi positions. Export a"),
    (
      _with(JOINT, positional=Pattern((ROPE, Nope()))),
      "got layers without positions beside layers with them. Export a",
    ),
    (
      _with(POST, positional=Pattern((Nope(),) * 2, (9, None))),
      "Olmo3ForCausalLM.*other than plain RoPE, Nope.., beside a window",
    ),
    (_with(POST, positional=_swa(Rope(1e4))), "two values of theta"),
    (_with(POST, positional=_swa(PartialRope(Rope(1e4), 1))), "of theta"),
    (_with(POST, positional=_swa(Alibi())), "Olmo3ForCausalLM.* got Alibi"),
    (_with(POST, qk_norm="none"), "Olmo2ForCausalLM.* got no QK norm"),
    (_with(DROPPED, norm_placement="both"), "multiplied by 1. Export"),
    (_with(GEMMA, positional=ROPE), "Gemma3ForCausalLM.* got no windows"),
    (
      _with(GEMMA, positional=_swa(ROPE), logit_scale=1.1),
      "got a logit scale of 1.1",
    ),
    (
      _with(GEMMA, positional=_swa(ROPE), norm_gain_offset=0.0),
      "gains to which 0 is added",
    ),
    (
      _with(GEMMA, positional=_swa(ROPE), mlp_activation="silu"),
      "'silu' as the MLP's activation",
    ),
    (
      _with(GEMMA, positional=_swa(ROPE), logit_soft_cap=50.0),
      "a cap of 50 on attention's logits",
    ),
    (_with(residual_scale=0.3, qk_norm="q"), "GraniteForCausalLM.* a QK norm"),
    (
      _with(GPT2, final_logit_scale=0.5),
      "Granite.* 'layer' as its kind of norm",
    ),
    (
      _with(GPT2, positional=Alibi()),
      "GPT2LMHeadModel.* got Alibi positions",
    ),
    (_with(NEOX, positional=Alibi()), "GPTNeoXForCausalLM.* Alibi positions"),
    (
      _with(NEOX, positional=PartialRope(Yarn(5e5, 4.0, 16), 1)),
      "of other positions than plain RoPE",
    ),
    (_with(parallel_residual=True), "and an MLP that read the same"),
    (_with(GPT2, positional=LearnedAbsolute(16, 2.0)), "that is stretched"),
    (_with(GPT2, num_kv_heads=2), "got 2 key/value heads for 4 heads"),
    (_with(GPT2, width=20), "got a width of 20, not the 4 heads times 4"),
    (_with(GPT2, o_bias=False), "got projections without biases"),
    (_with(GPT2, gated_mlp=True), "got a gate in the MLP"),
    (_with(GPT2, norm_placement="post"), "'post' as its placement"),
    (_with(norm_kind="layer"), "GPT2LMHeadModel.* got 2 key/value heads"),
    (_with(gated_mlp=False), "got an MLP without a gate"),
    (_with(mlp_bias=True), "got biases of the MLP"),
    (_with(o_bias=True), "got a bias of attention's output"),
    (_with(positional=LearnedAbsolute(16)), "got LearnedAbsolute positions"),
    (_with(final_logit_soft_cap=30.0), "a cap of 30 on the final logits"),
    (
      _with(GEMMA2, positional=Pattern((ROPE, Nope()), (9, None))),
      "Gemma2ForCausalLM.* layers without positions beside layers with them",
    ),
    (
      _with(layer_groups=(LayerGroup(1), LayerGroup(3))),
      "groups of layers that differ",
    ),
    (_with(JOINT, qk_norm="q"), "got a joint norm on q"),
    (
      _with(JOINT, positional=Pattern((ROPE, Nope()))),
      "OlmoeForCausalLM.* layers without positions beside layers with them",
    ),
    (_with(JOINT, positional=Pattern((Nope(),), (9,))), "got windows"),
    (_with(qk_norm="q", qk_norm_scope="head"), "a head norm on q"),
    (
      _with(
        qk_norm="qk",
        qk_norm_scope="head",
        positional=Pattern((ROPE, Nope())),
      ),
      "layers without positions beside layers with them",
    ),
    (_with(positional=Pattern((ROPE, Rope(1e4)))), "2 kinds of positions"),
    (_with(positional=Alibi()), "Alibi positions"),
    (
      _with(
        positional=Pattern(
          (PartialRope(PositionInterpolation(1e4, 4.0), 1), Nope())
        )
      ),
      r"SmolLM3ForCausalLM.* got PartialRope\(.* of 16, for which config.json",
    ),
    (_with(positional=CriticalNtk()), "config.json has no rule"),
    (_with(positional=Dynamic(NtkAware(), 17)), "config.json has no rule"),
    (_with(POST, positional=_swa(CriticalNtk())), "config.json has no rule"),
    (
      _with(POST, positional=_swa(Yarn(5e5, 4.0, 16, truncate=False))),
      "Olmo3ForCausalLM.* got YaRN without truncation",
    ),
    (
      _with(GEMMA, positional=_swa(Yarn(5e5, 4.0, 16, truncate=False))),
      "Gemma3ForCausalLM.* got YaRN without truncation",
    ),
    (_with(positional=LogScaled(Nope())), "LogScaled positions"),
    (
      _with(positional=Pattern((ROPE,) * 2, (5, 9))),
      "windows of 5 and 9 tokens",
    ),
  ],
)
def test_what_none_holds_is_refused_with_the_reason(config, says):
  with pytest.raises(ValueError, match=says):
    hf_architecture.choose(config)


PAIRS = tuple(1.0 + i for i in range(32))


@pytest.mark.parametrize(
  "scheme",
  [
    Rope(5e5),
    PositionInterpolation(1e4, 4.0),
    NtkAware(1e4, 3.0),
    Dynamic(NtkAware(1e4, 3.0), 2048),
    Yarn(1e6, 4.0, 1024),
    Yarn(1e6, 4.0, 1024, 16.0, 2.0, 0.9, False),
    RescaledRope(1e4, PAIRS, 0.8),
    LongRope(1e4, PAIRS, PAIRS[::-1], 4095, 1.1),
    LongRope(1e4, PAIRS, PAIRS[::-1], 4096, 1.1),
    Llama3Rope(5e5, 8.0, 512),
    PartialRope(Rope(1e4), 21),
    PartialRope(Rope(1e6), 1),
    PartialRope(Rope(100.0), 31),
  ],
)
def test_transformers_turns_by_the_same_frequencies(scheme):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  llama = pytest.importorskip("transformers.models.llama.modeling_llama")
  config = _with(head_dim=64, context_tokens=2048, positional=scheme)
  fields = hf_config.to_dict(config, "llama")
  del fields["model_type"]
  theirs = llama.LlamaRotaryEmbedding(transformers.LlamaConfig(**fields))
  theirs(torch.zeros(1), torch.arange(4096)[None])
  if isinstance(scheme, rotary.LengthDependent):
    scheme = scheme.at(4096)
  # A pair that was dropped rotates by 1e-30 a token there.
  np.testing.assert_allclose(
    theirs.inv_freq.numpy(), scheme.frequencies(64), rtol=1e-6, atol=1e-29
  )
  assert theirs.attention_scaling == pytest.approx(scheme.attention_factor)


def _require_loadable(fields):
  """Raises where transformers' own checks of a config do."""
  transformers = pytest.importorskip("transformers")
  transformers.AutoConfig.for_model(**fields)


SCHEMES = st.sampled_from(
  (
    Nope(),
    ROPE,
    Rope(1e4),
    PartialRope(ROPE, 1),
    PositionInterpolation(1e4, 4.0),
    Llama3Rope(5e5, 8.0, 8192),
    Yarn(1e6, 4.0, 32768),
    Dynamic(NtkAware(1e4, 2.5), CONFIG.context_tokens),
    Yarn(1e6, 4.0, 32768, length_factor=1.5, truncate=False),
  )
)


@st.composite
def configs(draw):
  """Configs of any family, with positions and windows by layer."""
  scheme = draw(SCHEMES)
  rotated = draw(st.lists(st.booleans(), min_size=4, max_size=4))
  window = draw(st.sampled_from((None, 7)))
  seeing = draw(st.lists(st.booleans(), min_size=4, max_size=4))
  schemes = tuple(scheme if on else Nope() for on in rotated)
  windows = tuple(window if on else None for on in seeing)
  norms = draw(
    st.sampled_from((("none", "joint"), ("qk", "head"), ("qk", "joint")))
  )
  dropped = not any(rotated) or scheme == Nope()
  return _with(
    width=draw(st.sampled_from((8, 10, 16))),
    num_kv_heads=draw(st.sampled_from((1, 2, 4))),
    # An odd one cannot be turned.
    head_dim=draw(st.sampled_from((4, 6, 10) + (5,) * dropped)),
    positional=Pattern(schemes, windows if any(windows) else ()),
    norm_placement=draw(st.sampled_from(("pre", "post"))),
    qk_norm=norms[0],
    qk_norm_scope=norms[1],
    qkv_bias=draw(st.booleans()),
    tied_embeddings=draw(st.booleans()),
    norm_eps=draw(st.sampled_from((1e-5, 1e-6, 3e-7))),
  )


@hypothesis.given(configs())
def test_export_then_import_is_the_identity(config):
  held = []
  for model_type in hf_architecture.STOCK:
    if hf_architecture.misfit(config, model_type) is None:
      fields = hf_config.to_dict(config, model_type)
      assert _same_model(_read_back(fields), config)
      _require_loadable(fields)
      held.append(model_type)
  if held:
    hf_architecture.choose(config, required=held[0])


@pytest.mark.parametrize("qk_norm", ["none", "q", "k", "qk"])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_papers_layout(qk_norm, qkv_bias):
  config = _with(DROPPED, qk_norm=qk_norm, qkv_bias=qkv_bias, logit_scale=1.25)
  name = hf_architecture.choose_papers(config)
  fields = hf_config.to_dict(config, name)
  assert fields["model_type"] == ("qwen2" if qkv_bias else "llama") + "_drope"
  want = "nope" if qk_norm == "none" else f"{qk_norm}_norm_nope"
  assert fields["attention_type"] == want
  assert fields["softmax_scale"] == 1.25 / 4**0.5
  assert _same_model(_read_back(fields), config)


@pytest.mark.parametrize(
  ("config", "says"),
  [
    (CONFIG, "positions in some layers"),
    (_with(DROPPED, qk_norm="qk", qk_norm_scope="head"), "norm per head"),
    (_with(positional=Pattern((Nope(),), (9,))), "windows"),
  ],
)
def test_what_the_papers_layout_does_not_hold(config, says):
  with pytest.raises(ValueError, match=says):
    hf_architecture.choose_papers(config)
