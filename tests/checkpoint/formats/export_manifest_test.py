"""An export's files come back as they were written, or are refused."""

import json

import pytest

from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint.formats import export_manifest
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=8,
  num_layers=1,
  width=8,
  num_heads=1,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=8,
  context_tokens=8,
)
MANIFEST = manifests.Manifest(
  CONFIG, manifests.TokenizerRef("tokenizer.json", "0" * 64, 8)
)
FILES = ("config.json", "model.safetensors", "templates/tool.jinja")


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "templates").mkdir()
  for name in (*FILES, export_manifest.README, "tokenizer.json"):
    (tmp_path / name).write_bytes(name.encode() * 100)
  export_manifest.write(tmp_path, MANIFEST)
  return tmp_path


def test_what_was_written_is_read(folder):
  assert export_manifest.read(folder) == MANIFEST
  (folder / export_manifest.FILENAME).unlink()
  assert export_manifest.read(folder) is None


@pytest.mark.parametrize("name", [*FILES, "tokenizer.json"])
def test_a_flipped_bit_or_a_missing_file_is_named(folder, name):
  path = folder / name
  content = bytearray(path.read_bytes())
  content[50] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f"got {name} in .*missing or changed"):
    export_manifest.read(folder)
  path.unlink()
  with pytest.raises(ValueError, match=f"got {name} in .*missing or changed"):
    export_manifest.read(folder)


def test_there_is_a_way_on_after_a_change_on_purpose(folder):
  (folder / export_manifest.README).write_text("edited")
  assert export_manifest.read(folder) == MANIFEST
  (folder / "config.json").write_text("edited")
  with pytest.raises(ValueError, match="their lines under 'sha256' there"):
    export_manifest.read(folder)
  path = folder / export_manifest.FILENAME
  data = json.loads(path.read_text())
  del data["sha256"]["config.json"]
  path.write_text(json.dumps(data))
  assert export_manifest.read(folder) == MANIFEST


def test_an_export_without_hashes_has_its_tokenizers(folder):
  path = folder / export_manifest.FILENAME
  path.write_text(json.dumps(MANIFEST.to_json()))
  with pytest.raises(ValueError, match=r"got tokenizer\.json in"):
    export_manifest.read(folder)


@pytest.mark.parametrize(
  "change", [{"sha256": 5}, {"sha256": ["config.json"]}, {"model": 5}, {"x": 1}]
)
def test_a_manifest_of_another_kind_is_refused(folder, change):
  path = folder / export_manifest.FILENAME
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match="Remove it to do without its lineage"):
    export_manifest.read(folder)
