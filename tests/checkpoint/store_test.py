"""Checkpoints load bit for bit, or not at all."""

import dataclasses
import hashlib
import logging
import os
import pathlib
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp
import pytest
import tensorstore as ts

from drope_jax import trees
from drope_jax.checkpoint import files, runs, store, streaming, tokenizer_file
from drope_jax.checkpoint import manifest as manifests
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
CONTENT = b"not really a tokenizer"
TOKENIZER = manifests.TokenizerRef(
  "t.model", hashlib.sha256(CONTENT).hexdigest(), 60
)
MANIFEST = manifests.Manifest(CONFIG, TOKENIZER)
BARE = manifests.Manifest(CONFIG)


def _random(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes
  )


@pytest.fixture(scope="module")
def params():
  """Float32 weights, except one kernel in bfloat16."""
  params = _random(transformer.param_shapes(CONFIG))
  mlp = params["layers"]["mlp"]
  mlp["up"]["kernel"] = mlp["up"]["kernel"].astype(jnp.bfloat16)
  return params


@pytest.fixture
def tokenizer(tmp_path):
  path = tmp_path / "somewhere" / TOKENIZER.filename
  path.parent.mkdir()
  path.write_bytes(CONTENT)
  return path


def _assert_same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype
    # Bytes, as -0.0 == 0.0 and nan != nan.
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _state(params, step):
  """A training state with optax's nested and empty tuples in it."""
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  state = {
    "step": jnp.int32(0),
    "params": params,
    "opt_state": optimizer.init(params),
  }
  return jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), state)


def test_a_model_is_loaded_bit_for_bit(tmp_path, params, tokenizer):
  store.save_model(tmp_path / "m", params, MANIFEST, tokenizer)
  got, manifest = store.load_model(tmp_path / "m")
  _assert_same(got, params)
  assert {x.dtype.name for x in jax.tree.leaves(got)} == {"float32", "bfloat16"}
  assert manifest == MANIFEST
  copy = store.tokenizer_path(tmp_path / "m")
  assert tmp_path / "m" in pathlib.Path(copy).parents
  assert copy.read_bytes() == CONTENT


def test_each_array_is_converted_as_it_is_read(tmp_path, params):
  store.save_model(tmp_path / "m", params, BARE)
  sizes = []

  def convert(path, array):
    sizes.append(array.size)
    return path, array.shape

  got, _ = store.load_model(tmp_path / "m", convert=convert)
  # So that each fits into the memory where one before it was read.
  assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2
  assert trees.flatten(got) == {
    path: (path, leaf.shape) for path, leaf in trees.flatten(params).items()
  }


def test_small_arrays_are_read_at_once_and_large_ones_leave_no_garbage(
  tmp_path, params, monkeypatch
):
  store.save_model(tmp_path / "m", params, BARE)
  read, collected = [], []
  load = store.ocp.load
  monkeypatch.setattr(
    store.ocp,
    "load",
    lambda *args, **options: (
      read.append(len(jax.tree.leaves(args[1]))) or load(*args, **options)
    ),
  )
  collect = types.SimpleNamespace(collect=lambda: collected.append(len(read)))
  monkeypatch.setattr(store, "gc", collect)
  _assert_same(store.load_model(tmp_path / "m")[0], params)
  count = len(jax.tree.leaves(params))
  assert (read, collected) == ([count], [])
  monkeypatch.setattr(store, "_AT_ONCE", 1)
  _assert_same(store.load_model(tmp_path / "m")[0], params)
  assert read[1:] == [1] * count and collected[0] == 2


