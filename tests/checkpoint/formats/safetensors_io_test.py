"""safetensors and PyTorch files hold what those libraries wrote, or raise."""

import json
import os
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from drope_jax.checkpoint.formats import safetensors_io, torch_file

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402 (needs torch)


@pytest.fixture
def weights():
  rng = np.random.default_rng(0)
  dtypes = {"a": torch.float32, "b": torch.bfloat16, "c": torch.float16}
  shapes = {"a": (7, 3), "b": (4, 5), "c": (6,)}
  return {
    name: torch.asarray(rng.normal(size=shapes[name])).to(dtype)
    for name, dtype in dtypes.items()
  }


def _assert_same(tensors, weights):
  assert tensors.keys() == weights.keys()
  for name, weight in weights.items():
    tensor = tensors[name]
    want = weight.contiguous().view(torch.uint8).numpy().tobytes()
    assert tensor.shape == tuple(weight.shape)
    assert tensor.dtype.name == str(weight.dtype).removeprefix("torch.")
    assert tensor.array().tobytes() == want
    bytes_a_row = len(want) // len(weight)
    got = tensor.rows(1, 3).tobytes()
    assert got == want[bytes_a_row : 3 * bytes_a_row]


def test_one_file(tmp_path, weights):
  path = tmp_path / "model.safetensors"
  save_file(weights, path, metadata={"format": "pt"})
  _assert_same(safetensors_io.open_file(path), weights)


@pytest.mark.parametrize("more", range(8))
def test_tensors_begin_at_multiples_of_eight_bytes(tmp_path, more):
  array = np.arange(3, dtype=np.float32)
  entry = safetensors_io.Entry("a" * (1 + more), array.shape, array.dtype)
  safetensors_io.write(tmp_path, [entry], [array])
  file = (tmp_path / safetensors_io.SINGLE).read_bytes()
  begins = 8 + int.from_bytes(file[:8], "little")
  assert begins % 8 == 0
  assert file[begins:] == array.tobytes()


def _write_shards(folder, weights):
  weight_map = {}
  for name, weight in weights.items():
    save_file({name: weight}, folder / f"{name}.safetensors")
    weight_map[name] = f"{name}.safetensors"
  index = folder / safetensors_io.INDEX
  index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
  return index


def test_shards(tmp_path, weights):
  index = _write_shards(tmp_path, weights)
  _assert_same(safetensors_io.open_shards(index), weights)


def test_shards_that_are_missing_or_disagree(tmp_path, weights):
  index = _write_shards(tmp_path, weights)
  (tmp_path / "b.safetensors").rename(tmp_path / "x.safetensors")
  with pytest.raises(FileNotFoundError, match=r"got no b\.safetensors"):
    safetensors_io.open_shards(index)
  (tmp_path / "x.safetensors").replace(tmp_path / "b.safetensors")
  save_file({"z": weights["b"]}, tmp_path / "b.safetensors")
  with pytest.raises(ValueError, match="difference in b, z"):
    safetensors_io.open_shards(index)
  index.write_text('{"weights": 1}')
  with pytest.raises(ValueError, match="weight_map"):
    safetensors_io.open_shards(index)


@pytest.mark.parametrize("kept", [4, 30, -10])
def test_a_truncated_file(tmp_path, weights, kept):
  path = tmp_path / "model.safetensors"
  save_file(weights, path)
  size = path.stat().st_size
  os.truncate(path, kept if kept > 0 else size + kept)
  with pytest.raises(ValueError, match="must be a whole safetensors file"):
    safetensors_io.open_file(path)


def test_another_dtype(tmp_path):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(3, np.int8)}, path)
  with pytest.raises(ValueError, match="got I8 for a"):
    safetensors_io.open_file(path)


def test_a_pytorch_file(tmp_path, weights):
  whole = torch.arange(20.0).reshape(5, 4)
  weights |= {"view": whole[1:4], "parameter": torch.nn.Parameter(whole)}
  path = tmp_path / "pytorch_model.bin"
  torch.save(weights, path)
  with torch.no_grad():
    _assert_same(torch_file.open_file(path), weights)


