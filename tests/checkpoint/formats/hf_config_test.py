"""A config.json says exactly what is read, or is refused by name."""

import json
import math

import pytest

from drope_jax.checkpoint.formats import hf_config
from drope_jax.data import json_object
from drope_jax.positional import (
  Dynamic,
  Llama3Rope,
  LongRope,
  Nope,
  NtkAware,
  Pattern,
  PositionInterpolation,
  RescaledRope,
  Rope,
  Yarn,
)

# Llama 3.1's, as meta-llama published it, but for its size.
LLAMA3 = {
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": False,
  "attention_dropout": 0.0,
  "bos_token_id": 128000,
  "eos_token_id": 128001,
  "hidden_act": "silu",
  "hidden_size": 32,
  "initializer_range": 0.02,
  "intermediate_size": 48,
  "max_position_embeddings": 131072,
  "mlp_bias": False,
  "model_type": "llama",
  "num_attention_heads": 4,
  "num_hidden_layers": 4,
  "num_key_value_heads": 2,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-05,
  "rope_scaling": {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
  },
  "rope_theta": 500000.0,
  "tie_word_embeddings": False,
  "torch_dtype": "bfloat16",
  "transformers_version": "4.42.3",
  "use_cache": True,
  "vocab_size": 64,
}


def _as(model_type, architecture, **fields):
  data = {
    name: value
    for name, value in LLAMA3.items()
    if name not in ("attention_bias", "mlp_bias", "rope_scaling")
  }
  data |= {"model_type": model_type, "architectures": [architecture]}
  return data | fields


QWEN2 = _as("qwen2", "Qwen2ForCausalLM", rope_theta=1e6)
MISTRAL = _as("mistral", "MistralForCausalLM", sliding_window=100)
SMOLLM3 = _as("smollm3", "SmolLM3ForCausalLM", use_sliding_window=False)
OLMOE = _as("olmoe", "OlmoeForCausalLM", num_experts=1, num_experts_per_tok=1)
GRANITE = _as("granite", "GraniteForCausalLM", attention_multiplier=0.3)

OLMO3 = _as("olmo3", "Olmo3ForCausalLM", sliding_window=100)
YARN = {
  "rope_type": "yarn",
  "factor": 4.0,
  "original_max_position_embeddings": 8192,
}


def _positional(data):
  return hf_config.from_dict(data)[0].positional


def test_llama_3_1():
  config, _ = hf_config.from_dict(LLAMA3)
  assert config.positional == Llama3Rope(5e5, 8.0, 8192, 1.0, 4.0)
  assert (config.head_dim, config.norm_eps) == (8, 1e-5)
  assert not config.tied_embeddings and not config.qkv_bias


def test_what_is_absent_is_as_transformers_has_it():
  old = {
    name: LLAMA3[name]
    for name in (
      "model_type",
      "hidden_size",
      "intermediate_size",
      "max_position_embeddings",
      "num_attention_heads",
      "num_hidden_layers",
      "vocab_size",
    )
  }
  config, _ = hf_config.from_dict(old)
  assert config.positional == Rope(1e4)
  assert config.num_kv_heads == 4
  assert (config.norm_eps, config.tied_embeddings) == (1e-6, False)
  smollm3, _ = hf_config.from_dict(old | {"model_type": "smollm3"})
  rope = Rope(2e6)
  assert smollm3.positional == Pattern((rope, rope, rope, Nope()))
  assert smollm3.tied_embeddings


@pytest.mark.parametrize(
  ("scaling", "scheme"),
  [
    ({"type": "linear", "factor": 4.0}, PositionInterpolation(5e5, 4.0)),
    (
      {"rope_type": "dynamic", "factor": 2.0},
      Dynamic(NtkAware(5e5, 2.0), 131072),
    ),
    (
      {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
      },
      Yarn(5e5, 4.0, 32768),
    ),
    (
      {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "attention_factor": 1,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
      },
      Yarn(5e5, 4.0, 32768, 16.0, 2.0, 1.0, False),
    ),
    (
      {
        "type": "longrope",
        "short_factor": [1, 1, 2.5, 3],
        "long_factor": [1, 2, 4, 8],
        "original_max_position_embeddings": 8192,
        "attention_factor": 1.25,
      },
      LongRope(5e5, (1.0, 1.0, 2.5, 3.0), (1.0, 2.0, 4.0, 8.0), 8192, 1.25),
    ),
    (
      {
        "rope_type": "longrope",
        "short_factor": [1, 1, 2, 1e30],
        "long_factor": [1, 1, 2, 1e30],
      },
      RescaledRope(5e5, (1.0, 1.0, 2.0, 1e30)),
    ),
    ({"rope_type": "default", "rope_theta": 7e5}, Rope(7e5)),
    (None, Rope(5e5)),
  ],
)
def test_positions_of_either_spelling(scaling, scheme):
  assert _positional(LLAMA3 | {"rope_scaling": scaling}) == scheme
  new = {**(scaling or {})}
  new["rope_type"] = new.pop("type", new.get("rope_type", "default"))
  data = {
    name: value
    for name, value in LLAMA3.items()
    if name not in ("rope_theta", "rope_scaling")
  }
  data["rope_parameters"] = {"rope_theta": 5e5} | new
  assert _positional(data) == scheme


