"""Runs: resumed anywhere they end in the same bits, or refuse in one line."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys

import jax
from jax.experimental import compilation_cache
import numpy as np
import pytest

from drope_jax import artifacts, positional, sharding, trees
from drope_jax.analysis import records
from drope_jax.checkpoint import store
from drope_jax.checkpoint.model import Model
from drope_jax.data import pipeline, sources, tokenizer, writer
from drope_jax.data import store as data_store
from drope_jax.evals.periodic import Periodic
from drope_jax.evals.suite import Suite
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.surgery.compose import Surgery
from drope_jax.train import guard, loop, lora, optimizer, training
from drope_jax.train.phases import HeldOut, SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe
from drope_jax.train.teacher import Teacher
from tests import xla

MODEL = ModelConfig(
  vocab_size=288,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=16,
  context_tokens=8,
)
DATA = pipeline.DataConfig(("store",))
PRETRAIN = TrainPhase(
  name="pretrain",
  data=DATA,
  batch_size=4,
  context_tokens=4,
  optimizer=optimizer.Muon(),
  schedule=optimizer.Constant(0.02),
  steps=5,
)
SURGERY = SurgeryPhase(Surgery(qk_norm="qk", qk_norm_init="matched"))
RECALIBRATE = TrainPhase(
  name="recalibrate",
  data=dataclasses.replace(DATA, document_mask=True),
  batch_size=4,
  context_tokens=8,
  optimizer=optimizer.AdamW(),
  schedule=optimizer.Cosine(0.02, 1),
  tokens=5 * 32 + 31,
  accumulation=2,
)
RECIPE = Recipe(
  phases=(PRETRAIN, SURGERY, RECALIBRATE),
  model=MODEL,
  tokenizer="t.model",
  save_every_steps=2,
  log_every_steps=1,
)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
  """Programs are kept, as `drope` keeps them: a resumed run has the same."""
  options = {
    "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  before = {name: getattr(jax.config, name) for name in options}
  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.compilation_cache.reset_cache()
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
  """Sharded, yet quick to compile."""
  make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:2])
  monkeypatch.setattr(sharding, "make_mesh", make_mesh)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A folder with a tokenizer and a store of about 6,000 tokens."""
  base = tmp_path_factory.mktemp("base")
  text = "the whale and the sea, a ship of gold " * 40
  tokenizer.train_sentencepiece([text], 280, str(base / "t.model"))
  _write_store(base, seed=0)
  _write_store(base, seed=2, name="held")
  return base


def _write_store(base, seed, name="store"):
  rng = np.random.default_rng(seed)
  documents = [
    rng.integers(3, 280, length).tolist() for length in rng.integers(2, 20, 500)
  ]
  ids = sources.Generated("ids", "", functools.partial(iter, documents))
  writer.write(str(base / name), [ids], str(base / "t.model"))


def _probe(config, params):
  return {"normed": float("q_norm" in params["layers"]["attention"])}


def _run(recipe, folder, base, **listeners):
  return loop.run(recipe, folder, base_dir=str(base), probe=_probe, **listeners)


def _keep(models):
  """Returns a listener that copies models: the next training deletes them."""

  def keep(name, model):
    params = jax.device_get(model.params)
    models[name] = dataclasses.replace(model, params=params)

  return keep


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
  """An uninterrupted run: its folder, and the models it told of."""
  patch = pytest.MonkeyPatch()
  make_mesh = functools.partial(sharding.make_mesh, devices=jax.devices()[:2])
  patch.setattr(sharding, "make_mesh", make_mesh)
  folder, models = tmp_path_factory.mktemp("whole") / "run", {}
  final = _run(RECIPE, folder, base, on_model=_keep(models))
  patch.undo()
  assert list(models) == ["start", "pretrain", "surgery", "recalibrate"]
  _assert_same_bits(_leaves(models["recalibrate"]), _leaves(final))
  return folder, models


@pytest.fixture
def read(monkeypatch):
  """The inputs of every step taken, in order."""
  inputs, put_batch = [], sharding.put_batch

  def put(mesh, batch):
    inputs.append(batch["inputs_BS"])
    return put_batch(mesh, batch)

  monkeypatch.setattr(sharding, "put_batch", put)
  return inputs


