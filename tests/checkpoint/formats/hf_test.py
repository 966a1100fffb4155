"""What may lie in a folder beside the weights, and what may be missing."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from drope_jax import trees
from drope_jax.checkpoint.formats import hf
from drope_jax.model import transformer

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folders(make_theirs, tmp_path_factory):
  """A plain, a tied and a biased Llama."""
  made = {}
  for name, settings in (
    ("plain", {}),
    ("tied", {"tie_word_embeddings": True}),
    ("biased", {"attention_bias": True}),
  ):
    made[name] = tmp_path_factory.mktemp(name)
    make_theirs("Llama", **settings).save_pretrained(made[name])
  return made


@pytest.fixture
def folder_of(folders, tmp_path):
  return lambda name: shutil.copytree(folders[name], tmp_path / name)


def _open(folder, **options):
  options = {"dtype": "keep", "allow_nonfinite": False} | options
  return hf.open_folder(folder, **options)


def _edit(folder, change):
  path = folder / "model.safetensors"
  weights = dict(safetensors.numpy.load_file(path))
  change(weights)
  safetensors.numpy.save_file(weights, path)


def _assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(a, b)


def test_shards_and_pytorch_files_hold_the_same(
  make_theirs, folders, params_of, tmp_path
):
  want = params_of(_open(folders["plain"]))
  theirs = make_theirs("Llama")
  theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
  assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
  _assert_same(params_of(_open(tmp_path / "shards")), want)
  (tmp_path / "bin").mkdir()
  shutil.copy(folders["plain"] / "config.json", tmp_path / "bin")
  torch.save(theirs.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
  _assert_same(params_of(_open(tmp_path / "bin")), want)


def test_buffers_of_old_checkpoints_are_no_weights(folder_of, params_of):
  folder = folder_of("plain")
  want = params_of(_open(folder))
  for name in (
    "model.layers.1.self_attn.rotary_emb.inv_freq",
    "model.rotary_emb.inv_freq",
    "model.layers.0.self_attn.rotary_emb.cos_cached",
  ):
    _edit(folder, lambda w, name=name: w.update({name: np.ones(4, "f4")}))
  _assert_same(params_of(_open(folder)), want)


def test_a_tied_head_may_be_written_out_if_it_is_the_embedding(folder_of):
  folder = folder_of("tied")
  table = "model.embed_tokens.weight"
  _edit(folder, lambda w: w.update({"lm_head.weight": w[table]}))
  assert "head/kernel" not in _open(folder).leaves
  _edit(folder, lambda w: w.update({"lm_head.weight": w[table] + 1}))
  with pytest.raises(ValueError, match="must be the embedding"):
    _open(folder)


def test_a_tied_head_may_stand_for_the_embedding(folder_of, params_of):
  folder = folder_of("tied")
  want = params_of(_open(folder))
  table = "model.embed_tokens.weight"
  _edit(folder, lambda w: w.update({"lm_head.weight": w.pop(table)}))
  _assert_same(params_of(_open(folder)), want)


def test_a_tied_head_may_be_of_another_dtype(folder_of, params_of):
  folder = folder_of("tied")
  want = params_of(_open(folder))
  table = "model.embed_tokens.weight"
  half = np.float16
  _edit(folder, lambda w: w.update({"lm_head.weight": w[table].astype(half)}))
  _assert_same(params_of(_open(folder)), want)
  _edit(
    folder, lambda w: w.update({"lm_head.weight": half(w[table] * half(1.01))})
  )
  with pytest.raises(ValueError, match="must be the embedding"):
    _open(folder)


def test_output_biases_must_be_zeros(folder_of):
  folder = folder_of("biased")
  assert _open(folder).config.qkv_bias
  name = "model.layers.1.self_attn.o_proj.bias"
  _edit(folder, lambda w: w.update({name: w[name] + 1}))
  with pytest.raises(ValueError, match=f"others for {name}"):
    _open(folder)
  _edit(folder, lambda w: w.pop(name))
  with pytest.raises(ValueError, match=f"none for {name}"):
    _open(folder)


def test_a_merged_tensor_that_does_not_fit_is_named(make_theirs, tmp_path):
  make_theirs("Phi3").save_pretrained(tmp_path)
  name = "model.layers.1.self_attn.qkv_proj.weight"
  assert set(_open(tmp_path).leaves) == set(
    trees.flatten(transformer.param_shapes(_open(tmp_path).config))
  )
  _edit(tmp_path, lambda w: w.update({name: w[name][1:]}))
  with pytest.raises(ValueError, match=rf"{name} must be \(64, 32\), got \(63"):
    _open(tmp_path)
  _edit(tmp_path, lambda w: w.pop(name))
  with pytest.raises(ValueError, match=f"{name} must be .* got None"):
    _open(tmp_path)


def test_an_error_names_the_folder(folder_of):
  folder = folder_of("plain")
  _edit(folder, lambda w: w.pop("lm_head.weight"))
  with pytest.raises(ValueError, match="missing lm_head.weight") as refused:
    _open(folder)
  assert str(refused.value).startswith(str(folder))


def test_files_that_are_missing(folder_of):
  folder = folder_of("plain")
  (folder / "model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"got none of model\.safet"):
    _open(folder)
  (folder / "config.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"has a config\.json"):
    _open(folder)


def test_the_tokenizer_is_found(folder_of):
  folder = folder_of("plain")
  assert _open(folder).tokenizer(folder) is None
  (folder / "tokenizer.model").write_bytes(b"")
  assert _open(folder).tokenizer(folder) == folder / "tokenizer.model"
  (folder / "tokenizer.json").write_text(json.dumps({}))
  assert _open(folder).tokenizer(folder) == folder / "tokenizer.json"
