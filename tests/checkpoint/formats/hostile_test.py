"""Whatever an importer is given, it reads it or says in a line why not."""

import io
import struct
import zipfile

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from drope_jax.checkpoint.formats import (
  gguf_header,
  gguf_metadata,
  hf_config,
  torch_file,
)
from drope_jax.model.config import ModelConfig

SIZES = {
  "model_type": "llama",
  "hidden_size": 32,
  "intermediate_size": 48,
  "max_position_embeddings": 64,
  "num_attention_heads": 4,
  "num_hidden_layers": 2,
  "vocab_size": 64,
}
OWN = {
  "llama": {"attention_bias": False, "head_dim": 8},
  "mistral": {"sliding_window": 16},
  "qwen3": {"layer_types": ["full_attention"] * 2, "max_window_layers": 1},
  "smollm3": {"no_rope_layers": [0, 1], "use_sliding_window": False},
  "llama_drope": {"attention_type": "nope", "softmax_scale": 0.5},
}
POSITIONS = (
  None,
  {"rope_type": "linear", "factor": 2.0},
  {"rope_type": "dynamic", "factor": 2.0},
  {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.5},
  {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
  {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
)
SCALARS = (
  st.none()
  | st.booleans()
  | st.integers()
  | st.sampled_from((0, 1, 2, 2**31, 10**9, 10**400))
  | st.floats()
  | st.text(max_size=5)
)
JSON = st.recursive(
  SCALARS,
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=5,
)


@st.composite
def _configs(draw):
  kind = draw(st.sampled_from(sorted(OWN)))
  data = SIZES | OWN[kind] | {"model_type": kind}
  positions = draw(st.sampled_from(POSITIONS))
  if positions is not None:
    data["rope_scaling"] = dict(positions)
  for _ in range(draw(st.integers(1, 2))):
    inside = data.get("rope_scaling")
    at = inside if isinstance(inside, dict) and draw(st.booleans()) else data
    names = (*at, "rope_theta", "rms_norm_eps", "tie_word_embeddings")
    at[draw(st.sampled_from(names))] = draw(JSON)
  return data


def _read_or_refused(read):
  """Returns what is read; a refusal is one line that says what was got."""
  try:
    return read()
  except ValueError as error:
    assert "got" in str(error) and "\n" not in str(error)
  return None


@hypothesis.settings(max_examples=150)
@hypothesis.given(_configs())
def test_a_config_of_any_values(data):
  read = _read_or_refused(lambda: hf_config.from_dict(data))
  assert read is None or isinstance(read[0], ModelConfig)


@hypothesis.settings(max_examples=200)
@hypothesis.given(st.data())
def test_gguf_fields_of_any_values(data):
  model = {
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 48,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
  }
  tokenizer = {
    "tokenizer.ggml.model": data.draw(st.sampled_from(("llama", "gpt2"))),
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.scores": [0.0, -1.0, -2.0],
    "tokenizer.ggml.token_type": [1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
  }
  values = SCALARS | st.lists(SCALARS, max_size=4)
  for given in (model, tokenizer):
    given[data.draw(st.sampled_from(sorted(given)))] = data.draw(values)
  _read_or_refused(lambda: gguf_metadata.model_fields(model, "llama"))
  _read_or_refused(lambda: gguf_metadata.require_tokenizer(tokenizer))


CHANGES = st.lists(
  st.tuples(
    st.integers(0, 2**16),
    st.binary(max_size=3)
    | st.sampled_from((0, 1, 2**31, 2**40, 2**62, 2**64 - 1)).map(
      lambda count: struct.pack("<Q", count)
    ),
  ),
  min_size=1,
  max_size=4,
)


def _changed(data, changes):
  changed = bytearray(data)
  for place, new in changes:
    start = place % len(changed)
    changed[start : start + len(new)] = new
  return bytes(changed)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  return tmp_path_factory.mktemp("hostile") / "file"


@pytest.fixture(scope="module")
def gguf_bytes(path):
  gguf = pytest.importorskip("gguf")
  writer = gguf.GGUFWriter(path, "llama")
  writer.add_block_count(2)
  writer.add_token_list(["a", "b", "ab"])
  writer.add_token_scores([0.0, -1.0, -2.0])
  writer.add_tensor("a", np.ones((2, 3), np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path.read_bytes()


@hypothesis.settings(max_examples=200)
@hypothesis.given(changes=CHANGES)
def test_a_gguf_header_of_any_bytes(path, gguf_bytes, changes):
  path.write_bytes(_changed(gguf_bytes, changes))
  _read_or_refused(lambda: gguf_header.read(path))


@pytest.fixture(scope="module")
def torch_entries(path):
  torch = pytest.importorskip("torch")
  torch.save({"a": torch.ones(2, 3), "b": torch.ones(4)}, path)
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


@hypothesis.settings(max_examples=300)
@hypothesis.given(changes=CHANGES)
def test_a_torch_pickle_of_any_bytes(path, torch_entries, changes):
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, "w") as archive:
    for name, data in torch_entries.items():
      is_pickle = name.endswith("data.pkl")
      archive.writestr(name, _changed(data, changes) if is_pickle else data)
  path.write_bytes(packed.getvalue())
  _read_or_refused(lambda: torch_file.open_file(path))
