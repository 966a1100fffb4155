"""Meta's folders, sliced here by its code's rules, are the same model."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from drope_jax.checkpoint.formats import hf, meta, meta_shards
from drope_jax.model import transformer
from tests.checkpoint.formats import rope

torch = pytest.importorskip("torch")

H, D, V = 8, 4, 64
SHAPE = {"num_attention_heads": H, "num_key_value_heads": 4}
PARAMS = {
  "dim": H * D,
  "multiple_of": 16,
  "ffn_dim_multiplier": 0.5,  # int(0.5 * 85) is 42, and up to 48.
  "n_heads": H,
  "n_kv_heads": 4,
  "n_layers": 2,
  "norm_eps": 1e-05,
  "vocab_size": V,
}
LLAMA_3_RULE = {
  "rope_type": "llama3",
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192,
}
# As each Llama's config.json and params.json, in Hugging Face's repository of
# it, have them.
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
THETA = {"rope_theta": 5e5}
PUBLISHED = {
  "1": (2048, PLAIN, {"vocab_size": -1}),
  "2": (4096, PLAIN, {"vocab_size": -1}),
  "3": (8192, PLAIN | THETA, THETA),
  "3.1": (
    131072,
    LLAMA_3_RULE | THETA | {"factor": 8.0},
    THETA | {"use_scaled_rope": True},
  ),
  "3.2": (
    131072,
    LLAMA_3_RULE | THETA | {"factor": 32.0},
    THETA | {"use_scaled_rope": True},
  ),
}
PUBLISHED["3.3"] = PUBLISHED["3.1"]

MODULES = {
  "input_layernorm": "attention_norm",
  "self_attn.q_proj": "attention.wq",
  "self_attn.k_proj": "attention.wk",
  "self_attn.v_proj": "attention.wv",
  "self_attn.o_proj": "attention.wo",
  "post_attention_layernorm": "ffn_norm",
  "mlp.gate_proj": "feed_forward.w1",
  "mlp.down_proj": "feed_forward.w2",
  "mlp.up_proj": "feed_forward.w3",
}


def _state(theirs):
  """Returns transformers' weights by Meta's names, pairs interleaved."""
  state = dict(theirs.state_dict())
  named = {
    "tok_embeddings.weight": state["model.embed_tokens.weight"],
    "norm.weight": state["model.norm.weight"],
    "output.weight": state["lm_head.weight"],
    "rope.freqs": torch.ones(D // 2),
  }
  for n in range(theirs.config.num_hidden_layers):
    for module, name in MODULES.items():
      weight = state[f"model.layers.{n}.{module}.weight"]
      if module in ("self_attn.q_proj", "self_attn.k_proj"):
        bits = weight.view(torch.int16 if weight.itemsize == 2 else torch.int32)
        rows = rope.to_interleaved(bits.numpy(), D)
        weight = torch.from_numpy(rows.copy()).view(weight.dtype)
      named[f"layers.{n}.{name}.weight"] = weight
  return named


def _slice(name, tensor, rank, count, llama):
  if tensor.ndim == 1:
    return tensor.clone()
  by_inputs = name.endswith(("wo.weight", "w2.weight"))
  if name == "tok_embeddings.weight":
    by_inputs = llama in ("1", "2")
  return tensor.chunk(count, dim=int(by_inputs))[rank].clone()


def _write(folder, theirs, llama="2", count=1, **params):
  folder.mkdir()
  state = _state(theirs)
  params = PARAMS | PUBLISHED[llama][2] | params
  (folder / "params.json").write_text(json.dumps(params))
  for rank in range(count):
    file = {
      name: _slice(name, tensor, rank, count, llama)
      for name, tensor in state.items()
    }
    torch.save(file, folder / f"consolidated.{rank:02}.pth")
  return folder


def _settings(llama, **settings):
  context, rope, _ = PUBLISHED[llama]
  return (
    SHAPE
    | {
      "max_position_embeddings": context,
      "rope_parameters": rope,
      "rms_norm_eps": 1e-5,
      "tie_word_embeddings": llama == "3.2",
    }
    | settings
  )


@pytest.fixture(scope="module")
def llama2(make_theirs):
  return make_theirs("Llama", **_settings("2"))


def _open(folder, llama="2"):
  return meta.open_folder(
    folder, llama=llama, dtype="keep", allow_nonfinite=False
  )


def _open_hf(theirs, folder):
  theirs.save_pretrained(folder)
  return hf.open_folder(folder, dtype="keep", allow_nonfinite=False)


def _assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_ranks_are_in_order_however_the_disk_lists_them(tmp_path, monkeypatch):
  for rank in range(3):
    tensor = {"x": torch.full((1,), float(rank))}
    torch.save(tensor, tmp_path / f"consolidated.{rank:02}.pth")
  listed = pathlib.Path.glob
  monkeypatch.setattr(
    pathlib.Path, "glob", lambda *args: sorted(listed(*args), reverse=True)
  )
  files = meta_shards.open_files(tmp_path)
  assert [float(file["x"].array()[0]) for file in files] == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("llama", PUBLISHED)
def test_the_same_model_as_from_hugging_face(
  llama, count, make_theirs, params_of, tmp_path
):
  theirs = make_theirs("Llama", **_settings(llama)).to(torch.bfloat16)
  want = _open_hf(theirs, tmp_path / "hf")
  got = _open(_write(tmp_path / "meta", theirs, llama, count), llama)
  assert got.config == want.config
  assert got.facts == {"format": "meta", "llama": llama, "files": count}
  _assert_same(params_of(got), params_of(want))


def test_logits_are_those_of_transformers(
  make_theirs, params_of, tokens_BS, tmp_path
):
  theirs = make_theirs("Llama", **_settings("3.1"))
  with torch.no_grad():
    want = theirs(torch.asarray(tokens_BS)).logits.numpy()
  source = _open(_write(tmp_path / "meta", theirs, "3.1", 2), "3.1")
  forward = jax.jit(transformer.forward, static_argnums=0)
  got = np.asarray(forward(source.config, params_of(source), tokens_BS))
  assert 0.3 < np.std(want) < 3, "logits are not of order one"
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_old_files_leave_out_what_has_a_default(
  make_theirs, params_of, tmp_path
):
  """Multi-head attention and a plain MLP width: int(8 * 32 / 3) is 85."""
  settings = _settings("1", num_key_value_heads=H, intermediate_size=96)
  theirs = make_theirs("Llama", **settings)
  folder = _write(tmp_path / "meta", theirs, "1", 2)
  params = json.loads((folder / "params.json").read_text())
  for name in ("n_kv_heads", "ffn_dim_multiplier", "vocab_size"):
    del params[name]
  (folder / "params.json").write_text(json.dumps(params))
  want, got = _open_hf(theirs, tmp_path / "hf"), _open(folder, "1")
  assert got.config == want.config
  _assert_same(params_of(got), params_of(want))


def test_a_part_is_read_from_the_files_that_hold_it(llama2, tmp_path):
  leaves = _open(_write(tmp_path / "meta", llama2, count=4)).leaves
  for path, leaf in leaves.items():
    whole = leaf.read(tuple(slice(0, size) for size in leaf.shape))
    for part in (slice(0, 1), slice(3, 5), slice(3, 14), slice(4, 8)):
      region = [slice(0, size) for size in leaf.shape]
      region[leaf.split_axis] = part
      got = leaf.read(tuple(region))
      np.testing.assert_array_equal(got, whole[tuple(region)], err_msg=path)


def _edit(folder, rank, change):
  path = folder / f"consolidated.{rank:02}.pth"
  weights = torch.load(path)
  change(weights)
  torch.save(weights, path)


def _set(**fields):
  def spoil(folder):
    path = folder / "params.json"
    params = json.loads(path.read_text()) | fields
    kept = {k: x for k, x in params.items() if x is not ...}
    path.write_text(json.dumps(kept))

  return spoil


def _lose(rank):
  return lambda folder: (folder / f"consolidated.{rank:02}.pth").unlink()


def _truncate(folder):
  path = folder / "consolidated.02.pth"
  os.truncate(path, path.stat().st_size - 100)


def _no_json(folder):
  (folder / "params.json").write_text("dim: 32")


def _change(rank, name, change):
  def spoil(folder):
    def apply(weights):
      weights[name] = change(weights[name])

    _edit(folder, rank, apply)

  return spoil


def _remove(name):
  def spoil(folder):
    for rank in range(4):
      _edit(folder, rank, lambda weights: weights.pop(name))

  return spoil


WK = "layers.1.attention.wk.weight"


@pytest.mark.parametrize(
  ("spoil", "says"),
  [
    (_no_json, "must be JSON"),
    (_set(dim=...), "dim must be a whole number.*got none"),
    (_set(n_layers="2"), "n_layers must be a whole number.*got '2'"),
    (_set(norm_eps=...), "norm_eps must be a number.*got none"),
    (_set(multiple_of=...), "multiple_of must be a whole number.*got none"),
    (_set(moe_args={}, lora_args={}), "got lora_args, moe_args"),
    (_set(vision_chunk_size=448), "got vision_chunk_size"),
    (_set(vocab_size=V + 1), "vocab_size must be the embedding's 64 rows"),
    (_set(rope_theta=1e6), "Llama 2 must have rope_theta: 10000.0, got 1000"),
    (_set(use_scaled_rope=True), "use_scaled_rope: False, got True"),
    (_set(dim=64), "must make up a width of 64, got 4 of 8 rows"),
    (_set(n_heads=6), "num_kv_heads must divide num_heads"),
    (_set(n_layers=3), "missing layers.2.attention.wk.weight"),
    (_set(multiple_of=64), r"w1.weight must be \(64, 32\), got \(48, 32\)"),
    # As where a head that is shared by two files lies in both.
    (_set(n_kv_heads=2), r"wk.weight must be \(8, 32\), got \(16, 32\)"),
    (_lose(1), "got no consolidated.01.pth"),
    (_lose(3), "must make up a width of 32, got 3 of 8 rows"),
    (_truncate, "consolidated.02.pth must be a dictionary of tensors"),
    (_change(2, WK, lambda x: x[:2].clone()), f"slices of {WK} must be alike"),
    (_change(2, WK, lambda x: x.half()), f"slices of {WK} must be alike"),
    (lambda folder: _edit(folder, 1, lambda x: x.pop(WK)), f"got {WK} in some"),
    (_remove(WK), f"missing {WK}"),
    (_remove("output.weight"), "no output.weight"),
    (_remove("tok_embeddings.weight"), "no tok_embeddings.weight"),
  ],
)
def test_what_is_not_exact_is_refused(llama2, tmp_path, spoil, says):
  folder = _write(tmp_path / "meta", llama2, count=4)
  _open(folder)
  spoil(folder)
  with pytest.raises((ValueError, FileNotFoundError), match=says) as refused:
    _open(folder)
  message = str(refused.value)
  assert str(folder) in message and "\n" not in message


@pytest.mark.parametrize("name", ["norm.weight", "layers.1.ffn_norm.weight"])
def test_copies_that_differ_are_refused(llama2, params_of, tmp_path, name):
  folder = _write(tmp_path / "meta", llama2, count=4)
  params_of(_open(folder))
  _edit(folder, 3, lambda weights: weights[name][5:6].add_(1))
  with pytest.raises(ValueError, match=f"{name} must be the same in every"):
    params_of(_open(folder))


@pytest.mark.parametrize(
  ("is_llama", "named", "says"),
  [
    ("2", None, "must be said to be Llama 1, 2, 3, 3.1, 3.2, 3.3, .* got None"),
    ("2", "3", "Llama 3 must have rope_theta: 500000.0, got 10000.0"),
    ("3", "2", "Llama 2 must have rope_theta"),
    ("3", "3.1", "Llama 3.1 must have use_scaled_rope: True, got False"),
    ("3.1", "3", "Llama 3 must have use_scaled_rope: False, got True"),
    ("3.1", "3.2", "Llama 3.2 must have a head that is its embedding: True"),
    ("3.2", "3.1", "Llama 3.1 must have a head that is its embedding: False"),
  ],
)
def test_another_llama_is_told_apart(
  make_theirs, tmp_path, is_llama, named, says
):
  theirs = make_theirs("Llama", **_settings(is_llama))
  folder = _write(tmp_path / "meta", theirs, is_llama)
  _open(folder, is_llama)
  with pytest.raises(ValueError, match=says):
    _open(folder, named)


def test_the_tokenizer_is_the_llamas(make_theirs, llama2, tmp_path):
  folder = _write(tmp_path / "2", llama2)
  assert _open(folder).tokenizer(folder) is None
  model = folder / "tokenizer.model"
  model.touch()
  assert _open(folder).tokenizer(folder) == model
  llama3 = make_theirs("Llama", **_settings("3"))
  shutil.move(model, _write(tmp_path / "3", llama3, "3"))
  with pytest.raises(ValueError, match="must rank every byte"):
    _open(tmp_path / "3", "3").tokenizer(tmp_path)