@pytest.mark.parametrize(
  ("saved", "named"),
  [
    ({"a": torch.zeros(3, 2).T}, "strides"),
    ({"a": torch.zeros(2, dtype=torch.int8)}, "got int8 for a"),
    ({"a": np.zeros(2)}, "which is no tensor"),
    ([torch.zeros(2)], "other than a dictionary"),
  ],
)
def test_a_pytorch_file_of_something_else(tmp_path, saved, named):
  path = tmp_path / "pytorch_model.bin"
  torch.save(saved, path)
  with pytest.raises(ValueError, match=named):
    torch_file.open_file(path)


def test_a_pytorch_file_runs_no_code(tmp_path):
  class Evil:
    def __reduce__(self):
      return os.system, ("false",)

  path = tmp_path / "pytorch_model.bin"
  torch.save({"a": Evil()}, path)
  with pytest.raises(ValueError, match="system, which is no tensor"):
    torch_file.open_file(path)


def test_a_truncated_pytorch_file(tmp_path, weights):
  path = tmp_path / "pytorch_model.bin"
  torch.save(weights, path)
  os.truncate(path, path.stat().st_size - 100)
  with pytest.raises(ValueError, match=r"saved by PyTorch 1\.6"):
    torch_file.open_file(path)


@pytest.mark.parametrize("shard", ["/etc/passwd", "../b.safetensors", "", 7])
def test_a_shard_outside_the_folder_is_not_read(tmp_path, weights, shard):
  index = _write_shards(tmp_path, weights)
  index.write_text(json.dumps({"weight_map": {"b": shard}}))
  with pytest.raises(ValueError, match="a file in the folder of.*for b"):
    safetensors_io.open_shards(index)


@pytest.mark.parametrize("weight_map", [7, None, ["b"]])
def test_an_index_without_a_map_is_refused(tmp_path, weights, weight_map):
  index = _write_shards(tmp_path, weights)
  index.write_text(json.dumps({"weight_map": weight_map}))
  with pytest.raises(ValueError, match="must have a weight_map.*got"):
    safetensors_io.open_shards(index)


def test_a_link_to_a_shard_is_followed(tmp_path, weights):
  folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
  folder.mkdir()
  blobs.mkdir()
  index = _write_shards(folder, weights)
  (folder / "b.safetensors").rename(blobs / "0a1b")
  (folder / "b.safetensors").symlink_to("../blobs/0a1b")
  assert safetensors_io.open_shards(index).keys() == weights.keys()


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_weights_without_a_size_are_refused(tmp_path, shape):
  path = tmp_path / "model.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(shape, np.float32)}, path)
  with pytest.raises(ValueError, match=r"axes, each of at least 1.*for a in"):
    safetensors_io.open_file(path)
  torch.save({"a": torch.zeros(shape)}, tmp_path / "pytorch_model.bin")
  with pytest.raises(ValueError, match=r"axes, each of at least 1.*for a in"):
    torch_file.open_file(tmp_path / "pytorch_model.bin")


def _rewrite(path, change):
  """Writes an archive anew, with what `change` makes of its entries."""
  with zipfile.ZipFile(path) as archive:
    entries = {name: archive.read(name) for name in archive.namelist()}
  change(entries)
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in entries.items():
      deflated = name.endswith("data.pkl")
      kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
      archive.writestr(name, data, kind)


def _pickled(data):
  return lambda entries: entries.update({"pytorch_model/data.pkl": data})


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda entries: entries.pop("pytorch_model/data/0"), "got 0 bytes of 16"),
    (lambda entries: entries.pop("pytorch_model/data.pkl"), "0 data.pkl"),
    (_pickled(b"]" * (torch_file.MOST_PICKLE_BYTES + 1)), "beyond 8388608"),
    # Python allots a memo of that many places.
    (_pickled(b"}r\xff\xff\xff\x7f."), "a memo of 2147483647"),
    (_pickled(b"\x80\x02]K\x01a"), "got"),
    (_pickled(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR."), "got"),
    (_pickled(b"(" * 5000), "got"),
  ],
)
def test_a_damaged_pytorch_file(tmp_path, change, says):
  path = tmp_path / "pytorch_model.bin"
  torch.save({"a": torch.ones(4)}, path)
  _rewrite(path, change)
  with pytest.raises(ValueError, match=says):
    torch_file.open_file(path)