def test_a_fitted_slope_is_in_the_manifest_and_the_lineage(tmp_path, params):
  trained = BARE.after("pretrain", {"held_out_loss": 2.5}, None, steps=3)
  store.save_model(tmp_path / "m", params, trained)
  before = store.fingerprint(tmp_path / "m")
  store.save_slope(tmp_path / "m", 0.25, {"factor": 4.0})
  got, manifest = store.load_model(tmp_path / "m")
  _assert_same(got, params)
  assert manifest.model == dataclasses.replace(
    BARE.model, logit_scale_slope=0.25
  )
  *earlier, last = manifest.lineage
  assert tuple(earlier) == trained.lineage
  assert (last.operation, last.steps) == ("logit_scale_slope", 3)
  assert last.arguments == {"slope": 0.25, "factor": 4.0}
  assert manifest.held_out == ("pretrain", 2.5)
  assert store.fingerprint(tmp_path / "m") != before
  assert not [*tmp_path.glob("m/*.tmp")]


def test_dtype_casts_every_leaf(tmp_path, params):
  store.save_model(tmp_path / "m", params, BARE)
  got, _ = store.load_model(tmp_path / "m", dtype=jnp.bfloat16)
  _assert_same(got, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))


def test_sharded_restore_equals_one_device(tmp_path, params):
  store.save_model(tmp_path / "m", params, BARE)
  mesh = jax.make_mesh((8,), ("fsdp",))

  def shard_last(leaf):
    spec = [None] * (leaf.ndim - 1) + ["fsdp"]
    return jax.NamedSharding(mesh, jax.P(*spec))

  shardings = jax.tree.map(shard_last, params)
  cast = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  for dtype, want in ((jnp.bfloat16, cast), (None, params)):
    got, _ = store.load_model(tmp_path / "m", shardings=shardings, dtype=dtype)
    _assert_same(got, want)
    for leaf, sharding in zip(
      jax.tree.leaves(got), jax.tree.leaves(shardings), strict=True
    ):
      assert leaf.sharding == sharding
    assert leaf.addressable_shards[0].data.size * 8 == leaf.size
  again = tmp_path / "sharded"
  store.save_model(again, got, BARE)
  _assert_same(store.load_model(again)[0], params)


def test_a_run_restores_each_kept_step_bit_for_bit(tmp_path, params, tokenizer):
  advance = jax.jit(
    lambda state: jax.tree.map(lambda x: x + jnp.ones_like(x), state),
    donate_argnums=0,  # The save must not read what the next step overwrites.
  )
  state, want = _state(params, 0), {}
  with runs.RunStore(tmp_path / "run", tokenizer_path=tokenizer) as run:
    assert run.latest_step() is None
    for step in (10, 20, 30):
      state = advance(state)
      want[step] = jax.tree.map(np.array, state)
      run.save(step, state, MANIFEST)
  assert store.finished_steps(tmp_path / "run") == [20, 30]

  with runs.RunStore(tmp_path / "run", tokenizer_path=tokenizer) as run:
    assert run.latest_step() == 30
    abstract = jax.eval_shape(lambda: state)
    for step, kept in ((None, 30), (20, 20)):
      got, manifest = run.restore(abstract, step)
      _assert_same(got, want[kept])
      assert manifest == MANIFEST
    with pytest.raises(FileNotFoundError, match="run/10"):
      run.restore(abstract, 10)


def test_a_run_restores_onto_a_mesh(tmp_path, params):
  state = _state(params, 1)
  everywhere = jax.NamedSharding(jax.make_mesh((8,), ("fsdp",)), jax.P())
  with runs.RunStore(tmp_path / "run") as run:
    run.save(1, state, BARE)
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
      state,
    )
    got, _ = run.restore(abstract)
  _assert_same(got, state)
  assert all(len(x.devices()) == 8 for x in jax.tree.leaves(got))


def test_a_run_is_a_model_checkpoint(tmp_path, params, tokenizer):
  with runs.RunStore(tmp_path / "run", tokenizer_path=tokenizer) as run:
    for step in (9, 10):  # As text, "9" > "10".
      run.save(step, _state(params, step), MANIFEST)
  for path, step in (("run", 10), ("run/9", 9)):
    got, manifest = store.load_model(tmp_path / path)
    _assert_same(got, _state(params, step)["params"])
    assert manifest == MANIFEST
    assert store.tokenizer_path(tmp_path / path).read_bytes() == CONTENT


