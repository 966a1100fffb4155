"""README.md of an export says what its reader must know, and no more."""

import dataclasses
import json
import pathlib

import pytest

from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint.formats import model_card
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Rope

CONFIG = ModelConfig(
  vocab_size=8,
  num_layers=2,
  width=8,
  num_heads=1,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=8,
  context_tokens=512,
  positional=Nope(),
)
NO_FIGURES = model_card.Figures()
LINEAGE = (
  manifests.LineageEntry(
    *("convert", {}, "/home/someone/SmolLM-135M", 0, 0),
    *("0.1", "2026-01-01T00:00:00+00:00"),
  ),
  manifests.LineageEntry(
    *("recalibrate", {}, "/home/someone/dropped", 2_000_000, 100),
    *("0.1", "2026-01-02T00:00:00+00:00"),
  ),
)


def _manifest(positional=CONFIG.positional, lineage=LINEAGE):
  config = dataclasses.replace(CONFIG, positional=positional)
  return manifests.Manifest(config, lineage=lineage)


def _row(model, factor, value):
  return {
    "task": "multi_key",
    "metric": "accuracy",
    "model": model,
    "method": "model",
    "factor": factor,
    "context_tokens": 512,
    "logit_scale": 1.2,
    "value": value,
    "low": value - 0.1,
    "high": value + 0.1,
  }


def _results(manifest):
  others = _manifest(Rope())
  return json.loads(
    json.dumps(
      {
        "models": {
          "base": {"manifest": others.to_json()},
          "dropped": {"manifest": manifest.to_json()},
        },
        "fits": {
          "dropped": {
            "crop": {"c": 0.5, "factor": 4.0},
            "model": {"c": 0.125, "factor": 4.0},
          }
        },
        "rows": [
          _row("base", 8, 0.0),
          _row("dropped", 1, 0.61),
          _row("dropped", 4, 0.45),
        ],
      }
    )
  )


def _text(manifest, figures=NO_FIGURES, **fields):
  settings = {
    "name": "mine",
    "architecture": "SmolLM3ForCausalLM",
    "manifest": manifest,
    "parameters": "1,000 parameters in bfloat16",
    "context_tokens": 4096,
    "context_reason": "as asked for",
    "folded_scale": None,
    "figures": figures,
    "is_stock": True,
  }
  return model_card.Card(**settings | fields).text()


def test_the_figures_are_those_of_the_checkpoint():
  manifest = _manifest()
  found = model_card.figures(_results(manifest), manifest, pathlib.Path("r"))
  assert found.longest_tokens == 2048
  assert found.slope == 0.125
  text = _text(manifest, found)
  row = "| multi_key | accuracy | model | 4 | 1.2 | 0.450 | 0.350..0.550 |"
  assert row in text and "here 0.125" in text
  assert "| 0.000 |" not in text, "another model's"


@pytest.mark.parametrize("context_tokens", [512, 513])
def test_a_scale_beyond_the_context_is_said_beyond_it_alone(context_tokens):
  text = _text(_manifest(), context_tokens=context_tokens)
  assert ("Beyond the trained context" in text) == (context_tokens > 512)


@pytest.mark.parametrize(
  ("slope", "said"),
  [(None, "better. No c was fitted"), (0.21, "do better, with c"), (0, "")],
)
def test_a_scale_is_better_where_one_was_fitted(slope, said):
  figures = dataclasses.replace(NO_FIGURES, slope=slope)
  text = _text(_manifest(), figures)
  assert said in text
  assert ("1 + c ln" in text) == bool(said)


def test_figures_are_of_the_weights_whether_a_slope_was_saved_or_not():
  results = _results(_manifest())
  fitted = _manifest().after(
    manifests.FITTED_SLOPE,
    {"slope": 0.25},
    None,
    model=dataclasses.replace(_manifest().model, logit_scale_slope=0.25),
  )
  found = model_card.figures(results, fitted, pathlib.Path("r"))
  assert found.longest_tokens == 2048
  assert "here 0.25" in _text(fitted, found), "not the checkpoint's own"


def test_results_of_others_are_refused():
  results = _results(_manifest())
  with pytest.raises(ValueError, match="got those of base, dropped in r"):
    model_card.figures(results, _manifest(lineage=()), pathlib.Path("r"))


def test_it_tells_what_a_reader_must_know():
  text = _text(_manifest())
  for words in (
    "no positional embeddings (DroPE",
    "Trained at 512 tokens; `max_position_embeddings` is 4,096, as asked for",
    "1 + c ln(length / 512)",
    "| recalibrate | 2,000,000 | 100 | 2026-01-02 |",
    "The license is not recorded. The weights were made from `SmolLM-135M`",
    'from_pretrained("mine")',
  ):
    assert words in text
  assert "/home" not in text and "## Figures" not in text
  part = _manifest(Pattern((Rope(), Nope())))
  assert "no positional embeddings in 1 of 2 layers" in _text(part)


def test_a_tokenizer_is_loaded_where_there_is_one():
  bare = _manifest()
  assert "AutoTokenizer" not in _text(bare)
  ref = manifests.TokenizerRef("tokenizer.json", "0" * 64, 8)
  text = _text(dataclasses.replace(bare, tokenizer=ref))
  assert 'AutoTokenizer.from_pretrained("mine")\n```' in text


def test_a_scale_in_the_weights_is_said():
  text = _text(_manifest(), folded_scale=1.25)
  assert "multiplied by 1.25, by way of q's weights" in text
  assert "c ln" not in text
