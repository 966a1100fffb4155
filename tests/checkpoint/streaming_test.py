"""A streamed checkpoint equals Orbax's, and is written block by block."""

import itertools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store, streaming
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=64,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=32,
)
MANIFEST = manifests.Manifest(CONFIG)


@pytest.fixture
def flat():
  """Weights by path: bfloat16, except the embedding and a gain of zeros."""
  rng = np.random.default_rng(0)
  shapes = trees.flatten(transformer.param_shapes(CONFIG))
  flat = {
    path: rng.normal(size=leaf.shape).astype(jnp.bfloat16)
    for path, leaf in shapes.items()
  }
  flat["embed/table"] = flat["embed/table"].astype(np.float32)
  flat["final_norm/gain"] *= 0
  return flat


@pytest.fixture
def small_blocks(monkeypatch):
  monkeypatch.setattr(streaming, "_BLOCK_BYTES", 200)
  monkeypatch.setattr(streaming, "_WHOLE_BYTES", 40)


def _leaf(path, array, read=None):
  return streaming.Leaf(
    array.shape,
    array.dtype,
    stacked=path.startswith("layers/"),
    split_axis=array.ndim - 1,
    read=read or array.__getitem__,
  )


def _leaves(flat):
  return {path: _leaf(path, array) for path, array in flat.items()}


def test_a_streamed_checkpoint_equals_one_by_orbax(
  tmp_path, flat, small_blocks
):
  params = trees.unflatten({k: jnp.asarray(x) for k, x in flat.items()})
  store.save_model(tmp_path / "orbax", params, MANIFEST)
  store.save_streamed(tmp_path / "ours", _leaves(flat), MANIFEST)
  got, manifest = store.load_model(tmp_path / "ours")
  assert manifest == MANIFEST
  got = trees.flatten(got)
  assert got.keys() == flat.keys()
  for path, array in flat.items():
    assert got[path].dtype == array.dtype
    assert np.asarray(got[path]).tobytes() == array.tobytes()
  ours, theirs = (
    json.loads((tmp_path / name / "params" / "_METADATA").read_text())
    for name in ("ours", "orbax")
  )
  assert ours == theirs


def test_blocks_tile_an_array_and_have_a_bounded_size(small_blocks):
  for stacked, shape in itertools.product(
    (True, False), ((3, 7, 64), (2, 5, 1000), (4, 4, 4))
  ):
    for split_axis in (1, 2):
      leaf = streaming.Leaf(
        shape, np.dtype(np.float32), stacked, split_axis, lambda region: None
      )
      counts = np.zeros(shape, int)
      for region in leaf.regions():
        block = counts[region]
        block += 1
        assert not stacked or block.shape[0] == 1
        slice_bytes = block.size * 4 // block.shape[split_axis]
        assert block.size * 4 < 200 + slice_bytes
      assert (counts == 1).all()


def test_at_most_two_blocks_are_in_memory(tmp_path, flat, small_blocks):
  largest = 0

  def read_from(array):
    def read(region):
      nonlocal largest
      largest = max(largest, array[region].nbytes)
      return array[region].copy()

    return read

  leaves = {path: _leaf(path, x, read_from(x)) for path, x in flat.items()}
  store.save_streamed(tmp_path / "m", leaves, MANIFEST)
  assert 200 <= largest < 400 < max(x.nbytes for x in flat.values())


def test_an_existing_folder_is_refused_unless_it_is_a_replaced_checkpoint(
  tmp_path, flat
):
  out = tmp_path / "m"
  store.save_streamed(out, _leaves(flat), MANIFEST)
  flat["final_norm/gain"] = flat["final_norm/gain"] + 1
  with pytest.raises(ValueError, match="m exists"):
    store.save_streamed(out, _leaves(flat), MANIFEST)
  store.save_streamed(out, _leaves(flat), MANIFEST, overwrite=True)
  assert store.load_model(out)[0]["final_norm"]["gain"].mean() == 1
  (tmp_path / "mine").mkdir()
  with pytest.raises(ValueError, match="mine exists"):
    store.save_streamed(
      tmp_path / "mine", _leaves(flat), MANIFEST, overwrite=True
    )


def _killed_at_the_last_leaf(out, flat):
  leaves = _leaves(flat)
  path, array = list(flat.items())[-1]

  def read(region):
    os.kill(os.getpid(), signal.SIGKILL)

  leaves[path] = _leaf(path, array, read)
  store.save_streamed(out, leaves, MANIFEST)