def test_params_of_a_run_load_without_its_optimizer_state(tmp_path, params):
  with runs.RunStore(tmp_path / "run") as run:
    run.save(1, _state(params, 0), BARE)
  shutil.rmtree(tmp_path / "run" / "1" / "rest")
  _assert_same(store.load_model(tmp_path / "run")[0], params)


def _measured(phase, loss):
  arguments = {} if loss is None else {manifests.HELD_OUT_LOSS: loss}
  entry = manifests.LineageEntry(phase, arguments, None, 0, 0, "", "")
  return BARE.appended(entry)


def test_the_best_step_of_the_phase_is_kept_and_found(tmp_path, params):
  run_path, state = tmp_path / "run", {"params": params}
  for phase, losses, kept, best in [
    ("a", {1: None}, [1], None),
    ("a", {2: 3.0, 3: 2.0, 4: None, 5: 2.5, 6: None}, [3, 5, 6], 3),
    ("a", {7: 2.0, 8: 2.1, 9: 2.2}, [3, 8, 9], 3),
    # Losses of two phases are of other sequences, or lengths.
    ("b", {10: None, 11: None}, [3, 10, 11], 3),
    ("b", {12: 5.0, 13: 6.0, 14: 7.0}, [12, 13, 14], 12),
    ("b", {15: 4.0, 16: 4.5}, [15, 16], 15),
  ]:
    with runs.RunStore(run_path, keep=2) as run:
      for step, loss in losses.items():
        run.save(step, state, _measured(phase, loss))
    assert store.finished_steps(run_path) == kept
    if best is None:
      with pytest.raises(FileNotFoundError, match="was measured, got none"):
        store.locate(run_path / "best")
    else:
      assert store.locate(run_path / "best") == run_path / str(best)
  assert store.locate(run_path) == run_path / "16"


def test_a_damaged_step_is_ignored_in_finding_the_best(tmp_path, params):
  with runs.RunStore(tmp_path / "run", keep=3) as run:
    for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0)):
      run.save(step, {"params": params}, _measured("a", loss))
  (tmp_path / "run" / "2" / "_CHECKPOINT_METADATA").write_text("{")
  assert store.locate(tmp_path / "run" / "best").name == "1"
  with runs.RunStore(tmp_path / "run", keep=1) as run:
    run.save(4, {"params": params}, _measured("a", None))
  assert store.finished_steps(tmp_path / "run") == [1, 4]


def test_a_save_that_was_half_deleted_is_in_nobodys_way(tmp_path, params):
  """As a kill leaves it: Orbax deletes the files of its root first."""
  with runs.RunStore(tmp_path / "run", keep=3) as run:
    for step in (1, 2):
      run.save(step, {"params": params}, _measured("a", float(step)))
  for path in (tmp_path / "run" / "1").iterdir():
    if path.is_file():
      path.unlink()
  with runs.RunStore(tmp_path / "run", keep=1) as run:
    run.save(3, {"params": params}, _measured("a", None))
  assert store.finished_steps(tmp_path / "run") == [2, 3]


def test_weights_have_a_fingerprint_that_a_slope_leaves(tmp_path, params):
  manifest = _measured("a", None)
  for name, by in (("one", 0.0), ("other", 1.0)):
    store.save_model(
      tmp_path / name, jax.tree.map(lambda x, by=by: x + by, params), manifest
    )
  one, other = (
    store.weights_fingerprint(tmp_path / name) for name in ("one", "other")
  )
  assert one != other
  store.save_slope(tmp_path / "one", 0.5, {})
  assert store.weights_fingerprint(tmp_path / "one") == one


