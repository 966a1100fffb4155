"""A GGUF header is what the library wrote, and is read within bounds."""

import struct

import numpy as np
import pytest

from drope_jax.checkpoint.formats import gguf_header

gguf = pytest.importorskip("gguf")


@pytest.fixture
def path(tmp_path):
  return tmp_path / "model.gguf"


def _write(path, alignment=None):
  """Writes a field of every type, and tensors of three kinds."""
  writer = gguf.GGUFWriter(path, "llama")
  if alignment:
    writer.add_custom_alignment(alignment)
  for name, value in SCALARS.items():
    getattr(writer, f"add_{name}")(name, value)
  for name, value in LISTS.items():
    writer.add_array(name, value)
  weights = np.arange(192, dtype=np.float32).reshape(3, 64)
  writer.add_tensor("f32", weights[:2, :3].copy())
  writer.add_tensor("f16", weights[0].astype(np.float16))
  kind = gguf.GGMLQuantizationType.Q8_0
  packed = gguf.quants.quantize(weights, kind)
  writer.add_tensor("q8", packed, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return {"f32": weights[:2, :3], "f16": np.float16(weights[0]), "q8": packed}


SCALARS = {
  "uint8": 200, "int8": -3, "uint16": 60_000, "int16": -300, "uint32": 2**31,
  "int32": -(2**31), "float32": 0.5, "bool": True, "uint64": 2**63,
  "int64": -(2**62), "float64": 0.1, "string": "漢 ",
}  # fmt: skip
LISTS = {
  "numbers": [1, -2, 3],
  "floats": [0.5, -0.25],
  "flags": [True, False],
  "texts": ["", "a", "naïve"],
}


@pytest.mark.parametrize("alignment", [None, 8])
def test_it_is_what_the_library_wrote(path, alignment):
  written = _write(path, alignment)
  header = gguf_header.read(path)
  for name, value in (SCALARS | LISTS).items():
    got = header.fields[name]
    assert (got, type(got)) == (value, type(value))
  assert header.fields["general.architecture"] == "llama"
  data = path.read_bytes()
  assert header.tensors.keys() == written.keys()
  for name, info in header.tensors.items():
    want = written[name].tobytes()
    assert data[info.offset : info.offset + len(want)] == want
    assert np.prod(info.shape_in_bytes) == len(want)
  assert header.tensors["q8"].shape == (3, 64)
  assert header.tensors["f32"].shape == (2, 3)
  assert header.tensors["q8"].kind.name == "Q8_0"


@pytest.mark.parametrize("cut", [3, 20, 100, -32])
def test_a_truncated_file_is_refused(path, cut):
  _write(path)
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(ValueError, match="must be a whole GGUF file, got"):
    gguf_header.read(path)


def _header(tensors=0, fields=0, rest=b"", version=3):
  return struct.pack("<4sIQQ", b"GGUF", version, tensors, fields) + rest


def _key(*kinds):
  return struct.pack("<Q1s", 1, b"k") + struct.pack("<I", *kinds)


def _listed(kind, count, rest=b""):
  return _header(
    fields=1, rest=_key(9) + struct.pack("<IQ", kind, count) + rest
  )


def _tensor(*axes, kind=0, offset=0):
  info = struct.pack(
    f"<Q1sI{len(axes)}QIQ", 1, b"t", len(axes), *axes, kind, offset
  )
  return _header(tensors=1, rest=info + bytes(64))


UINT8, TEXT, LIST = 0, 8, 9


@pytest.mark.parametrize(
  ("data", "says"),
  [
    (b"", "up to byte 4"),
    (b"GGML" + bytes(40), "other bytes than GGUF"),
    (_header(version=1), "version 1,"),
    (_header(version=3 << 24), "version 50331648"),  # Of big-endian files.
    (_header(fields=2**40), "up to byte"),
    (_header(tensors=2**63), "up to byte"),
    (_header(fields=1, rest=_key(TEXT) + struct.pack("<Q", 2**62)), "up to"),
    (_header(fields=1, rest=_key(99)), "k of an unknown type 99"),
    (_header(fields=2, rest=(_key(UINT8) + b"1") * 2), "k twice"),
    (
      _header(fields=1, rest=_key(TEXT) + struct.pack("<Q1s", 1, b"\xff")),
      "utf",
    ),
    (_listed(UINT8, 2**40, bytes(1000)), "up to byte 1099511627"),
    (_listed(TEXT, 2**60, bytes(800)), "up to byte"),
    (_listed(LIST, 1), "k, a list of an unknown type 9"),
    (_tensor(), "t of 0 axes"),
    (_tensor(*[1] * 5), "t of 5 axes"),
    (_tensor(2**40), "t reaches up to byte 4398"),
    (_tensor(2**63, 2**63), "t reaches up to byte"),
    (_tensor(8, offset=2**63), "t reaches up to byte"),
    (_tensor(8, kind=8), "not a multiple of Q8_0 block size"),
    (_tensor(8, kind=77), "77 is not a valid GGMLQuantizationType"),
  ],
)
def test_a_file_that_claims_what_it_does_not_hold_is_refused(path, data, says):
  path.write_bytes(data)
  with pytest.raises(ValueError, match="must be a whole GGUF file") as refused:
    gguf_header.read(path)
  assert says in str(refused.value)


def test_a_header_beyond_the_limit_is_refused(path, monkeypatch):
  path.write_bytes(_listed(UINT8, 1000, bytes(1000)))
  assert gguf_header.read(path).fields["k"] == [0] * 1000
  monkeypatch.setattr(gguf_header, "MOST_BYTES", 1000)
  with pytest.raises(ValueError, match="a header up to byte"):
    gguf_header.read(path)