def test_a_killed_save_leaves_no_checkpoint_and_can_be_repeated(tmp_path, flat):
  out = tmp_path / "m"
  process = multiprocessing.get_context("spawn").Process(
    target=_killed_at_the_last_leaf, args=(out, flat)
  )
  process.start()
  process.join()
  assert process.exitcode == -signal.SIGKILL
  assert list(tmp_path.iterdir()), "it was killed before it wrote"
  with pytest.raises(FileNotFoundError, match="interrupted"):
    store.load_model(out)
  store.save_streamed(out, _leaves(flat), MANIFEST)
  store.load_model(out)
  assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_kill_at_any_moment_of_a_replacement_leaves_a_checkpoint(
  tmp_path, flat, monkeypatch, moves
):
  out, left = tmp_path / "m", [None] * moves
  store.save_streamed(out, _leaves(flat), MANIFEST)
  kind, save = type(store.files.absolute(out)), store.files.save

  def killed_after_some(act):
    def acting(self, *arguments):
      if not left:
        raise SystemExit
      left.pop()
      return act(self, *arguments)

    return acting

  with monkeypatch.context() as patched, pytest.raises(SystemExit):

    def save_first(*arguments):
      save(*arguments)  # Orbax moves folders too.
      for name in ("rename", "rmtree"):
        patched.setattr(kind, name, killed_after_some(getattr(kind, name)))

    patched.setattr(store.files, "save", save_first)
    store.save_streamed(out, _leaves(flat), MANIFEST, overwrite=True)
  assert any(store.is_finished(path) for path in tmp_path.iterdir())
  flat["final_norm/gain"] = flat["final_norm/gain"] + 1
  store.save_streamed(out, _leaves(flat), MANIFEST, overwrite=True)
  assert [path.name for path in tmp_path.iterdir()] == ["m"]
  gain = store.load_model(out)[0]["final_norm"]["gain"]
  np.testing.assert_array_equal(gain, flat["final_norm/gain"])


def test_a_replacement_leaves_what_is_beside_it(tmp_path, flat):
  for name in ("m", "m.new", "m.replaced"):
    store.save_streamed(tmp_path / name, _leaves(flat), MANIFEST)
  store.save_streamed(tmp_path / "m", _leaves(flat), MANIFEST, overwrite=True)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["m", "m.new", "m.replaced"]


def _interrupted_at_the_last_leaf(out, flat, options):
  # A background job of a shell ignores it from the start.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  leaves = _leaves(flat)
  path, array = list(flat.items())[-1]

  def read(region):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(1.0)  # Until the main thread has handled it.
    return array[region]

  leaves[path] = _leaf(path, array, read)
  try:
    store.save_streamed(out, leaves, MANIFEST, **options)
  except KeyboardInterrupt:
    sys.exit(130)


def test_an_interrupted_save_leaves_no_files(tmp_path, flat):
  store.save_streamed(tmp_path / "m", _leaves(flat), MANIFEST)
  before = store.load_model(tmp_path / "m")[1]
  for name, options in {"m": {"overwrite": True}, "n": {}}.items():
    process = multiprocessing.get_context("spawn").Process(
      target=_interrupted_at_the_last_leaf,
      args=(tmp_path / name, flat, options),
    )
    process.start()
    process.join()
    assert process.exitcode == 130
  assert [path.name for path in tmp_path.iterdir()] == ["m"]
  assert store.load_model(tmp_path / "m")[1] == before


def test_an_error_while_reading_is_raised_unchanged(tmp_path, flat):
  def read(region):
    raise ValueError("a weight is NaN")

  leaves = _leaves(flat)
  leaves["head/kernel"] = _leaf("head/kernel", flat["head/kernel"], read)
  with pytest.raises(ValueError, match="a weight is NaN"):
    store.save_streamed(tmp_path / "m", leaves, MANIFEST)
  assert not list(tmp_path.iterdir())


def test_a_flipped_bit_is_named(tmp_path, flat):
  store.save_streamed(tmp_path / "m", _leaves(flat), MANIFEST)
  files = (tmp_path / "m" / "params" / "d").iterdir()
  file = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  with pytest.raises(ValueError, match="/m, which cannot be read"):
    store.load_model(tmp_path / "m")