def test_one_means_that_a_layer_has_rope():
  data = SMOLLM3 | {"no_rope_layers": [0, 1, 1, 1]}
  rope = Rope(5e5)
  assert _positional(data) == Pattern((Nope(), rope, rope, rope))


def test_the_two_scales_of_yarn_are_one_length_factor():
  # transformers' `_compute_yarn_parameters`, of DeepSeek's two numbers.
  scaling = {"rope_type": "yarn", "factor": 40.0, "mscale": 0.7}
  data = LLAMA3 | {"rope_scaling": scaling | {"mscale_all_dim": 1.0}}
  log = 0.1 * math.log(40.0)
  want = (0.7 * log + 1) / (log + 1)
  assert _positional(data).attention_factor == pytest.approx(want)
  # One alone is ignored there: the paper's.
  alone = _positional(LLAMA3 | {"rope_scaling": scaling})
  assert alone.attention_factor == pytest.approx(log + 1)


def test_windows():
  assert _positional(MISTRAL) == Pattern((Rope(5e5),), (100,))
  assert _positional(MISTRAL | {"sliding_window": None}) == Rope(5e5)
  unused = QWEN2 | {"sliding_window": 100, "use_sliding_window": False}
  assert _positional(unused) == Rope(1e6)
  used = unused | {"use_sliding_window": True, "max_window_layers": 2}
  rope = Rope(1e6)
  assert _positional(used) == Pattern((rope,) * 4, (None, None, 100, 100))
  every = used | {"max_window_layers": 0}
  assert _positional(every) == Pattern((rope,), (100,))
  unsaid = {k: v for k, v in used.items() if k != "sliding_window"}
  by_default = Pattern((rope,) * 4, (None, None, 4096, 4096))
  assert _positional(unsaid) == by_default
  assert _positional(unsaid | {"sliding_window": None}) == rope
  kinds = ["sliding_attention", "full_attention"] * 2
  listed = used | {"layer_types": kinds}
  assert _positional(listed) == Pattern((rope,) * 2, (100, None))


@pytest.mark.parametrize("name", ["SeedOss", "Ernie4_5"])
def test_a_head_dim_of_null_is_not_an_absent_one_where_transformers_tells_them(
  name,
):
  transformers = pytest.importorskip("transformers")
  make = getattr(transformers, f"{name}Config")
  architecture = f"{name}ForCausalLM"
  data = _as(make.model_type, architecture, tie_word_embeddings=True)
  sizes = {"hidden_size": 32, "num_attention_heads": 4}
  for fields, want in (({}, 128), ({"head_dim": None}, 8)):
    assert hf_config.from_dict(data | fields)[0].head_dim == want
    assert make(**sizes, **fields).head_dim == want


