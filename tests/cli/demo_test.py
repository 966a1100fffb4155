"""`drope demo` from end to end, at a size of seconds."""

import contextlib
import dataclasses
import functools
import json

import jax
import pytest

from drope_jax.analysis import records
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.cli import configure, demo, demo_models
from drope_jax.cli import console as consoles
from drope_jax.data import corpus, sources, tokenizer, writer
from drope_jax.evals.suite import Suite
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import PartialRope, Rope
from drope_jax.surgery import compose

CONFIG = ModelConfig(
  vocab_size=2048,
  num_layers=1,
  width=16,
  num_heads=2,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=16,
  context_tokens=64,
  tied_embeddings=True,
)
OVERRIDES = (
  "recalibrate/TrainPhase.context_tokens = 64",
  "recalibrate/TrainPhase.batch_size = 8",
  "recalibrate/TrainPhase.accumulation = 1",
  "recalibrate/TrainPhase.tokens = 4096",
  "Teacher.weight = 0.5",
  "Cosine.warmup_steps = 1",
  "Recipe.log_every_steps = 4",
  "Recipe.save_every_steps = 4",
)


def _write_stores(directory, names, max_documents=None, on_store=None):
  make = functools.partial(corpus.documents, "test")
  for name in ("text", *names):
    source = sources.Generated(name, f"{max_documents}", make)
    writer.write(str(directory / name), [source], corpus.tokenizer_path())


@pytest.fixture
def run_demo(drope, tmp_path, monkeypatch):
  """Runs the demo with models and data of a few thousand numbers."""
  path = corpus.tokenizer_path()
  tokens = tokenizer.load(path)
  reference = manifests.TokenizerRef(
    "drope2k.model", tokens.fingerprint, tokens.vocab_size
  )
  base = CONFIG, transformer.init(CONFIG, jax.random.key(0))
  full = compose.apply(compose.Surgery("all"), *base)
  partial = compose.apply(compose.Surgery("all", keep_rotations=1), *base)
  models = {"base": base, "continued": base, "partial": partial, "full": full}
  trained = {}
  for name, (config, params) in models.items():
    manifest = manifests.Manifest(config, reference)
    store.save_model(tmp_path / name, params, manifest, path)
    log = tmp_path / f"{name}.metrics.jsonl"
    log.write_text(
      "".join(
        json.dumps(
          {"step": i, "phase": "recalibrate", "tokens": 64 * i, "loss": 4 / i}
        )
        + "\n"
        for i in (1, 2, 3)
      )
    )
    trained[name] = demo_models.Trained(tmp_path / name, log)
  monkeypatch.setattr(demo_models, "packaged", lambda: trained)
  build = configure.build

  def smaller(config, root, overrides=()):
    built = build(config, root, overrides)
    if root is not Suite:
      return built
    return dataclasses.replace(
      built,
      evals=("perplexity",),
      factors=(1.0, 4.0),
      samples=(1, 1),
    )

  monkeypatch.setattr(demo.configure, "build", smaller)
  monkeypatch.setattr(demo.demo_data, "write", _write_stores)
  overrides = (*OVERRIDES, f"Recipe.init_from = '{tmp_path}/base'")
  flags = [word for override in overrides for word in ("--set", override)]
  return lambda: drope("demo", "--out", tmp_path / "out", *flags)