def _assert_read(inputs, phase, base, start_sequence):
  """Checks that a phase's steps took the store's from that one on."""
  batches = pipeline.batches(
    phase.data,
    batch_size=phase.batch_size,
    context_tokens=phase.context_tokens,
    seed=RECIPE.seed,
    start_sequence=start_sequence,
    base_dir=str(base),
  )
  want = [b["inputs_BS"] for b in itertools.islice(batches, phase.num_steps)]
  np.testing.assert_array_equal(inputs, want)


def _leaves(model):
  return {k: np.asarray(v) for k, v in trees.flatten(model.params).items()}


def _assert_same_bits(got, want):
  assert got.keys() == want.keys()
  for path in want:
    assert got[path].dtype == want[path].dtype
    assert got[path].tobytes() == want[path].tobytes(), path


_TIMED = (
  "tokens_per_s",
  "mfu",
  "step_s",
  "data_wait",
  "elapsed_s",
  "kept_s",
  "goodput",
)


def _lines(folder):
  """What metrics.jsonl has that no clock measured."""
  return [
    {k: value for k, value in line.items() if not k.startswith(_TIMED)}
    for line in records.read_metrics(folder)
  ]


def test_every_phase_leaves_a_checkpoint_with_its_history(whole, base):
  folder, models = whole
  lineages = {}
  for name in ("pretrain", "surgery", "recalibrate"):
    params, manifest = store.load_model(folder / name)
    # What listeners were given is theirs: later steps do not take it away.
    _assert_same_bits(_leaves(Model(params, manifest)), _leaves(models[name]))
    lineages[name] = manifest.lineage
    kept = tokenizer.load(str(store.tokenizer_path(folder / name)))
    assert kept.fingerprint == manifest.tokenizer.fingerprint
    assert kept.encode("gold") == tokenizer.load(str(base / "t.model")).encode(
      "gold"
    )
  before = _leaves(models["start"])
  assert not np.array_equal(
    before["embed/table"], _leaves(models["pretrain"])["embed/table"]
  )
  last = lineages["recalibrate"]
  assert lineages["pretrain"] == last[:1] and lineages["surgery"] == last[:2]
  assert [
    (entry.operation, entry.parent, entry.tokens, entry.steps) for entry in last
  ] == [
    ("pretrain", None, 5 * 16, 5),
    ("surgery", "pretrain", 5 * 16, 5),
    ("recalibrate", "surgery", 5 * 16 + 5 * 32, 10),
  ]
  assert last[1].arguments["surgery"]["qk_norm_init"] == "matched"
  assert last[2].arguments["phase"]["schedule"]["peak"] == 0.02
  assert last[2].arguments["attention"] == "blockwise"
  tokens = data_store.Store.open(str(base / "store")).fingerprint
  assert last[2].arguments["stores"] == {"store": tokens}


def test_surgery_drops_positions_and_each_phase_sets_the_context(whole):
  configs = {name: model.config for name, model in whole[1].items()}
  assert configs["start"] == MODEL
  assert configs["pretrain"] == dataclasses.replace(MODEL, context_tokens=4)
  assert configs["surgery"] == dataclasses.replace(
    configs["pretrain"], positional=positional.Nope(), qk_norm="qk"
  )
  assert configs["recalibrate"] == dataclasses.replace(
    configs["surgery"], context_tokens=8
  )
  gains = _leaves(whole[1]["surgery"])["layers/attention/q_norm/gain"]
  assert np.abs(gains - 1).max() > 0.01, "the gains are not matched"


def test_every_step_is_logged_once(whole):
  lines = _lines(whole[0])
  assert [line["step"] for line in lines] == list(range(1, 11))
  assert [line["phase"] for line in lines] == (
    ["pretrain"] * 5 + ["recalibrate"] * 5
  )
  tokens = [16 * i for i in range(1, 6)] + [80 + 32 * i for i in range(1, 6)]
  assert [line["tokens"] for line in lines] == tokens
  assert [line["normed"] for line in lines] == [0.0] * 5 + [1.0] * 5
  # Fresh logits have a variance of about 1, which costs half a nat.
  assert lines[0]["loss"] == pytest.approx(np.log(288) + 0.5, rel=0.05)
  assert lines[0]["perplexity"] == pytest.approx(np.exp(lines[0]["loss"]))
  timed = records.read_metrics(whole[0])[9]
  assert timed["tokens_per_s_per_chip"] == timed["tokens_per_s"] / 2
  assert timed["step_s_max"] == pytest.approx(32 / timed["tokens_per_s"])
  assert timed["mfu_causal"] is None
  assert 0 < timed["kept_s"] < timed["elapsed_s"]
  assert timed["goodput"] == timed["kept_s"] / timed["elapsed_s"]
  # A document's last token predicts nothing where documents are masked.
  assert lines[0]["weight"] == 16 and lines[9]["weight"] < 32
  steps = {int(p.name) for p in whole[0].iterdir() if p.name.isdecimal()}
  assert steps == {8, 10}