@pytest.mark.parametrize(
  ("fields", "named"),
  [
    ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
    (
      {"architectures": ["LlamaForSequenceClassification"]},
      "LlamaForSequenceClassification",
    ),
    ({"model_type": "gpt2"}, "'gpt2'"),
    ({"hidden_act": "gelu"}, "hidden_act must be 'silu'.*'gelu'"),
    ({"hidden_act": ["silu"]}, r"hidden_act must be 'silu'.*\['silu'\]"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"rope_interleaved": True}, "rope_interleaved"),
    ({"logit_softcap": 30.0}, "logit_softcap"),
    ({"quantization_config": {}}, "quantization_config"),
    ({"num_experts": 8}, "num_experts"),
    ({"torch_dtype": "flaot16"}, "'flaot16'"),
    ({"hidden_size": "wide"}, "hidden_size must be a whole number"),
    ({"hidden_size": 32.0}, "hidden_size must be a whole number.*got 32.0"),
    ({"hidden_size": True}, "hidden_size must be a whole number.*got True"),
    ({"vocab_size": None}, "vocab_size must be a whole number.*got none"),
    ({"vocab_size": 2**31}, "from 1 to 2147483647, got 2147483648"),
    ({"num_hidden_layers": 0}, "from 1 to 10000, got 0"),
    ({"num_hidden_layers": 10**9}, "from 1 to 10000, got 1000000000"),
    ({"head_dim": 10**9}, "head_dim of at most 65536, got 1000000000"),
    ({"num_attention_heads": -4}, "num_attention_heads.*got -4"),
    ({"num_attention_heads": 64}, "head_dim must be at least 1, got 64 heads"),
    (
      {"rms_norm_eps": "small"},
      "rms_norm_eps must be a number above 0, got 's",
    ),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps must be a number above 0, got -1"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps.*got nan"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps must be a number"),
    ({"tie_word_embeddings": "false"}, "must be true or false, got 'false'"),
    ({"attention_bias": 1}, "attention_bias must be true or false, got 1"),
    ({"model_type": ["llama"]}, r"model_type \['llama'\]"),
    ({"architectures": {}, "model_type": None}, "model_type None"),
    ({"rope_theta": 0.5}, "rope_theta must be a number above 1, got 0.5"),
    ({"rope_scaling": [4.0]}, r"rope_scaling must be an object, got \[4.0\]"),
    ({"rope_scaling": {"type": "mrope"}}, "'mrope'"),
    ({"rope_scaling": {"type": ["linear"]}}, r"\['linear'\]"),
    ({"rope_scaling": {"type": "longrope"}}, "short_factor must be a list"),
    (
      {
        "rope_scaling": {
          "type": "longrope",
          "short_factor": [1],
          "long_factor": [1],
        }
      },
      "factor for each channel pair, 4 at head_dim 8, got 1",
    ),
    (
      {
        "rope_scaling": {"type": "yarn", "factor": 4.0},
        "original_max_position_embeddings": -5,
      },
      "original_max_position_embeddings must be.*got -5",
    ),
    (
      {
        "rope_scaling": LLAMA3["rope_scaling"],
        "original_max_position_embeddings": 64,
      },
      "the same beside the positions and among them, got 64 and 8192",
    ),
    ({"rope_scaling": {"type": "linear"}}, "factor must be.*got none"),
    (
      {"rope_scaling": {"type": "linear", "factor": "4"}},
      "'linear': factor must be a number above 0, got '4'",
    ),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
    (
      {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1}},
      "mscale",
    ),
    ({"rope_scaling": {"partial_rotary_factor": 0.5}}, "partial_rotary"),
    (
      {"rope_scaling": {"type": "llama3", "factor": 8.0}},
      "low_freq_factor",
    ),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads must be {}"),
  ],
)
def test_what_is_not_honored_is_refused_by_name(fields, named):
  with pytest.raises(ValueError, match=named) as refused:
    hf_config.from_dict(LLAMA3 | fields)
  assert "got" in str(refused.value)