def test_converted_weights_have_a_fingerprint_too(tmp_path, params):
  leaves = {
    path: streaming.Leaf(x.shape, x.dtype, False, x.ndim - 1, x.__getitem__)
    for path, x in trees.flatten(jax.tree.map(np.asarray, params)).items()
  }
  for name in ("one", "other"):
    manifest = BARE.after("convert", {"source": name}, name)
    store.save_streamed(tmp_path / name, leaves, manifest)
  one, other = (
    store.weights_fingerprint(tmp_path / name) for name in ("one", "other")
  )
  assert one != other
  store.save_slope(tmp_path / "one", 0.5, {})
  assert store.weights_fingerprint(tmp_path / "one") == one


def test_multiples_of_keep_every_steps_are_kept(tmp_path, params):
  with runs.RunStore(tmp_path / "run", 1, keep_every_steps=4) as run:
    for step in range(2, 12, 2):
      run.save(step, {"params": params}, BARE)
  assert store.finished_steps(tmp_path / "run") == [4, 8, 10]


def test_unfinished_steps_are_not_resumed_from(tmp_path, params):
  run_path = tmp_path / "run"
  with runs.RunStore(run_path) as run:
    run.save(5, _state(params, 5), BARE)
  interrupted = run_path / "6.orbax-checkpoint-tmp-1"
  shutil.copytree(run_path / "5", interrupted)
  (run_path / "7" / "params").mkdir(parents=True)
  assert store.locate(run_path) == store.locate(run_path / "5")
  for path in (interrupted, run_path / "7"):
    with pytest.raises(FileNotFoundError, match="finished"):
      store.load_model(path)

  with runs.RunStore(run_path) as run:
    assert run.latest_step() == 5
    got, _ = run.restore(_state(params, 0))
    _assert_same(got, _state(params, 5))
    run.save(7, _state(params, 7), BARE)
  assert not interrupted.exists()
  assert store.finished_steps(run_path) == [5, 7]


def test_an_interrupted_save_leaves_no_checkpoint(
  tmp_path, params, tokenizer, monkeypatch
):
  def fail(self, name):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(tokenizer_file.Files, "write", fail)
  with pytest.raises(Exception, match="No space left"):
    store.save_model(tmp_path / "m", params, MANIFEST, tokenizer)
  with pytest.raises(FileNotFoundError, match="finished"):
    store.load_model(tmp_path / "m")


def _truncate(path):
  os.truncate(path, path.stat().st_size // 2)


# Orbax closes its event loop while reads of other arrays are still failing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
  "damage",
  [
    lambda path: _truncate(path / "_CHECKPOINT_METADATA"),
    lambda path: _truncate(path / "params" / "_METADATA"),
    lambda path: _truncate(path / "params" / "manifest.ocdbt"),
    lambda path: [_truncate(file) for file in path.glob("params/**/d/*")],
    lambda path: shutil.rmtree(path / "params" / "d"),
    lambda path: shutil.rmtree(path / "params"),
  ],
  ids=["manifest", "tree", "index", "arrays", "arrays gone", "params gone"],
)
def test_a_damaged_checkpoint_is_an_error_naming_it(
  tmp_path, params, damage, caplog
):
  store.save_model(tmp_path / "m", params, BARE)
  damage(tmp_path / "m")
  with pytest.raises(ValueError, match="/m, which cannot be read") as caught:
    store.load_model(tmp_path / "m")
  assert "Copy it again" in str(caught.value)
  assert len(str(caught.value)) < 600
  logged = [r.name for r in caplog.records if r.levelno >= logging.ERROR]
  assert "absl" not in logged, "Orbax logs what the line has said"


def _flip(file, share, part):
  """Flips a bit of a file, at a fraction of a part's bytes."""
  content = bytearray(file.read_bytes())
  content[content.index(part) + int(len(part) * share)] ^= 1
  file.write_bytes(content)