class Stop(KeyboardInterrupt):
  """Ctrl-C."""


def _stop_at(heard, step=None, model=None):
  def on_metrics(line):
    if line["step"] == step:
      raise Stop

  def on_model(name, _):
    heard.append(name)
    if name == model:
      raise Stop

  return {"on_metrics": on_metrics, "on_model": on_model}


def test_interrupted_anywhere_it_ends_in_the_same_bits(whole, base, tmp_path):
  folder = tmp_path / "run"
  for where, newest, tells in [
    ({"step": 1}, None, ["start"]),  # Before the first save.
    (
      {"step": 5},
      4,
      ["start"],
    ),  # Logged, but not saved: the phase's last.
    ({"model": "pretrain"}, 5, ["pretrain"]),
    ({"model": "surgery"}, 5, ["pretrain", "surgery"]),
    ({"step": 6}, 5, []),
    ({"step": 9}, 8, []),
    ({"model": "recalibrate"}, 10, ["recalibrate"]),
  ]:
    heard = []
    with pytest.raises(Stop):
      _run(RECIPE, folder, base, **_stop_at(heard, **where))
    assert heard == tells
    assert max(store.finished_steps(folder), default=None) == newest
    if where == {"model": "pretrain"}:
      # As if it had died between the last step's save and the phase's.
      shutil.rmtree(folder / "pretrain")
  heard = []
  final = _run(
    RECIPE, folder, base, on_model=lambda name, _: heard.append(name)
  )
  assert heard == [], "what was done is told again"
  want_folder, want = whole
  _assert_same_bits(_leaves(final), _leaves(want["recalibrate"]))
  assert _lines(folder) == _lines(want_folder)
  for name in ("pretrain", "surgery"):
    params, manifest = store.load_model(folder / name)
    _assert_same_bits(_leaves(Model(params, manifest)), _leaves(want[name]))


def test_told_to_stop_it_saves_the_step_or_the_phase(whole, base, tmp_path):
  for stop, saved in ((3, 3), (5, 5), (9, 9)):
    with pytest.raises(training.Stopped, match=f"^saved step {saved}$"):
      _run(
        RECIPE, tmp_path / "run", base, stopping=lambda step, s=stop: step >= s
      )
    assert store.finished_steps(tmp_path / "run")[-1] == saved
  final = _run(RECIPE, tmp_path / "run", base, stopping=lambda step: step == 10)
  _assert_same_bits(_leaves(final), _leaves(whole[1]["recalibrate"]))
  assert _lines(tmp_path / "run") == _lines(whole[0])


def test_a_second_run_in_its_folder_is_refused_and_costs_nothing(
  whole, base, tmp_path
):
  folder, told = tmp_path / "run", []

  def start_another(line):
    if line["step"] in (3, 8):
      with pytest.raises(ValueError, match="one writer at a time, got"):
        _run(RECIPE, folder, base)
      told.append(line["step"])

  final = _run(RECIPE, folder, base, on_metrics=start_another)
  assert told == [3, 8]
  _assert_same_bits(_leaves(final), _leaves(whole[1]["recalibrate"]))
  assert _lines(folder) == _lines(whole[0])
  names = {path.name for path in folder.iterdir()}
  assert names == {path.name for path in whole[0].iterdir()}