def test_olmo_3_scales_positions_only_where_there_is_no_window():
  rope, yarn = Rope(5e5), Yarn(5e5, 4.0, 8192)
  want = Pattern((rope, rope, rope, yarn), (100, 100, 100, None))
  assert _positional(OLMO3 | {"rope_scaling": YARN}) == want
  by_type = {
    "full_attention": YARN | {"rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
  }
  assert _positional(OLMO3 | {"rope_parameters": by_type}) == want
  kinds = ["full_attention", "sliding_attention"] * 2
  assert _positional(OLMO3 | {"layer_types": kinds}) == Pattern(
    (rope, rope), (None, 100)
  )


@pytest.mark.parametrize(
  ("data", "named"),
  [
    (MISTRAL | {"layer_types": ["full_attention"] * 4}, "layer_types"),
    (QWEN2 | {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    (
      QWEN2 | {"layer_types": ["sliding_attention"] * 4},
      "layer_types must say",
    ),
    (LLAMA3 | {"layer_types": ["full_attention"] * 3}, "4 layers, got 3"),
    (OLMO3 | {"layer_types": ["full_attention"] * 2}, "4 layers, got 2"),
    (OLMO3 | {"layer_types": ["sliding_attention"] * 8}, "4 layers, got 8"),
    (QWEN2 | {"attention_bias": False}, "attention_bias must be True"),
    (SMOLLM3 | {"no_rope_layers": [1, 2, 1, 1]}, "each 0 or 1"),
    (MISTRAL | {"sliding_window": "wide"}, "sliding_window must be a whole"),
    (QWEN2 | {"sliding_window": 0}, "sliding_window must be a whole.*got 0"),
    (SMOLLM3 | {"no_rope_layers": [1, 0]}, "each of 4 layers, got 2"),
    (MISTRAL | {"attention_bias": True}, "attention_bias"),
    (
      OLMO3 | {"rope_parameters": {"rope_type": "default"}},
      "for full_attention and for sliding_attention, got rope_type",
    ),
    (
      OLMO3
      | {"rope_parameters": {"full_attention": 5, "sliding_attention": None}},
      "rope_parameters of full_attention must be an object, or null, got 5",
    ),
    (GRANITE | {"num_attention_heads": 64}, "at least 1, got 64 heads for a"),
    (OLMOE | {"num_experts": 64}, "num_experts must be 1, got 64"),
    (OLMOE | {"num_experts": None}, "num_experts must be 1, got none"),
    (OLMOE | {"clip_qkv": 8.0}, "clip_qkv must be None, got 8.0"),
  ],
)
def test_a_familys_own_fields_are_checked(data, named):
  with pytest.raises(ValueError, match=named):
    hf_config.from_dict(data)


def test_what_changes_no_logit_is_read_over():
  want = hf_config.from_dict(LLAMA3)
  harmless = {
    "unsloth_version": "2025.1.1",
    "unsloth_fixed": True,
    "max_sequence_length": 2048,
    "torchscript": False,
    "gradient_checkpointing": True,
    "layer_types": ["full_attention"] * 4,
    "partial_rotary_factor": 1.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "some_field_of_tomorrow": None,
    "temperature": 0.7,
    "pruned_heads": {},
  }
  assert hf_config.from_dict(LLAMA3 | harmless) == want
  windows = {"layer_types": ["sliding_attention"] * 4}
  assert _positional(MISTRAL | windows) == _positional(MISTRAL)


def test_transformers_fields_of_generation_and_bookkeeping_are_read_over():
  transformers = pytest.importorskip("transformers")
  want = hf_config.from_dict(LLAMA3)
  theirs = {
    **transformers.GenerationConfig().__dict__,
    **transformers.PretrainedConfig().__dict__,
  }
  # A value that is none of its own, where it may have any.
  known = {"is_encoder_decoder": False, "dtype": None}
  odd = {name: known.get(name, "odd") for name in theirs}
  odd |= {"architectures": LLAMA3["architectures"]}
  assert hf_config.from_dict(LLAMA3 | odd) == want


@pytest.mark.parametrize(
  "published",
  [
    {"_num_labels": 1, "n_special": 0, "predict_special_tokens": True},  # GPT-2
    {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},  # GPT-NeoX
    {"sliding_window_size": 4096},  # Gemma 2
    {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}},  # Phi-3
  ],
)
def test_fields_of_published_models_that_do_nothing_are_read_over(published):
  want = hf_config.from_dict(LLAMA3)
  assert hf_config.from_dict(LLAMA3 | published) == want


def test_all_that_is_refused_is_listed():
  strange = {f"strange_{i}": i for i in range(12)} | {"strange\nest": 1}
  wrong = {"vocab_size": 0, "hidden_act": "gelu"}
  with pytest.raises(ValueError) as refused:
    hf_config.from_dict(LLAMA3 | strange | wrong)
  for name in (*strange, *wrong):
    assert name.replace("\n", "\\n") in str(refused.value)


def test_files_that_are_no_config(tmp_path):
  path = tmp_path / "config.json"
  with pytest.raises(FileNotFoundError, match=r"has a config\.json, got none"):
    hf_config.read(path)
  path.write_text('{"model_type": ')
  with pytest.raises(ValueError, match="must be JSON"):
    hf_config.read(path)
  path.write_text("[]")
  with pytest.raises(ValueError, match="got list"):
    hf_config.read(path)
  path.write_text('{"a": ' + "[" * 100_000)
  with pytest.raises(ValueError, match="nested deeper"):
    hf_config.read(path)
  path.write_bytes(b'{"a": "\xff"}')
  with pytest.raises(ValueError, match="must be JSON, got 'utf-8'"):
    hf_config.read(path)
  with path.open("wb") as file:
    file.truncate(json_object.MOST_BYTES + 1)
  with pytest.raises(ValueError, match="at most 67108864 bytes, got 67108865"):
    hf_config.read(path)
  path.write_text(json.dumps(LLAMA3 | {"hidden_act": "gelu"}))
  with pytest.raises(ValueError, match=r"config\.json: hidden_act"):
    hf_config.read(path)