def _largest_chunk(arrays):
  """Returns the largest chunk of an array, and the file that holds it."""
  spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{arrays}/"}}
  chunks = ts.KvStore.open(spec).result()
  largest = max(
    (chunks.read(key).result().value for key in chunks.list().result()),
    key=len,
  )
  (file,) = (
    file
    for file in arrays.rglob("*")
    if file.is_file() and largest in file.read_bytes()
  )
  return file, largest


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_flipped_bit_in_an_array_is_named(tmp_path, params, dtype):
  store.save_model(tmp_path / "m", params, BARE)
  file, chunk = _largest_chunk(tmp_path / "m" / "params")
  whole = file.read_bytes()
  for share in (0.2, 0.5, 0.8):
    _flip(file, share, chunk)
    with pytest.raises(ValueError, match="/m, which cannot be read") as caught:
      store.load_model(tmp_path / "m", dtype=dtype)
    assert "not what was saved: params/" in str(caught.value)
    file.write_bytes(whole)
  _assert_same(store.load_model(tmp_path / "m")[0], params)


def test_a_changed_manifest_is_named(tmp_path, params):
  store.save_model(tmp_path / "m", params, BARE)
  file = tmp_path / "m" / "_CHECKPOINT_METADATA"
  changed = file.read_text().replace('"context_tokens": 32', "@", 1)
  assert "@" in changed
  file.write_text(changed.replace("@", '"context_tokens": 33'))
  with pytest.raises(ValueError, match="not what was saved: manifest"):
    store.describe(tmp_path / "m")


def test_a_run_goes_back_only_to_a_kept_step(tmp_path, params):
  with runs.RunStore(tmp_path / "run", keep=3) as run:
    for step in (1, 2, 3):
      run.save(step, _state(params, step), BARE)
  with pytest.raises(ValueError, match="got 7 for .*, which has 1, 2, 3. Name"):
    store.go_back(tmp_path / "run", 7)
  (tmp_path / "run" / "1" / "_CHECKPOINT_METADATA").write_text("{")
  with pytest.raises(ValueError, match="run/1, which cannot be read"):
    store.go_back(tmp_path / "run", 1)
  assert store.finished_steps(tmp_path / "run") == [1, 2, 3]
  store.go_back(tmp_path / "run", 2)
  assert store.finished_steps(tmp_path / "run") == [1, 2]


def test_a_checkpoint_of_another_program_is_refused(tmp_path, params):
  ocp.save(tmp_path / "m", params, checkpointable_name="params")
  with pytest.raises(ValueError, match="holds no manifest"):
    store.load_model(tmp_path / "m")


def test_a_missing_checkpoint_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere, which does not exist"):
    store.load_model(tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match="which has neither"):
    store.load_model(tmp_path)


def test_params_that_do_not_match_the_config_are_listed(tmp_path, params):
  flat = trees.flatten(params)
  flat["layers/extra"] = flat.pop("final_norm/gain")
  flat["embed/table"] = flat["embed/table"][:-1]
  with pytest.raises(ValueError, match="missing final_norm/gain") as caught:
    store.save_model(tmp_path / "m", trees.unflatten(flat), BARE)
  assert "layers/extra" in str(caught.value)
  assert "(63, 16)" in str(caught.value)
  assert not (tmp_path / "m").exists()


def test_loading_checks_arrays_against_the_config(
  tmp_path, params, monkeypatch
):
  store.save_model(tmp_path / "m", params, BARE)
  other = dataclasses.replace(CONFIG, qk_norm="q")
  shapes = transformer.param_shapes(other)
  monkeypatch.setattr(transformer, "param_shapes", lambda _: shapes)
  with pytest.raises(ValueError, match="missing .*q_norm/gain"):
    store.load_model(tmp_path / "m")