_ONE_OF_TWO = """
import dataclasses, importlib.util, pathlib, sys
import jax
from drope_jax import sharding
test, index, address, axis, base, folder = sys.argv[1:]
jax.distributed.initialize(address, 2, int(index))
spec = importlib.util.spec_from_file_location("loop_test", test)
loop_test = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loop_test)
mesh = sharding.MeshConfig(**{"fsdp": 1, axis: 2})
recipe = dataclasses.replace(loop_test.RECIPE, mesh=mesh)
loop_test._run(recipe, pathlib.Path(folder), base)
"""


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["fsdp", "tensor", "context"])
def test_two_processes_run_as_two_devices_of_one_do(
  whole, base, tmp_path, axis
):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _ONE_OF_TWO, __file__]
      + [str(index), address, axis, str(base), str(tmp_path / "run")],
      env=os.environ | {"XLA_FLAGS": xla.flags(devices=1)},
    )
    for index in range(2)
  ]
  assert [process.wait(timeout=900) for process in processes] == [0, 0]
  one, two = _lines(whole[0]), _lines(tmp_path / "run")
  assert [line["step"] for line in two] == [line["step"] for line in one]
  # Sums over processes may round otherwise than sums over devices.
  np.testing.assert_allclose(
    [line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-3
  )
  recipe = (whole[0] / "recipe.json").read_bytes()
  assert (tmp_path / "run" / "recipe.json").read_bytes() == recipe


def test_how_it_saves_logs_and_reads_may_change(whole, base):
  folder, models = whole
  changed = dataclasses.replace(
    RECIPE,
    save_every_steps=100,
    log_every_steps=3,
    read_workers=0,
    prefetch_batches=1,
  )
  final = _run(changed, folder, base)
  _assert_same_bits(_leaves(final), _leaves(models["recalibrate"]))


@pytest.mark.parametrize(
  "axis", [pytest.param("tensor", marks=pytest.mark.slow), "context"]
)
def test_a_run_goes_on_on_another_mesh(whole, base, tmp_path, axis):
  folder = tmp_path / "run"
  with pytest.raises(Stop):
    _run(RECIPE, folder, base, **_stop_at([], step=9))
  mesh = sharding.MeshConfig(**{axis: 2})
  final = _run(dataclasses.replace(RECIPE, mesh=mesh), folder, base)
  assert [line["step"] for line in _lines(folder)] == [*range(1, 11)]
  kernel = final.params["layers"]["mlp"]["up"]["kernel"]
  assert kernel.sharding.mesh.shape[axis] == 2
  assert kernel.sharding.is_fully_replicated == (axis == "context")
  want = _leaves(whole[1]["recalibrate"])
  for path, got in _leaves(final).items():
    # Two steps of 0.02 of Adam, which turns what is small into whole steps.
    np.testing.assert_allclose(got, want[path], atol=1e-3, err_msg=path)


def test_a_phase_reads_on_where_the_one_before_it_ended(base, tmp_path, read):
  again = dataclasses.replace(PRETRAIN, name="again", batch_size=2, steps=10)
  recipe = dataclasses.replace(RECIPE, phases=(PRETRAIN, again))
  _run(recipe, tmp_path / "run", base)
  _assert_read(read[:5], PRETRAIN, base, 0)
  _assert_read(read[5:], again, base, 5 * 4)
  rows = [row.tobytes() for inputs in read for row in inputs]
  assert len(set(rows)) == len(rows) == 40


def test_a_run_from_a_checkpoint_is_the_rest_of_the_run(
  whole, base, tmp_path, read
):
  folder, models = whole
  surgery = dataclasses.replace(SURGERY, calibration=DATA)
  recipe = dataclasses.replace(
    RECIPE,
    model=None,
    tokenizer=None,
    init_from=str(folder / "pretrain"),
    phases=(surgery, RECALIBRATE),
    save_every_steps=100,
  )
  heard = {}
  final = _run(recipe, tmp_path / "run", base, on_model=_keep(heard))
  _assert_same_bits(_leaves(heard["start"]), _leaves(models["pretrain"]))
  _assert_same_bits(_leaves(final), _leaves(models["recalibrate"]))
  # Ten sequences of this phase's length hold what five steps of four did.
  _assert_read(read, RECALIBRATE, base, 10)
  lineage = final.manifest.lineage
  assert [entry.parent for entry in lineage] == [
    None,
    str(folder / "pretrain"),
    "surgery",
  ]
  assert [entry.tokens for entry in lineage] == [80, 80, 240]
  kept = store.tokenizer_path(tmp_path / "run")
  assert kept.read_bytes() == (base / "t.model").read_bytes()


def test_a_run_goes_on_only_from_the_weights_that_it_began_with(
  whole, base, tmp_path
):
  folder, _ = whole
  start = tmp_path / "start"
  shutil.copytree(folder / "pretrain", start)
  recipe = dataclasses.replace(
    RECIPE, model=None, tokenizer=None, init_from=str(start), phases=(PRETRAIN,)
  )
  with pytest.raises(Stop):
    _run(recipe, tmp_path / "run", base, **_stop_at([], step=2))
  shutil.rmtree(start)
  shutil.copytree(folder / "recalibrate", start)
  with pytest.raises(ValueError, match="got others in its Recipe.init_from"):
    _run(recipe, tmp_path / "run", base)


def test_a_run_that_goes_back_leaves_no_later_model(base, tmp_path):
  again = dataclasses.replace(PRETRAIN, name="again")
  recipe = dataclasses.replace(RECIPE, phases=(PRETRAIN, again), keep_saves=9)
  want = _run(recipe, tmp_path / "run", base)
  with pytest.raises(Stop):
    _run(recipe, tmp_path / "run", base, from_step=4, **_stop_at([], step=5))
  assert not (tmp_path / "run" / "pretrain").exists()
  assert not (tmp_path / "run" / "again").exists()
  _assert_same_bits(
    _leaves(_run(recipe, tmp_path / "run", base)), _leaves(want)
  )


def test_a_backend_that_cannot_run_a_later_phase_is_refused_at_once(
  base, tmp_path
):
  for name, needed in (("splash", "TPU"), ("cudnn", "GPU")):
    recipe = dataclasses.replace(RECIPE, attention=name)
    with pytest.raises(ValueError, match=f"{name} needs a {needed}, got a CPU"):
      _run(recipe, tmp_path / "run", base)
  logged = dataclasses.replace(RECALIBRATE, log_max_logit=True)
  recipe = dataclasses.replace(
    RECIPE, phases=(PRETRAIN, logged), attention="xla"
  )
  with pytest.raises(ValueError, match="with statistics needs .* got 'xla'"):
    _run(recipe, tmp_path / "run", base)
  scheme = positional.LogScaled(positional.Rope(), 8)
  recipe = dataclasses.replace(
    RECIPE, model=dataclasses.replace(MODEL, positional=scheme)
  )
  with pytest.raises(ValueError, match="place in its sequence, got DataConf"):
    _run(recipe, tmp_path / "run", base)
  masked = dataclasses.replace(HELD_OUT.data, document_mask=True)
  measured = dataclasses.replace(PRETRAIN, held_out=HeldOut(masked))
  recipe = dataclasses.replace(recipe, phases=(measured,))
  with pytest.raises(ValueError, match="got DataConfig.document_mask for held"):
    _run(recipe, tmp_path / "run", base)
  assert not (tmp_path / "run").exists()


def test_moments_are_not_kept_where_a_surgery_adds_parameters(base, tmp_path):
  first = dataclasses.replace(RECALIBRATE, name="first")
  second = dataclasses.replace(first, name="second", optimizer_start="kept")
  recipe = dataclasses.replace(RECIPE, phases=(first, SURGERY, second))
  with pytest.raises(ValueError, match="kept by .* got none and then"):
    _run(recipe, tmp_path / "run", base)
  assert not (tmp_path / "run").exists()


def test_a_training_in_two_that_keeps_its_state_is_one(base, tmp_path):
  one = dataclasses.replace(RECALIBRATE, name="one", tokens=None, steps=4)
  first = dataclasses.replace(one, name="first", steps=2)
  second = dataclasses.replace(
    first, name="second", optimizer_start="kept", schedule_start="kept"
  )
  whole = _run(dataclasses.replace(RECIPE, phases=(one,)), tmp_path / "1", base)
  recipe = dataclasses.replace(RECIPE, phases=(first, second))
  with pytest.raises(Stop):
    _run(recipe, tmp_path / "2", base, **_stop_at([], model="first"))
  halves = _run(recipe, tmp_path / "2", base)
  _assert_same_bits(_leaves(halves), _leaves(whole))


HELD_OUT = HeldOut(pipeline.DataConfig(("held",)), sequences=3, every_steps=2)


_UNTIL_RECOVERED = dataclasses.replace(
  RECIPE,
  phases=(
    PRETRAIN,
    SURGERY,
    dataclasses.replace(RECALIBRATE, held_out=HELD_OUT, until_recovered=1.0),
    dataclasses.replace(RECALIBRATE, name="after", tokens=None, steps=2),
  ),
  seed=1,  # Recovers at the phase's fourth step.
  save_every_steps=1,
)


_forward = jax.jit(transformer.forward, static_argnums=0)


def _held_out_loss(folder, base):
  """Written anew: of a checkpoint, on the first four held-out sequences."""
  params, manifest = store.load_model(folder)
  rows = pipeline.batches(
    HELD_OUT.data,
    batch_size=4,
    context_tokens=8,
    seed=0,
    base_dir=str(base),
  )
  batch = next(rows)
  logits_BSV = _forward(manifest.model, params, batch["inputs_BS"])
  log_p_BSV = jax.nn.log_softmax(logits_BSV)
  target_BS1 = batch["targets_BS"][..., None]
  return -np.take_along_axis(np.asarray(log_p_BSV), target_BS1, -1).mean()


@pytest.mark.slow
def test_a_training_of_some_parameters_resumes_in_the_same_bits(base, tmp_path):
  phase = dataclasses.replace(
    RECALIBRATE,
    name="some",
    trainable=("*norm",),
    lora=lora.Lora(("layers[1]/mlp",), rank=2),
    ema_decay=0.5,
    held_out=HELD_OUT,
    tokens=None,
    steps=4,
  )
  recipe = dataclasses.replace(
    RECIPE,
    phases=(phase,),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  models = {}
  _run(recipe, tmp_path / "1", base, on_model=_keep(models))
  start, end = _leaves(models["start"]), _leaves(models["some"])
  moved = {path for path in end if not np.array_equal(end[path], start[path])}
  mlp = {f"layers/mlp/{name}/kernel" for name in ("gate", "up", "down")}
  assert moved - mlp == {
    "final_norm/gain",
    "layers/attention_norm/gain",
    "layers/mlp_norm/gain",
  }
  for path in mlp:
    frozen, adapted = end[path] != start[path]
    assert adapted.any() and not frozen.any()
  arguments = models["some"].manifest.lineage[-1].arguments
  assert arguments["weights"] == "averaged"
  # What is measured is what a save has.
  loss = _held_out_loss(tmp_path / "1" / "2", base)
  # Mean losses in float32, summed in another order.
  assert _lines(tmp_path / "1")[1]["held_out_loss"] == pytest.approx(
    loss, rel=1e-5
  )
  with pytest.raises(Stop):
    _run(recipe, tmp_path / "2", base, **_stop_at([], step=3))
  for _ in range(2):  # The second reads the last step's save.
    _assert_same_bits(_leaves(_run(recipe, tmp_path / "2", base)), end)
    shutil.rmtree(tmp_path / "2" / "some")


def test_a_recalibration_ends_once_the_base_is_recovered(base, tmp_path):
  folder = tmp_path / "run"
  for where in ({"step": 8}, {"model": "recalibrate"}):
    with pytest.raises(Stop):
      _run(_UNTIL_RECOVERED, folder, base, **_stop_at([], **where))
  # As if it had died between the early end's save and the phase's.
  shutil.rmtree(folder / "recalibrate")
  final = _run(_UNTIL_RECOVERED, folder, base)
  lines = _lines(folder)
  assert [line["step"] for line in lines] == [*range(1, 9), 11, 12]
  tokens = [80, 112, 144, 176, 208, 240]
  assert [line["tokens"] for line in lines[4:]] == tokens
  assert lines[5]["recovered"] < 1 and "recovered" not in lines[6]
  measured = lines[7]
  base_loss = _held_out_loss(folder / "pretrain", base)
  loss = _held_out_loss(folder / "recalibrate", base)
  # Mean losses in float32, summed in another order.
  assert measured["base_loss"] == pytest.approx(base_loss, rel=1e-5)
  assert measured["held_out_loss"] == pytest.approx(loss, rel=1e-5)
  assert measured["recovered"] == pytest.approx(base_loss / loss, rel=1e-5)
  _, _, recalibrated, after = final.manifest.lineage
  assert recalibrated.arguments["recovery"]["tokens"] == 96
  assert (recalibrated.tokens, recalibrated.steps) == (80 + 96, 8)
  assert (after.tokens, after.steps) == (80 + 96 + 64, 10)
  assert "recovery" not in after.arguments
  best = store.locate(folder / "best")
  assert best == store.locate(folder / "10"), "the last that was measured"
  phase, loss = store.describe(best)[0].held_out
  assert (phase, loss) == ("recalibrate", measured["held_out_loss"])


_EVALS = Periodic(
  suite=Suite(evals=("passkey",), factors=(1.0,), samples=(1,)),
  every_steps=2,
  best="passkey.accuracy.1x",
)


def _with_evals(evals=_EVALS):
  phases = (
    PRETRAIN,
    SURGERY,
    dataclasses.replace(RECALIBRATE, evals=evals),
  )
  return dataclasses.replace(RECIPE, phases=phases, keep_saves=1)


def _scores(wanted, model, mesh, dtype):
  """An evaluator whose score depends on the weights."""
  assert (wanted, dtype) == (_EVALS, "float32")
  assert model.tokenizer_path.exists() and model.config.context_tokens == 8
  return lambda params: {
    wanted.best: float(params["embed"]["table"].sum()) % 0.01,
    "evals_s": 1.0,
  }


def test_evals_measure_a_training_and_change_none_of_its_bits(
  whole, base, tmp_path
):
  folder = tmp_path / "run"
  # Begun without evals, and cut off between two measurements.
  with pytest.raises(Stop):
    _run(RECIPE, folder, base, **_stop_at([], step=7))
  with pytest.raises(Stop):
    _run(_with_evals(), folder, base, evaluator=_scores, **_stop_at([], step=9))
  final = _run(_with_evals(), folder, base, evaluator=_scores)
  _assert_same_bits(_leaves(final), _leaves(whole[1]["recalibrate"]))
  lines = _lines(folder)
  scores = {
    line["step"]: line[_EVALS.best] for line in lines if _EVALS.best in line
  }
  assert list(scores) == [8, 10]
  assert scores[10] == float(final.params["embed"]["table"].sum()) % 0.01
  best = max(scores, key=scores.get)
  assert store.locate(folder / "best") == store.locate(folder / str(best))
  entry = final.manifest.lineage[-1].arguments
  assert entry["best_by"] == {
    "score": _EVALS.best,
    "value": scores[10],
    "higher_is_better": True,
  }
  assert entry["phase"]["evals"] is None, "a suite is long"


def test_evals_of_a_later_phase_that_cannot_be_run_are_refused_at_once(
  base, tmp_path
):
  folder = tmp_path / "run"
  with pytest.raises(ValueError, match="recalibrate: .* got none. Pass infer"):
    _run(_with_evals(), folder, base)

  def refuse(wanted, model, mesh, dtype):
    assert model.config.positional == positional.Nope()
    raise ValueError("no text")

  with pytest.raises(ValueError, match="recalibrate: no text"):
    _run(_with_evals(), folder, base, evaluator=refuse)
  assert not folder.exists()


_TAUGHT = dataclasses.replace(
  RECIPE,
  phases=(
    PRETRAIN,
    SURGERY,
    dataclasses.replace(RECALIBRATE, teacher=Teacher(), log_max_logit=True),
  ),
)


def _divergence(folder, base):
  """Written anew: of pretrain to surgery, on what recalibrate reads first."""
  rows = pipeline.batches(
    RECALIBRATE.data,
    batch_size=4,
    context_tokens=8,
    seed=RECIPE.seed,
    start_sequence=10,
    base_dir=str(base),
  )
  batch = next(rows)

  def log_softmax(name):
    params, manifest = store.load_model(folder / name)
    logits_BSV = _forward(
      manifest.model,
      params,
      batch["inputs_BS"],
      segments_BS=batch["segments_BS"],
    )
    return jax.nn.log_softmax(logits_BSV)

  log_q_BSV, log_p_BSV = map(log_softmax, ("pretrain", "surgery"))
  kl_BS = np.sum(np.exp(log_q_BSV) * (log_q_BSV - log_p_BSV), -1)
  return np.average(kl_BS, weights=batch["weights_BS"])


@pytest.mark.slow
def test_the_base_teaches_and_a_resumed_run_has_it_again(base, tmp_path):
  want = _run(_TAUGHT, tmp_path / "whole", base)
  for where in ({"step": 6}, {"step": 9}):
    with pytest.raises(Stop):
      _run(_TAUGHT, tmp_path / "run", base, **_stop_at([], **where))
  _assert_same_bits(
    _leaves(_run(_TAUGHT, tmp_path / "run", base)), _leaves(want)
  )
  lines = _lines(tmp_path / "run")
  assert lines == _lines(tmp_path / "whole")
  assert ["kl" in line for line in lines] == [False] * 5 + [True] * 5
  # The rate is 0 at first. A sum of logarithms in float32, of order 1 to 10.
  divergence = _divergence(tmp_path / "run", base)
  assert (
    lines[5]["kl"] == pytest.approx(divergence, abs=1e-6) and divergence > 1e-4
  )
  phase = want.manifest.lineage[-1].arguments["phase"]
  assert phase["teacher"] == artifacts.encode(Teacher())


def test_another_recipe_is_refused_by_the_field_that_differs(whole, base):
  later = dataclasses.replace(RECALIBRATE, schedule=optimizer.Cosine(0.03, 1))
  changed = dataclasses.replace(RECIPE, phases=(PRETRAIN, SURGERY, later))
  message = (
    r"begun with another: phases\[2\]\.schedule\.peak was 0.02 and is 0.03"
  )
  with pytest.raises(ValueError, match=message):
    _run(changed, whole[0], base)
  with pytest.raises(ValueError, match="another: seed was 0 and is 1"):
    _run(dataclasses.replace(RECIPE, seed=1), whole[0], base)


def test_a_store_rebuilt_with_other_tokens_is_refused(whole, base, tmp_path):
  moved = tmp_path / "moved"
  shutil.copytree(base, moved)
  _run(RECIPE, whole[0], moved)
  shutil.rmtree(moved / "store")
  _write_store(moved, seed=1)
  message = "began with, got other tokens in store than .*run was begun with"
  with pytest.raises(ValueError, match=message):
    _run(RECIPE, whole[0], moved)


def test_options_that_the_compiler_does_not_know_are_refused(base, tmp_path):
  recipe = dataclasses.replace(RECIPE, compiler_options={"xla_none": "1"})
  with pytest.raises(ValueError, match=r"XLA's for this .* got .*'xla_none'"):
    _run(recipe, tmp_path / "run", base)
  assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_refused(base, tmp_path):
  (tmp_path / "diary.txt").write_text("mine")
  with pytest.raises(ValueError, match="a new folder, or its own"):
    _run(RECIPE, tmp_path, base)
  assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_steps_without_the_phase_before_them_are_refused(whole, base, tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  shutil.copy(whole[0] / "recipe.json", folder)
  shutil.copytree(whole[0] / "8", folder / "8")
  with pytest.raises(ValueError, match="got step 8.*and no pretrain"):
    _run(RECIPE, folder, base)


def _with(phase, **changes):
  changed = dataclasses.replace(phase, **changes)
  phases = tuple(changed if p.name == phase.name else p for p in RECIPE.phases)
  return dataclasses.replace(RECIPE, phases=phases)


@pytest.mark.parametrize(
  "recipe,message",
  [
    (_with(RECALIBRATE, data=pipeline.DataConfig(("gone",))), "does not exist"),
    (
      _with(RECALIBRATE, data=pipeline.DataConfig(("other",))),
      "recalibrate: a store needs the model's tokenizer",
    ),
    (
      _with(SURGERY, calibration=pipeline.DataConfig(("other",))),
      "surgery: a store needs the model's tokenizer",
    ),
    (
      _with(RECALIBRATE, context_tokens=10**6, tokens=None, steps=5),
      "A sequence needs 1000001 tokens",
    ),
    (
      _with(RECALIBRATE, batch_size=3, accumulation=1),
      r"split evenly over the mesh, got a microbatch of shape \(3, 8\)",
    ),
    (dataclasses.replace(RECIPE, tokenizer="gone.model"), "gone.model"),
    (
      dataclasses.replace(
        RECIPE, model=dataclasses.replace(MODEL, vocab_size=279)
      ),
      "got 280 pieces for a vocab_size of 279",
    ),
    (
      dataclasses.replace(RECIPE, model=None, tokenizer=None, init_from="gone"),
      "gone, which does not exist",
    ),
  ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
  base, tmp_path, recipe, message
):
  if not (base / "other").exists():
    text = "another language altogether, with other words in it " * 40
    other = tokenizer.train_sentencepiece([text], 280, str(base / "o.model"))
    ids = sources.Generated("ids", "", functools.partial(iter, [[5] * 500]))
    writer.write(str(base / "other"), [ids], other.path)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    _run(recipe, tmp_path / "run", base)
  assert not (tmp_path / "run").exists()


def test_skips_in_a_row_end_the_run_and_are_not_saved(base, tmp_path):
  phase = dataclasses.replace(
    RECALIBRATE,
    schedule=optimizer.Constant(1e30),
    guard=guard.Guard(max_skips_in_a_row=2),
  )
  # It saves more often than it logs.
  recipe = dataclasses.replace(
    RECIPE, phases=(phase,), save_every_steps=1, log_every_steps=100
  )
  message = "recalibrate: fewer than 2 steps in a row may be skipped, got 2 up "
  with pytest.raises(ValueError, match=message + "to step 3, .* nan .*Lower"):
    _run(recipe, tmp_path / "run", base)
  assert store.finished_steps(tmp_path / "run") == [1, 2]
  assert _lines(tmp_path / "run") == []


def test_the_recipe_in_the_folder_is_what_ran(whole):
  written = json.loads((whole[0] / "recipe.json").read_text())
  assert written["phases"][0]["optimizer"]["__class__"] == "Muon"
  assert "save_every_steps" not in written
