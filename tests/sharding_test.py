"""Every array has one known sharding, or is refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from drope_jax import sharding, trees
from drope_jax.model import transformer
from drope_jax.model.config import LayerGroup, ModelConfig
from drope_jax.positional import LearnedAbsolute
from drope_jax.train import optimizer

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_width=24,
  context_tokens=8,
)
VARIANTS = {
  "plain": {},
  "tied": {"tied_embeddings": True},
  "biased": {"qkv_bias": True},
  "joint norms": {"qk_norm": "qk"},
  "head norms": {"qk_norm": "qk", "qk_norm_scope": "head", "qkv_bias": True},
  "positions": {"positional": LearnedAbsolute(8)},
  "q norm": {"qk_norm": "q"},
  "norms before and after": {"norm_placement": "both"},
  "LayerNorms": {"norm_kind": "layer", "o_bias": True, "mlp_bias": True},
  "groups": {"layer_groups": (LayerGroup(1), LayerGroup(1, mlp_width=16))},
}


def _mesh(**axes):
  config = sharding.MeshConfig(**{"fsdp": 1} | axes)
  sizes = dataclasses.astuple(config)
  return sharding.make_mesh(config, jax.devices()[: int(np.prod(sizes))])


@dataclasses.dataclass(frozen=True)
class _Device:
  """A device of a slice, with what a mesh needs of it."""

  id: int
  slice_index: int
  process_index: int = 0
  platform: str = "cpu"
  device_kind: str = "cpu"


@pytest.fixture(scope="module")
def shapes():
  return transformer.param_shapes(CONFIG)


def test_every_parameter_of_every_model_has_a_place():
  for changes in VARIANTS.values():
    config = dataclasses.replace(CONFIG, **changes)
    for path, leaf in trees.flatten(transformer.param_shapes(config)).items():
      spec = sharding.param_spec(path)
      assert len(spec) in (0, len(leaf.shape)), path
      if path.startswith("layers") and path.endswith("kernel"):
        # Each factor is split as the kernel on the axis that they share.
        a, b = (path.replace("kernel", name) for name in ("lora_a", "lora_b"))
        assert sharding.param_spec(a) == P(*spec[:2], None)
        assert sharding.param_spec(b) == P(spec[0], None, spec[2])
      # Layers are never split: the scan takes them one by one.
      assert not path.startswith("layers") or spec in (P(), P(None, *spec[1:]))


def test_large_parameters_are_split_over_every_parameter_axis(shapes):
  mesh = _mesh(data=2, fsdp=2, tensor=2)
  where = trees.flatten(sharding.param_shardings(mesh, shapes))
  flat = trees.flatten(shapes)
  assert where.keys() == flat.keys()
  for path, leaf in flat.items():
    part = np.prod(where[path].shard_shape(leaf.shape))
    assert part == leaf.size // (1 if path.endswith("gain") else 4), path


@pytest.mark.parametrize("axis,size", [("fsdp", 3), ("tensor", 5)])
def test_an_uneven_split_is_refused(shapes, axis, size):
  message = r"split evenly.*got \S+ of shape \(.*Change MeshConfig"
  with pytest.raises(ValueError, match=message):
    sharding.param_shardings(_mesh(**{axis: size}), shapes)


@pytest.mark.parametrize("chosen", [optimizer.AdamW(), optimizer.Muon()])
def test_moments_have_their_parameters_shardings(shapes, chosen):
  mesh = _mesh(fsdp=2, tensor=2)
  state = jax.eval_shape(chosen.transform().init, shapes)
  where = sharding.like_params(mesh, state, shapes)
  by_path = trees.flatten(sharding.param_shardings(mesh, shapes))
  flat, _ = jax.tree_util.tree_flatten_with_path(state)
  placed, moments = jax.tree.leaves(where), dict.fromkeys(by_path, 0)
  for (key_path, leaf), got in zip(flat, placed, strict=True):
    names = [k.key for k in key_path if hasattr(k, "key")]
    paths = ["/".join(names[i:]) for i in range(len(names))]
    path = next((p for p in paths if p in by_path), None)
    if path is None:
      assert leaf.ndim <= 1 and got.is_fully_replicated
    else:
      assert got == by_path[path]
      moments[path] += 1
  adam = isinstance(chosen, optimizer.AdamW)
  for path, count in moments.items():
    # Muon keeps one moment of a layer's kernel, Adam two of each array.
    kernel = path.startswith("layers") and path.endswith("kernel")
    assert count == (2 if adam or not kernel else 1), path


def test_large_state_of_another_shape_is_refused(shapes):
  state = {"cache": {"table": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
  with pytest.raises(ValueError, match=r"got cache/table of shape \(2, 3\)"):
    sharding.like_params(_mesh(), state, shapes)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_abstract_leaves_keep_their_dtypes_unless_one_is_given(shapes, dtype):
  where = sharding.param_shardings(_mesh(fsdp=2), shapes)
  found = trees.flatten(sharding.abstract(shapes, where, dtype))
  for path, leaf in trees.flatten(shapes).items():
    assert found[path].shape == leaf.shape
    assert found[path].dtype == jnp.dtype(dtype or leaf.dtype)
    assert found[path].sharding == trees.flatten(where)[path]


def test_an_axis_of_minus_one_takes_the_remaining_devices():
  assert sharding.MeshConfig().shape(8) == (1, 8, 1, 1)
  assert sharding.MeshConfig(data=-1, fsdp=2).shape(8) == (4, 2, 1, 1)
  assert sharding.MeshConfig(2, 2, 1, 2).shape(8) == (2, 2, 1, 2)
  assert sharding.MeshConfig().shape(1) == (1, 1, 1, 1)
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=2))
  assert mesh.shape == {"data": 1, "fsdp": 4, "tensor": 2, "context": 1}


@pytest.mark.parametrize(
  "config,devices",
  [
    (sharding.MeshConfig(fsdp=1), 8),
    (sharding.MeshConfig(tensor=3), 8),
    (sharding.MeshConfig(tensor=16), 8),
    (sharding.MeshConfig(fsdp=16), 8),
  ],
)
def test_a_mesh_that_does_not_use_all_devices_is_refused(config, devices):
  with pytest.raises(ValueError, match="all 8 devices, got"):
    config.shape(devices)


@pytest.mark.parametrize(
  "axes", [{"data": -1}, {"tensor": 0}, {"context": -2}, {"slices": -1}]
)
def test_invalid_mesh_sizes_are_refused(axes):
  with pytest.raises(
    ValueError, match="at least 1, or -1 for at most one axis"
  ):
    sharding.MeshConfig(**axes)


@pytest.mark.parametrize(
  "name,shape",
  [
    ("fsdp", (1, 8, 1, 1)),
    ("fsdp_tp", (1, 2, 4, 1)),
    ("long", (1, 2, 1, 4)),
  ],
)
def test_a_preset_is_a_layout_by_name(name, shape):
  assert tuple(sharding.make_mesh(name).shape.values()) == shape
  assert sharding.layout(sharding.PRESETS[name]) is sharding.PRESETS[name]


def test_the_single_preset_is_one_device():
  mesh = sharding.make_mesh("single", jax.devices()[:1])
  assert mesh.shape == dict.fromkeys(sharding.AXES, 1)
  with pytest.raises(ValueError, match="all 8 devices, got"):
    sharding.make_mesh("single")


def test_the_error_for_an_unknown_preset_lists_them():
  message = "one of single, fsdp, fsdp_tp, long, got 'fdsp'. Name one"
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh("fdsp")


def test_only_the_data_axis_crosses_slices():
  # Slices alternate in the order of device ids.
  devices = [_Device(id=i, slice_index=i % 2) for i in range(16)]
  config = sharding.MeshConfig(data=2, fsdp=-1, tensor=2, slices=2)
  assert config.shape(16) == (4, 2, 2, 1)
  mesh = sharding.make_mesh(config, devices)
  assert mesh.shape == {"data": 4, "fsdp": 2, "tensor": 2, "context": 1}
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert {*slices[:2].flat} == {0} and {*slices[2:].flat} == {1}
  assert {device.id for device in mesh.devices.flat} == {*range(16)}


@pytest.mark.parametrize("slices,of", [(1, 2), (2, 1), (4, 2)])
def test_a_mesh_with_another_number_of_slices_is_refused(slices, of):
  devices = [_Device(id=i, slice_index=i % of) for i in range(8)]
  message = f"got {slices} for devices of {of}. Set it to {of}"
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(sharding.MeshConfig(slices=slices), devices)
  with pytest.raises(ValueError, match="got 2 for devices of 1. Set it to 1"):
    sharding.make_mesh(sharding.MeshConfig(slices=2))


def test_an_uneven_batch_is_refused():
  mesh = _mesh(data=2, fsdp=2, context=2)
  sharding.require_even_batch(mesh, 4, 8)
  for batch_size, context_tokens in ((6, 8), (4, 7)):
    with pytest.raises(ValueError, match="evenly.*got a microbatch of shape"):
      sharding.require_even_batch(mesh, batch_size, context_tokens)


def test_the_smallest_even_batch_has_a_row_for_each_part():
  mesh = _mesh(data=2, fsdp=2, context=2)
  rows = sharding.row_shards(mesh)
  sharding.require_even_batch(mesh, rows, 8)
  for fewer in range(1, rows):
    with pytest.raises(ValueError, match="evenly"):
      sharding.require_even_batch(mesh, fewer, 8)
  assert sharding.row_shards(None) == 1


def test_a_batch_is_split_by_rows_and_context():
  mesh = _mesh(data=2, fsdp=2, context=2)
  tokens_BS = np.arange(32, dtype=np.int32).reshape(4, 8)
  got_BS = sharding.put_batch(mesh, {"inputs_BS": tokens_BS})["inputs_BS"]
  np.testing.assert_array_equal(got_BS, tokens_BS)
  assert got_BS.dtype == np.int32
  parts = sorted(got_BS.addressable_shards, key=lambda part: part.device.id)
  assert [part.data.shape for part in parts] == [(1, 4)] * 8
  # Devices count through data, fsdp, tensor, context, the last fastest.
  np.testing.assert_array_equal(parts[3].data, tokens_BS[1:2, 4:])


def _part(process, mesh, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: process)
  return sharding.process_part(mesh)


@pytest.mark.parametrize(
  "axes,parts",
  [
    ({"fsdp": -1}, [0, 1, 2, 3]),
    ({"tensor": 2}, [0, 1, 2, 3]),
    ({"tensor": 4}, [0, 0, 1, 1]),
    ({"data": 2, "fsdp": 1, "context": 4}, [0, 0, 1, 1]),
    ({"tensor": 4, "context": 2}, [0, 0, 0, 0]),
  ],
)
def test_processes_that_share_rows_hold_the_same_part(axes, parts, monkeypatch):
  devices = [
    _Device(id=i, slice_index=0, process_index=i // 2) for i in range(8)
  ]
  mesh = sharding.make_mesh(sharding.MeshConfig(**axes), devices)
  got = [_part(process, mesh, monkeypatch) for process in range(4)]
  assert got == [(part, max(parts) + 1) for part in parts]


def test_processes_that_share_rows_in_part_are_refused():
  devices = [
    _Device(id=i, slice_index=0, process_index=i // 3) for i in range(6)
  ]
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=2), devices)
  with pytest.raises(
    ValueError, match="equal parts of a batch, got.*2 process"
  ):
    sharding.process_part(mesh)