def test_an_existing_directory_is_never_overwritten(tmp_path, params):
  (tmp_path / "m").mkdir()
  with pytest.raises(ValueError, match="m exists. Choose another"):
    store.save_model(tmp_path / "m", params, BARE)


@pytest.mark.parametrize("below", ["m", "folder/m"])
def test_a_directory_inside_a_file_is_refused(tmp_path, params, below):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(ValueError, match="file is a file. Choose another"):
    store.save_model(tmp_path / "file" / below, params, BARE)


def test_saved_steps_must_increase(tmp_path, params):
  with runs.RunStore(tmp_path / "run") as run:
    run.save(5, _state(params, 5), BARE)
    with pytest.raises(ValueError, match="after 5, .* got 5"):
      run.save(5, _state(params, 6), BARE)
  _assert_same(
    store.load_model(tmp_path / "run")[0], _state(params, 5)["params"]
  )


def test_restoring_a_state_of_another_recipe_is_refused(tmp_path, params):
  with runs.RunStore(tmp_path / "run") as run:
    run.save(1, _state(params, 1), BARE)
    other = _state(params, 0) | {"opt_state": optax.sgd(0.1).init(params)}
    with pytest.raises(ValueError, match="run/1, which cannot be read"):
      run.restore(other)


def test_unread_params_must_equal_the_saved_ones(tmp_path, params):
  with runs.RunStore(tmp_path / "run") as run:
    state = _state(params, 1)
    run.save(1, state, BARE)
    wanted = {"step": state["step"]} | {"opt_state": state["opt_state"]}
    embed = {"embed": state["params"]["embed"]}
    got, _ = run.restore(wanted, unread=embed)
    assert got.keys() == wanted.keys()
    with pytest.raises(ValueError, match="not what was saved: params/embed"):
      run.restore(wanted, unread=jax.tree.map(lambda x: x + 1, embed))


def test_the_tokenizer_must_be_the_models(tmp_path, params, tokenizer):
  with pytest.raises(ValueError, match="Pass both or neither"):
    store.save_model(tmp_path / "m", params, MANIFEST)
  with pytest.raises(ValueError, match="Pass both or neither"):
    store.save_model(tmp_path / "m", params, BARE, tokenizer)
  tokenizer.write_bytes(b"another")
  with pytest.raises(ValueError, match="SHA-256"):
    store.save_model(tmp_path / "m", params, MANIFEST, tokenizer)
  with pytest.raises(FileNotFoundError):
    store.tokenizer_path(tmp_path / "m")


def test_a_tokenizer_changed_on_disk_is_refused(tmp_path, params, tokenizer):
  store.save_model(tmp_path / "m", params, MANIFEST, tokenizer)
  store.tokenizer_path(tmp_path / "m").write_bytes(b"another")
  with pytest.raises(ValueError, match="SHA-256"):
    store.tokenizer_path(tmp_path / "m")


def test_a_hugging_face_tokenizer_is_saved_with_its_config(tmp_path, params):
  file = tmp_path / "tokenizer.json"
  file.write_bytes(CONTENT)
  (tmp_path / "tokenizer_config.json").write_text("{}")
  reference = dataclasses.replace(TOKENIZER, filename=file.name)
  manifest = manifests.Manifest(CONFIG, reference)
  store.save_model(tmp_path / "m", params, manifest, file)
  copy = store.tokenizer_path(tmp_path / "m")
  assert (copy.parent / "tokenizer_config.json").read_text() == "{}"


def test_bucket_paths_are_absolute():
  assert str(files.absolute("gs://bucket/run")) == "gs://bucket/run"
  assert files.absolute("run") == files.absolute(os.path.abspath("run"))


def test_a_folder_deleted_while_it_is_listed_has_no_steps(
  tmp_path, monkeypatch
):
  run = tmp_path / "run"
  path = type(files.absolute(run))
  monkeypatch.setattr(path, "is_dir", lambda self: True)
  assert not run.exists()
  assert store.finished_steps(run) == []
