"""The manifest: exact both ways; appended to, and never changed."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
import pytest

from drope_jax import positional
from drope_jax.checkpoint import manifest as manifests
from drope_jax.model.config import LayerGroup, ModelConfig

# Floats without a short decimal form, so that rounding is noticed.
positive = st.floats(min_value=1.0, max_value=1e9, allow_nan=False)
thetas = st.floats(min_value=1.0, max_value=1e9, exclude_min=True)
tokens = st.integers(min_value=1, max_value=2**40)
fields = {
  "Rope": {"theta": thetas},
  "Nope": {},
  "Alibi": {},
  "Kerple": {},
  "Fope": {
    "theta": thetas,
    "trained_tokens": st.integers(8, 10**6),
    "gain": positive,
    "seed": st.integers(0, 2**32 - 1),
  },
  "LogScaled": {
    "scheme": st.builds(positional.Rope, theta=thetas),
    "trained_tokens": st.integers(2, 10**6),
    "slope": st.none() | positive,
  },
  "PositionInterpolation": {"theta": thetas, "factor": positive},
  "NtkAware": {"theta": thetas, "factor": positive},
  "Yarn": {
    "factor": positive,
    "trained_tokens": tokens,
    "length_factor": st.none() | positive,
    "truncate": st.booleans(),
  },
  "CriticalNtk": {
    "factor": positive,
    "trained_tokens": st.integers(2, 2**40),
  },
  "Llama3Rope": {"factor": positive, "trained_tokens": tokens},
  "Dynamic": {
    "scaling": st.builds(positional.NtkAware, theta=thetas),
    "trained_tokens": tokens,
  },
  "PartialRope": {"rope": st.builds(positional.Rope, theta=thetas)},
  "RescaledRope": {"factors": st.tuples(*[positive] * 4)},
  "LongRope": {
    "theta": thetas,
    "short_factor": st.tuples(*[positive] * 4),
    "long_factor": st.tuples(*[positive] * 4),
    "trained_tokens": tokens,
    "attention_factor": positive,
  },
}
schemes = st.one_of(
  [st.builds(positional.CATALOGUE[name], **fields[name]) for name in fields]
)
# Its table has to reach the model's context, and all layers have it or none.
learned = st.builds(
  positional.LearnedAbsolute, tokens=st.integers(32, 2**20), stretch=positive
)
windows = st.none() | st.integers(1, 2**31 - 1)
patterns = st.lists(st.tuples(schemes, windows), min_size=2, max_size=2).map(
  lambda layers: positional.Pattern(*map(tuple, zip(*layers, strict=True)))
)


ROPE = positional.Rope()


def _config(scheme=ROPE, **fields):
  shape = {
    "vocab_size": 64,
    "num_layers": 2,
    "width": 16,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "mlp_width": 32,
    "context_tokens": 32,
  }
  return ModelConfig(**shape | fields, positional=scheme)


def _entry(operation="pretrain", tokens=100, steps=10, **arguments):
  return manifests.LineageEntry(
    operation, arguments, None, tokens, steps, "0.1", "2026-01-01T00:00:00"
  )


def _through_json(manifest):
  text = json.dumps(manifest.to_json(), allow_nan=False)
  return manifests.Manifest.from_json(json.loads(text))


def test_defaults_of_added_fields_keep_the_old_behavior():
  config = _config(positional.Yarn(factor=4.0))
  data = manifests.Manifest(config).to_json()
  assert data["model"].pop("logit_scale_slope") is None
  yarn = data["model"]["positional"]
  assert (yarn.pop("length_factor"), yarn.pop("truncate")) == (None, True)
  assert manifests.Manifest.from_json(data).model == config


@pytest.mark.parametrize(
  ("field", "value", "says"),
  [
    ("num_layers", "2", "needs values of its fields' types, got .*'2'"),
    ("num_layers", 10**9, "at most 10000, got 1000000000"),
    ("norm_eps", -1e-5, "norm_eps must be finite and above 0, got -1e-05"),
  ],
)
def test_a_config_with_impossible_values_is_refused(field, value, says):
  data = manifests.Manifest(_config()).to_json()
  data["model"][field] = value
  with pytest.raises(ValueError, match=says):
    manifests.Manifest.from_json(data)


def test_groups_of_layers_survive_json():
  groups = (LayerGroup(1, mlp_width=8), LayerGroup(1, norm_placement="post"))
  manifest = manifests.Manifest(_config(layer_groups=groups), None, ())
  stored = json.loads(json.dumps(manifest.to_json()))
  assert manifests.Manifest.from_json(stored) == manifest


def test_every_scheme_of_the_catalogue_is_tested():
  assert {*fields, "LearnedAbsolute", "Pattern"} == set(positional.CATALOGUE)


@given(
  scheme=schemes | learned | patterns,
  eps=st.floats(min_value=1e-12, max_value=1e-3),
  norm=st.sampled_from(["none", "q", "k", "qk"]),
)
def test_a_config_survives_json_exactly(scheme, eps, norm):
  manifest = manifests.Manifest(
    _config(scheme, norm_eps=eps, qk_norm=norm),
    manifests.TokenizerRef("a.model", "00ff", 60),
    (_entry(rate=eps), _entry("surgery", drop=(0, 1))),
  )
  assert _through_json(manifest) == manifest


def _change(data, path, **changes):
  """Returns `data` with keys at `path` set, or removed if None."""
  data = json.loads(json.dumps(data))
  node = data
  for key in path:
    node = node[key]
  for key, value in changes.items():
    node.pop(key, None)
    if value is not None:
      node[key] = value
  return data


@pytest.mark.parametrize(
  ("path", "changes", "named"),
  [
    ((), {"model": None}, "Manifest needs model, "),
    ((), {"extra": 1}, "Manifest has no field extra, got a file of 0.1 "),
    (("model",), {"width": None}, "ModelConfig needs width, "),
    (("model",), {"widht": 1}, "ModelConfig has no field widht, "),
    (("model", "positional"), {"stretch": 1.0}, "no field stretch, "),
    (
      ("model", "positional"),
      {"__class__": "Rotary2"},
      "'Rotary2' in a file of 0.1 ",
    ),
    (("tokenizer",), {"filename": None}, "TokenizerRef needs filename, "),
    (("lineage", 0), {"steps": None}, "LineageEntry needs steps, "),
  ],
)
def test_a_missing_or_unknown_key_is_named(path, changes, named):
  manifest = manifests.Manifest(
    _config(), manifests.TokenizerRef("a", "00", 60), (_entry(),)
  )
  data = manifest.to_json()
  assert manifests.Manifest.from_json(data) == manifest
  with pytest.raises(ValueError, match=named):
    manifests.Manifest.from_json(_change(data, path, **changes))


def test_a_newer_schema_is_refused_and_named():
  data = manifests.Manifest(_config()).to_json()
  data |= {"schema_version": 99, "a_key_of_the_future": 1}
  with pytest.raises(ValueError, match="99.*Install the version"):
    manifests.Manifest.from_json(data)


def test_appending_keeps_earlier_lineage_entries():
  first = manifests.Manifest(_config(), lineage=(_entry(),))
  bare = _config(positional.Nope())
  second = first.appended(_entry("surgery"), bare)
  assert second.lineage == (*first.lineage, _entry("surgery"))
  assert second.model == bare
  assert first.lineage == (_entry(),)
  with pytest.raises(dataclasses.FrozenInstanceError):
    first.lineage[0].tokens = 0


def test_an_operation_adds_its_tokens_and_steps_to_those_before():
  fresh = manifests.Manifest(_config())
  begun = fresh.after("surgery", {}, None)
  trained = begun.after("pretrain", {}, None, steps=2, tokens=64)
  again = trained.after("recalibrate", {}, None, steps=3, tokens=48)
  totals = [(entry.steps, entry.tokens) for entry in again.lineage]
  assert totals == [(0, 0), (2, 64), (5, 112)]


@pytest.mark.parametrize(("tokens", "steps"), [(99, 10), (100, 9)])
def test_lineage_totals_must_not_decrease(tokens, steps):
  manifest = manifests.Manifest(_config(), lineage=(_entry(),))
  manifest.appended(_entry(tokens=100, steps=10))
  with pytest.raises(ValueError, match="must not decrease"):
    manifest.appended(_entry("recalibrate", tokens, steps))


def test_arguments_can_hold_a_dataclass():
  entry = _entry(scheme=positional.Rope(3.0))
  assert entry.arguments == {"scheme": {"__class__": "Rope", "theta": 3.0}}


@pytest.mark.parametrize(
  "value", [float("nan"), float("inf"), {1: 2}, object()]
)
def test_values_that_json_cannot_hold_are_refused(value):
  with pytest.raises(ValueError, match="finite scalars"):
    _entry(value=value)


def test_a_tokenizer_larger_than_the_model_is_refused():
  fits = manifests.TokenizerRef("a.model", "00", 64)
  manifests.Manifest(_config(), fits)
  with pytest.raises(ValueError, match="65 pieces of a.model"):
    manifests.Manifest(_config(), dataclasses.replace(fits, vocab_size=65))
