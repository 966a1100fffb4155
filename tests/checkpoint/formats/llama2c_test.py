"""llama2.c files, written here by its export's rules, are the same model."""

import os
import struct

import jax
import numpy as np
import pytest

from drope_jax.checkpoint.formats import hf, llama2c
from tests.checkpoint.formats import rope

torch = pytest.importorskip("torch")

WIDTH, MLP, N, H, V, CONTEXT = 32, 48, 2, 4, 64, 1024
D = WIDTH // H


def _write(path, theirs, version):
  """Writes transformers' model as llama2.c's export.py lays it out."""
  state = {k: x.detach().numpy() for k, x in theirs.state_dict().items()}
  config = theirs.config
  K, tied = config.num_key_value_heads, config.tie_word_embeddings

  def layers(name, permuted=False):
    for n in range(N):
      rows = state[f"model.layers.{n}.{name}.weight"]
      yield rope.to_interleaved(rows, D) if permuted else rows

  parts = {
    "embedding": [state["model.embed_tokens.weight"]],
    "rms_att": layers("input_layernorm"),
    "rms_ffn": layers("post_attention_layernorm"),
    "rms_final": [state["model.norm.weight"]],
    "attention": [
      *layers("self_attn.q_proj", permuted=True),
      *layers("self_attn.k_proj", permuted=True),
      *layers("self_attn.v_proj"),
      *layers("self_attn.o_proj"),
    ],
    "mlp": [
      *layers("mlp.gate_proj"),
      *layers("mlp.down_proj"),
      *layers("mlp.up_proj"),
    ],
    "tables": [np.zeros((2, CONTEXT, D // 2), np.float32)],
    "head": [] if tied else [state["lm_head.weight"]],
  }
  sizes = (WIDTH, MLP, N, H, K, V, CONTEXT)
  if version == 0:
    signed = (*sizes[:5], V if tied else -V, CONTEXT)
    header = struct.pack("<7i", *signed)
    order = "embedding rms_att attention rms_ffn mlp rms_final tables head"
  else:
    header = struct.pack("<Ii7iB", 0x616B3432, 1, *sizes, tied).ljust(
      256, b"\0"
    )
    order = "rms_att rms_ffn rms_final embedding attention mlp head"
  with path.open("wb") as file:
    file.write(header)
    for part in order.split():
      for array in parts[part]:
        file.write(np.ascontiguousarray(array).tobytes())


def _open(path):
  return llama2c.open_file(path, dtype="keep", allow_nonfinite=False)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_the_same_model_as_from_hugging_face(
  version, tied, make_theirs, params_of, tmp_path
):
  theirs = make_theirs("Llama", tie_word_embeddings=tied, rms_norm_eps=1e-5)
  theirs.save_pretrained(tmp_path / "hf")
  path = tmp_path / "model.bin"
  _write(path, theirs, version)
  want = hf.open_folder(tmp_path / "hf", dtype="keep", allow_nonfinite=False)
  got = _open(path)
  assert got.config == want.config
  got, want = params_of(got), params_of(want)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_model_may_have_one_head(tmp_path):
  sizes = {"width": 2, "mlp": 2, "N": 1, "H": 1, "K": 1, "V": 4, "context": 8}
  header = struct.pack("<Ii7iB", 0x616B3432, 1, *sizes.values(), True)
  floats = 3 * 2 + 4 * 2 + 4 * 4 + 3 * 4  # Gains, embedding, attention, MLP.
  path = tmp_path / "model.bin"
  path.write_bytes(header.ljust(256, b"\0") + bytes(4 * floats))
  assert _open(path).config.num_heads == 1


def test_files_that_are_cut_short_or_of_another_kind(make_theirs, tmp_path):
  path = tmp_path / "model.bin"
  _write(path, make_theirs("Llama"), 1)
  os.truncate(path, path.stat().st_size - 4)
  with pytest.raises(ValueError, match="bytes by its header, got"):
    _open(path)
  path.write_bytes(struct.pack("<Ii", 0x616B3432, 2) + bytes(300))
  with pytest.raises(ValueError, match="got version 2"):
    _open(path)
  for size in (28, 36, 255):
    path.write_bytes(struct.pack("<Ii", 0x616B3432, 1) + bytes(size - 8))
    with pytest.raises(ValueError, match=f"of 256 bytes, .* got {size}"):
      _open(path)
  path.write_bytes(bytes(300))
  with pytest.raises(ValueError, match="must be a llama2.c file"):
    _open(path)
  path.write_bytes(b"short")
  with pytest.raises(ValueError, match="got 5 bytes"):
    _open(path)


def test_the_tokenizer_is_the_one_model_beside(make_theirs, tmp_path):
  path = tmp_path / "model.bin"
  _write(path, make_theirs("Llama"), 0)
  assert _open(path).tokenizer(tmp_path) is None
  (tmp_path / "tok.model").touch()
  assert _open(path).tokenizer(tmp_path) == tmp_path / "tok.model"
  (tmp_path / "other.model").touch()
  assert _open(path).tokenizer(tmp_path) is None
