"""`drope surgery`: a checkpoint in, a checkpoint with one entry more out."""

import argparse
import dataclasses
import json
import re
import shutil

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import artifacts, trees
from drope_jax.analysis import damage
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.cli import main
from drope_jax.cli import surgery as command
from drope_jax.data import corpus, tokenizer
from drope_jax.evals import perplexity
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, PartialRope, Pattern, Rope
from drope_jax.surgery import compose

CONFIG = ModelConfig(
  vocab_size=2048,
  num_layers=4,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=32,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A checkpoint of random weights, whose attention is far from uniform."""
  path = tmp_path_factory.mktemp("surgery") / "base"
  tokenizer = epath.Path(corpus.tokenizer_path())
  entry = manifests.LineageEntry(
    "pretrain", {}, None, 1000, 10, "0.1", "2026-01-01T00:00:00+00:00"
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype),
    transformer.param_shapes(CONFIG),
  )
  reference = tokenizer_file.reference(tokenizer)
  manifest = manifests.Manifest(CONFIG, reference, (entry,))
  store.save_model(path, params, manifest, tokenizer)
  return path


@pytest.fixture
def checkpoint(base, tmp_path):
  """The checkpoint, beside which a test may write."""
  return shutil.copytree(base, tmp_path / "base")


def _run(checkpoint, *arguments):
  out = checkpoint.parent / "out"
  parser = main.parser("surgery")
  command.run(
    parser.parse_args([str(checkpoint), "--out", str(out), *arguments])
  )
  return out


def _excerpts(tokens, count):
  encode = tokenizer.load(corpus.tokenizer_path()).encode
  documents = map(encode, corpus.documents("fit"))
  return jnp.asarray(perplexity.excerpts(documents, tokens, count, seed=0))


def test_the_result_is_the_function_surgery_applied(checkpoint):
  out = _run(
    checkpoint,
    *("--qk-norm=qk", "--qk-norm-init=matched", "--qk-norm-scope=head"),
    "--text=packaged:fit",
  )
  got, manifest = store.load_model(out)
  params, before = store.load_model(checkpoint)
  surgery = compose.Surgery(
    "all", qk_norm="qk", qk_norm_scope="head", qk_norm_init="matched"
  )
  # The first eight are what the damage is reported on.
  config, want = compose.apply(surgery, CONFIG, params, _excerpts(32, 16)[8:])
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
  assert entry.arguments["surgery"] == artifacts.encode(surgery)
  text = {"text": ["packaged:fit"], "shape": [8, 32]}
  assert entry.arguments["calibration"] == text
  copied = store.tokenizer_path(out)
  assert copied.read_bytes() == store.tokenizer_path(checkpoint).read_bytes()


def test_an_excerpt_has_a_token_and_the_next_at_least(checkpoint):
  args = argparse.Namespace(excerpt_tokens=2, text=["packaged:fit"])
  dropped = compose.Surgery("all")
  reported_BS, _ = command._excerpts(args, dropped, checkpoint, 32)
  assert reported_BS.shape == (8, 2)


def test_the_damage_is_shown_and_kept_for_the_report(checkpoint, drope):
  out = checkpoint.parent / "out"
  ran = drope(
    *("surgery", checkpoint, "--out", out, "--drop", "1-2"),
    *("--text", "packaged:fit", "--excerpt-tokens", 16),
  )
  assert ran.status == 0, ran.err
  params, _ = store.load_model(checkpoint)
  config = store.describe(out)[0].model
  want = damage.compare((CONFIG, params), (config, params), _excerpts(16, 8))
  kept = damage.Damage.from_json(json.loads((out / "damage.json").read_text()))
  assert kept == want
  lineage = store.describe(out)[0].lineage
  assert lineage[-1].arguments["calibration"] is None, "no gains are matched"
  losses = want.before.loss, want.after.loss
  assert abs(np.diff(losses)) > 1e-3, "the drop did nothing"
  for words in (
    "8 excerpts of 16 tokens\n",
    "loss {:.3f} → {:.3f} nats".format(*losses),
    "perplexity {:,.1f} → {:,.1f}\n".format(*np.exp(losses)),
    f"{want.before.uniform_entropy:.2f} nats",
    "positions dropped in layers 1-2. Recalibrate it",
  ):
    assert words in ran.out
  for row in want.rows():
    assert re.search(r"\s+".join(map(re.escape, row)), ran.out)
  assert max(map(len, ran.out.splitlines()[:-1])) <= 80
  assert drope("report", out, "--out", out / "page.html").status == 0
  page = (out / "page.html").read_text("utf-8")
  assert "Damage of the surgery" in page


def test_without_text_there_is_one_line_that_names_it(checkpoint, capsys):
  out = _run(checkpoint)
  (line,) = capsys.readouterr().out.strip().splitlines()
  assert "all layers" in line and line.endswith("--text would show the damage.")
  assert not (out / "damage.json").exists()


@pytest.mark.parametrize(
  ("arguments", "says"),
  [
    ("--qk-norm qk", None),
    ("--qk-norm k", "a joint norm on k. Use --format sakana"),
    ("--drop none --scaling ntk --scaling-factor 2", None),
    ("--drop none --scaling longrope2 --scaling-factor 2", "got CriticalNtk"),
  ],
)
def test_what_no_stock_architecture_has_is_said(
  checkpoint, drope, arguments, says
):
  out = checkpoint.parent / "out"
  ran = drope("surgery", checkpoint, "--out", out, *arguments.split())
  *before, _ = ran.out.splitlines()
  assert ran.status == 0 and len(before) == (says is not None)
  if says:
    assert before[0].startswith("`drope export` will not") and says in before[0]


def test_a_factor_beyond_all_frequencies_is_refused(checkpoint, drope):
  out = checkpoint.parent / "out"
  arguments = "--drop=none", "--scaling=ntk", "--scaling-factor=1e300"
  ran = drope("surgery", checkpoint, "--out", out, *arguments)
  assert ran.status == 2 and ran.err.count("\n") == 1
  assert "NtkAware needs a finite theta" in ran.err and not out.exists()


def test_drop_takes_ranges_layers_or_none(checkpoint):
  out = _run(checkpoint, "--drop=0-1,3")
  scheme = store.describe(out)[0].model.positional
  assert scheme == Pattern((Nope(), Nope(), Rope(), Nope()))
  _run(out, "--drop=none", "--logit-scale=1.5", f"--out={out}2")
  config = store.describe(f"{out}2")[0].model
  assert config == dataclasses.replace(
    CONFIG, positional=scheme, logit_scale=1.5
  )


@pytest.mark.parametrize(
  "layers",
  ["4", "0-4", "2-1", "first", "1-", "-1", "0,,1", "1-2-3", "", "0-9e9"],
)
def test_layers_that_the_model_has_not_are_refused(checkpoint, drope, layers):
  out = checkpoint.parent / "out"
  ran = drope("surgery", checkpoint, "--out", out, f"--drop={layers}")
  assert ran.status == 2
  assert ran.err.count("\n") == 1
  assert "0..3 such as 0-11,20" in ran.err and repr(layers) in ran.err
  assert not out.exists()


@pytest.mark.parametrize(
  ("first", "again", "says"),
  [
    ("--drop 0-1", "--drop 1-2", "got none in [1]"),
    (
      "--drop none --qk-norm qk",
      "--qk-norm k --qk-norm-init matched --text packaged:fit",
      "got one with 'qk'",
    ),
  ],
)
def test_a_second_surgery_of_one_kind_is_refused(
  checkpoint, drope, monkeypatch, first, again, says
):
  once, twice = checkpoint.parent / "once", checkpoint.parent / "twice"
  ran = drope("surgery", checkpoint, "--out", once, *first.split())
  assert ran.status == 0
  monkeypatch.setattr(store, "load_model", pytest.fail)
  ran = drope("surgery", once, "--out", twice, *again.split())
  assert ran.status == 2
  assert says in ran.err and ran.err.count("\n") == 1
  assert not twice.exists()


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    (["--drop=1,0-2"], "each once"),
    (["--drop=none"], "must change something"),
    (["--qk-norm=qk", "--qk-norm-init=matched"], "Name it with --text"),
    (["--qk-norm-init=matched", "--text=packaged:fit"], "Set qk_norm"),
    (["--excerpt-tokens=16"], "without a text"),
    (["--excerpt-tokens=1", "--text=packaged:fit"], r"2\.\.32.*got 1"),
    (["--excerpt-tokens=33", "--text=packaged:fit"], r"2\.\.32.*got 33"),
    (["--text=packaged:valid"], "'valid'"),
  ],
)
def test_a_mistake_writes_nothing(checkpoint, arguments, named):
  with pytest.raises(ValueError, match=named):
    _run(checkpoint, *arguments)
  assert not (checkpoint.parent / "out").exists()


def test_matching_gains_needs_text_beyond_the_reported(checkpoint):
  text = checkpoint.parent / "text.txt"
  text.write_text(next(corpus.documents("fit"))[:1500])
  _run(checkpoint, f"--text={text}")
  matched = ("--qk-norm=qk", "--qk-norm-init=matched")
  with pytest.raises(ValueError, match="16 excerpts of 32 tokens are needed"):
    _run(checkpoint, f"--text={text}", *matched, f"--out={checkpoint}2")
  assert not epath.Path(f"{checkpoint}2").exists()


def test_an_existing_out_is_refused_before_any_work(checkpoint, monkeypatch):
  (checkpoint.parent / "out").mkdir()
  monkeypatch.setattr(store, "load_model", pytest.fail)
  with pytest.raises(ValueError, match="out exists"):
    _run(checkpoint)


def test_slow_pairs_windows_and_theta_are_arguments(checkpoint, drope):
  out = checkpoint.parent / "out"
  ran = drope(
    *("surgery", checkpoint, "--out", out, "--drop", "1-3"),
    *("--keep-rotations", 1, "--window", "0=8", "--theta", 100),
    *("--logit-scale-slope", 0.2),
  )
  assert ran.status == 0, ran.err
  # In 32 tokens theta 100 completes 5.1, 1.6, 0.51 and 0.16 rotations.
  fast, rope = PartialRope(Rope(100.0), 2), Rope(100.0)
  model = store.describe(out)[0].model
  assert model.logit_scale_slope == 0.2
  assert model.positional == Pattern(
    (rope, fast, fast, fast), (8, None, None, None)
  )
  assert (
    "theta 100; a window of 8 tokens in layer 0; positions dropped in layers "
    "1-3 but of pairs that complete 1 rotation; logit scale slope 0.2"
  ) in ran.out


def test_a_scaling_is_an_argument(checkpoint, drope):
  out = checkpoint.parent / "out"
  ran = drope(
    *("surgery", checkpoint, "--out", out, "--drop", "none"),
    *("--scaling", "yarn", "--scaling-factor", 8),
  )
  assert ran.status == 0, ran.err
  model = store.describe(out)[0].model
  assert model.positional.factor == 8.0
  assert model.positional.trained_tokens == model.context_tokens
  assert ran.out.startswith(f"{out}: scaling yarn by 8. Recalibrate it")


def test_a_scale_beyond_the_context_asks_for_no_recalibration(
  checkpoint, drope
):
  out = checkpoint.parent / "out"
  command = ("surgery", checkpoint, "--out", out, "--drop", "none")
  ran = drope(*command, "--logit-scale-slope", 0.2)
  assert ran.out == f"{out}: logit scale slope 0.2.\n"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--keep-rotations", 1, "--keep-pairs", 2), "not allowed with"),
    (("--window", "first=8"), "LAYER=TOKENS such as 0=32, got 'first=8'"),
    (("--window", "4=8"), "layers in 0..3, got 4"),
    (("--keep-pairs", 4), "none in [0, 1, 2, 3]: Rope"),
    (("--keep-rotations", -1), "a number above 0, got keep_rotations=-1.0"),
  ],
)
def test_pairs_and_windows_that_cannot_be(
  checkpoint, drope, arguments, message
):
  out = checkpoint.parent / "out"
  ran = drope("surgery", checkpoint, "--out", out, *arguments)
  assert ran.status == 2 and message in ran.err, ran.err
  assert not out.exists()
