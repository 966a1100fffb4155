"""Names and shapes match exactly both ways; weights come as they are."""

import dataclasses
import itertools

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
import ml_dtypes
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.checkpoint.formats import families, leaves
from drope_jax.checkpoint.formats.tensors import Tensor, is_finite
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=20,
  num_layers=2,
  width=8,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=12,
  context_tokens=16,
  qkv_bias=True,
)
NAMES = families.FAMILIES["qwen2"].names
SHAPES = {
  path: leaf.shape
  for path, leaf in trees.flatten(transformer.param_shapes(CONFIG)).items()
}


def _tensor(array):
  return Tensor(array.shape, array.dtype, lambda a, b: array[a:b])


def _arrays():
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=leaves.source_shape(path, shape)).astype(np.float32)
    for path, shape in SHAPES.items()
    for name in leaves.source_names(CONFIG, NAMES, path)
  }


ARRAYS = _arrays()


def _build(arrays, **options):
  tensors = {name: _tensor(array) for name, array in arrays.items()}
  return leaves.build(CONFIG, NAMES, tensors, **options)


def _whole(leaf):
  return leaf.read(tuple(slice(0, size) for size in leaf.shape))


def test_kernels_are_turned_and_layers_stacked():
  built = _build(ARRAYS)
  assert {path: leaf.shape for path, leaf in built.items()} == SHAPES
  q_NMH = _whole(built["layers/attention/q/kernel"])
  for n in range(2):
    want = ARRAYS[f"model.layers.{n}.self_attn.q_proj.weight"].T
    np.testing.assert_array_equal(q_NMH[n], want)
  table_VM = ARRAYS["model.embed_tokens.weight"]
  np.testing.assert_array_equal(_whole(built["embed/table"]), table_VM)


@pytest.mark.parametrize("path", SHAPES)
def test_a_region_is_that_part_of_the_whole(path):
  leaf = _build(ARRAYS)[path]
  region = [slice(0, size) for size in leaf.shape]
  region[leaf.split_axis] = slice(1, min(3, leaf.shape[leaf.split_axis]))
  if leaf.stacked:
    region[0] = slice(1, 2)
  got = leaf.read(tuple(region))
  np.testing.assert_array_equal(got, _whole(leaf)[tuple(region)])


@hypothesis.given(
  name=st.sampled_from(sorted(ARRAYS)),
  change=st.sampled_from(("missing", "renamed", "extra", "reshaped")),
  data=st.data(),
)
def test_weights_that_do_not_match_are_refused(name, change, data):
  arrays = dict(ARRAYS)
  shape = ARRAYS[name].shape
  at = data.draw(st.integers(0, len(name)))
  other = name[:at] + data.draw(st.sampled_from("0.wx")) + name[at:]
  if change == "reshaped":
    any_shape = st_numpy.array_shapes(max_side=24) | st.just(shape[::-1])
    reshaped = data.draw(any_shape.filter(lambda drawn: drawn != shape))
    arrays[name] = np.zeros(reshaped, np.float32)
  if change in ("renamed", "extra"):
    arrays[other] = arrays[name]
  if change in ("renamed", "missing"):
    del arrays[name]
  with pytest.raises(ValueError, match="exactly those") as refused:
    _build(arrays)
  message = str(refused.value)
  assert ("missing" in message) == (change in ("renamed", "missing"))
  assert ("unexpected" in message) == (change in ("renamed", "extra"))
  assert {
    "missing": f"missing {name} {shape}",
    "renamed": f"unexpected {other} {shape}",
    "extra": f"unexpected {other} {shape}",
    "reshaped": f"{name} must be {shape}, got (",
  }[change] in message


def test_dtypes_are_kept_or_cast():
  halves = {k: v.astype(ml_dtypes.bfloat16) for k, v in ARRAYS.items()}
  kept = _build(halves)["layers/mlp/up/kernel"]
  assert (kept.dtype.name, _whole(kept).dtype.name) == ("bfloat16",) * 2
  cast = _build(ARRAYS, dtype="bfloat16")["layers/mlp/up/kernel"]
  assert _whole(cast).tobytes() == _whole(kept).tobytes()
  name = "model.layers.1.mlp.up_proj.weight"
  mixed = _build(halves | {name: ARRAYS[name]})["layers/mlp/up/kernel"]
  assert mixed.dtype == np.float32
  np.testing.assert_array_equal(_whole(mixed)[1], ARRAYS[name].T)


@pytest.mark.parametrize(
  "pair", [*itertools.permutations(["float32", "float16", "bfloat16"], 2)]
)
def test_layers_of_two_dtypes_are_kept_in_float32(pair):
  names = [f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1)]
  arrays = ARRAYS | {
    name: ARRAYS[name].astype(ml_dtypes.bfloat16).astype(dtype)
    for name, dtype in zip(names, pair, strict=True)
  }
  leaf = _build(arrays)["layers/mlp/up/kernel"]
  assert leaf.dtype == _whole(leaf).dtype == np.float32
  for layer, name in zip(_whole(leaf), names, strict=True):
    np.testing.assert_array_equal(layer, arrays[name].T.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_finite_is_refused_unless_allowed(value, dtype):
  name = "model.layers.1.mlp.up_proj.weight"
  array = ARRAYS[name].copy()
  array[3, 2] = value
  arrays = ARRAYS | {name: array}
  leaf = _build(arrays, dtype=dtype)["layers/mlp/up/kernel"]
  with pytest.raises(ValueError, match=f"infinity in {name}"):
    _whole(leaf)
  allowed = _build(arrays, dtype=dtype, allow_nonfinite=True)
  assert not np.isfinite(
    _whole(allowed["layers/mlp/up/kernel"]).astype(np.float32)
  ).all()


def test_a_cast_that_overflows_is_refused():
  name = "lm_head.weight"
  array = np.full_like(ARRAYS[name], np.finfo(np.float32).max)
  leaf = _build(ARRAYS | {name: array}, dtype="bfloat16")["head/kernel"]
  with pytest.raises(ValueError, match=f"{name} as bfloat16"):
    _whole(leaf)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_is_finite_is_numpys(name):
  dtype = np.dtype(getattr(ml_dtypes, name, name))
  largest = ml_dtypes.finfo(dtype).max
  for value in (0.0, -1.0, largest, -largest, 1e-40, np.inf, np.nan, -np.inf):
    array = np.asarray([1.0, value], dtype)
    assert is_finite(array) == np.isfinite(np.float32(value)), value


def test_a_head_of_ones_own_needs_an_untied_config():
  tied = dataclasses.replace(CONFIG, tied_embeddings=True)
  tensors = {name: _tensor(array) for name, array in ARRAYS.items()}
  with pytest.raises(ValueError, match="unexpected lm_head.weight"):
    leaves.build(tied, NAMES, tensors)