def test_the_demo_runs_to_its_report_and_repeats_no_step(run_demo, tmp_path):
  ran = run_demo()
  assert ran.status == 0, ran.err
  out = tmp_path / "out"
  for words in (
    *("held-out loss", "recalibrate", "base · YaRN", "results.json"),
    *("1% above that of continued", "  live: ", "how to ask more"),
  ):
    assert words in ran.out, words

  damage = json.loads((out / "damage.json").read_text())
  lines = records.read_metrics(out / "live")
  assert [line["tokens"] for line in lines] == [2048, 4096]
  assert lines[-1]["held_out_loss"] < damage["after"]["loss"]
  # The base as teacher has random weights, so the text taught more.
  assert 0 < lines[0]["kl"] < 1 < lines[0]["loss"]

  found = json.loads((out / "results.json").read_text())
  manifest = found["models"]["live"]["manifest"]
  operations = [entry["operation"] for entry in manifest["lineage"]]
  assert operations == ["surgery", "recalibrate"]
  methods = dict.fromkeys(
    (row["model"], row["method"]) for row in found["rows"]
  )
  assert list(methods) == [
    *(("base", method) for method in ("model", "pi", "ntk", "yarn", "crop")),
    *((name, "model") for name in ("continued", "live", "partial", "full")),
  ]
  # Each has the scale of its checkpoint; none is fitted.
  assert not any(row["scale_fitted"] for row in found["rows"])
  assert set(json.loads((out / "held_out.json").read_text())) == set(
    demo_models.RECIPES
  )

  config = store.describe(out / "live/recalibrate")[0].model
  assert config.positional == PartialRope(Rope(), 2)
  (sample,) = json.loads((out / "samples.json").read_text())
  assert "▶" in sample["text"] and "176 tokens" in sample["context"]
  page = (out / "report.html").read_text("utf-8")
  assert "how to ask more" in page and "<svg" in page

  # The models that were there before were evaluated during the training.
  others = json.loads((out / "others/results.json").read_text())
  known = [row for row in found["rows"] if row["model"] != "live"]
  assert others["rows"] == known[: len(others["rows"])] != []
  # Their times would differ if they had been evaluated again.
  assert others["seconds"].items() <= found["seconds"].items()

  assert run_demo().status == 0
  assert records.read_metrics(out / "live") == lines, "it trained again"
  assert json.loads((out / "results.json").read_text()) == found


def test_a_resumed_curve_keeps_its_earlier_points(run_demo, monkeypatch):
  drawn = []

  def draw(points, *args):
    drawn.append([tokens for tokens, _ in points])
    if len(drawn) == 2:  # Logged, but not saved yet.
      raise KeyboardInterrupt
    return ""

  def stop(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(demo.chart, "draw", draw)
  monkeypatch.setattr(demo, "_compare", stop)
  for _ in range(2):
    ran = run_demo()
    assert ran.status == 130, ran.err
  assert drawn == [[0, 2048], [0, 2048, 4096], [0, 2048, 4096]]


def test_from_scratch_has_its_own_folder(drope, monkeypatch, tmp_path):
  folders = []

  def stop(out, *args):
    folders.append(out)
    raise KeyboardInterrupt

  monkeypatch.setattr(demo.demo_data, "write", _write_stores)
  monkeypatch.setattr(demo_models.train, "run_loop", lambda *args, **kw: None)
  monkeypatch.setattr(
    demo, "_evaluating", lambda *args: contextlib.nullcontext()
  )
  monkeypatch.setattr(demo, "_recalibrate", stop)
  for flags in ([], ["--from-scratch"], [], ["--from-scratch"]):
    ran = drope("demo", "--out", tmp_path, *flags)
    assert ran.status == 130, ran.err
  assert folders == [tmp_path, tmp_path / "from_scratch"] * 2


def test_models_from_scratch_start_from_the_base_trained_before(
  monkeypatch, tmp_path
):
  started = {}

  def run_loop(request, recipe, out, **options):
    started[out.name] = recipe.init_from

  monkeypatch.setattr(demo_models.train, "run_loop", run_loop)
  found = demo_models.from_scratch(tmp_path, consoles.Console())
  base = str(tmp_path / "base/pretrain")
  assert started == {"base": None} | dict.fromkeys(
    ("continued", "partial", "full"), base
  )
  last = tmp_path / "partial/recalibrate"
  assert found["partial"].checkpoint == last
  assert list(found) == list(demo_models.packaged())
