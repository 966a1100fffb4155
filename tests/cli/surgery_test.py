"""`drope surgery`: a checkpoint in, a checkpoint with one entry more out."""

import argparse
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.cli import surgery as command
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Rope
from drope_jax.surgery import compose

CONTENT = b"a tokenizer"
TOKENIZER = manifests.TokenizerRef(
  "t.model", hashlib.sha256(CONTENT).hexdigest(), 30
)
CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=16,
)


class FakeStore:
  """Stands for `data.store.Store`, of which three members are used."""

  tokenizer_fingerprint = TOKENIZER.fingerprint
  fingerprint = "feed"
  num_tokens = 100

  def read(self, start, stop):
    return np.random.default_rng(0).integers(0, 30, 100)[start:stop]


@pytest.fixture
def checkpoint(tmp_path):
  tokenizer = tmp_path / TOKENIZER.filename
  tokenizer.write_bytes(CONTENT)
  entry = manifests.LineageEntry(
    "pretrain", {}, None, 1000, 10, "0.1", "2026-01-01T00:00:00+00:00"
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype),
    transformer.param_shapes(CONFIG),
  )
  manifest = manifests.Manifest(CONFIG, TOKENIZER, (entry,))
  store.save_model(tmp_path / "base", params, manifest, tokenizer)
  return tmp_path / "base"


@pytest.fixture
def text(monkeypatch):
  fake = FakeStore()
  monkeypatch.setattr(command.data_store.Store, "open", lambda path: fake)
  return fake


def _run(checkpoint, *arguments):
  parser = argparse.ArgumentParser()
  command.add_arguments(parser)
  out = checkpoint.parent / "out"
  command.run(
    parser.parse_args([str(checkpoint), "--out", str(out), *arguments])
  )
  return out


def test_the_result_is_the_function_surgery_applied(checkpoint, text, capsys):
  out = _run(
    checkpoint, "--qk-norm=qk", "--qk-norm-init=matched", "--calibrate=STORE"
  )
  got, manifest = store.load_model(out)
  params, before = store.load_model(checkpoint)
  surgery = compose.Surgery("all", "qk", qk_norm_init="matched")
  tokens_BS = text.read(0, 96).reshape(6, 16)
  config, want = compose.apply(surgery, CONFIG, params, tokens_BS)
  assert manifest.model == config
  assert config.positional == Nope()
  want, got = trees.flatten(want), trees.flatten(got)
  assert want.keys() == got.keys()
  for name, leaf in want.items():
    np.testing.assert_array_equal(leaf, got[name])

  assert manifest.lineage[:-1] == before.lineage
  entry = manifest.lineage[-1]
  assert (entry.operation, entry.tokens, entry.steps) == ("surgery", 1000, 10)
  assert entry.parent == str(checkpoint)
  assert entry.arguments["surgery"] == manifests.encode(surgery)
  assert entry.arguments["calibration"] == {"store": "feed", "tokens": 96}
  assert store.tokenizer_path(out).read_bytes() == CONTENT
  assert capsys.readouterr().out.count("\n") == 1


def test_drop_takes_layers_or_none(checkpoint):
  out = _run(checkpoint, "--drop=1")
  scheme = store.describe(out)[0].model.positional
  assert scheme == Pattern((Rope(), Nope()))
  second = _run(out, "--drop=none", "--logit-scale=1.5", f"--out={out}2")
  assert second == out
  config = store.describe(f"{out}2")[0].model
  assert config == dataclasses.replace(
    CONFIG, positional=scheme, logit_scale=1.5
  )


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    (["--drop=2"], "0..1"),
    (["--drop=first"], "first"),
    (["--drop=none"], "must change something"),
    (["--qk-norm=qk", "--qk-norm-init=matched"], "Give both or neither"),
    (["--calibrate=STORE"], "Give both or neither"),
  ],
)
def test_a_mistake_writes_nothing(checkpoint, arguments, named):
  with pytest.raises(ValueError, match=named):
    _run(checkpoint, *arguments)
  assert not (checkpoint.parent / "out").exists()


@pytest.mark.parametrize(
  ("field", "value", "named"),
  [("num_tokens", 15, "got 15"), ("tokenizer_fingerprint", "00" * 32, "0000")],
)
def test_text_that_does_not_fit_is_refused(
  checkpoint, text, field, value, named
):
  setattr(text, field, value)
  with pytest.raises(ValueError, match=named):
    _run(
      checkpoint, "--qk-norm=q", "--qk-norm-init=matched", "--calibrate=STORE"
    )


def test_an_existing_out_is_refused_before_any_work(checkpoint, monkeypatch):
  (checkpoint.parent / "out").mkdir()
  monkeypatch.setattr(store, "load_model", pytest.fail)
  with pytest.raises(ValueError, match="out exists"):
    _run(checkpoint)
