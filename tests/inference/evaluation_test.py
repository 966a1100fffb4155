import numpy as np
import pytest

from drope_jax.evals.record import Record
from drope_jax.evals.suite import Material, Suite
from drope_jax.inference import evaluation
from drope_jax.inference.lm import CheckpointLM
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Nope,
  NtkAware,
  PositionInterpolation,
  Rope,
  Yarn,
)

CONFIG = ModelConfig(64, 1, 16, 2, 1, 8, 16, context_tokens=32)


def test_a_method_reads_the_same_weights_under_its_positions():
  lm = CheckpointLM(CONFIG, {"embed": 1}, None, 1.0)
  variant = evaluation.variants(lm)
  assert variant("model", 4.0) is lm
  schemes = {
    "rope": Rope(),
    "pi": PositionInterpolation(factor=4.0),
    "ntk": NtkAware(factor=4.0),
    "yarn": Yarn(factor=4.0, trained_tokens=32),
  }
  for method, scheme in schemes.items():
    read = variant(method, 4.0)
    assert read.config.positional == scheme
    assert read.params is lm.params
    assert read.context_tokens == 32, "the base of the factors has moved"


@pytest.mark.parametrize("rule", ["pi", "ntk", "yarn"])
def test_a_dynamic_method_scales_by_the_texts_own_length(rule):
  variant = evaluation.variants(CheckpointLM(CONFIG, {}, None, 1.0))
  scheme = variant(f"dynamic_{rule}", 8.0).config.positional
  # Not by the tested length, 8 times the trained 32 tokens.
  for length in (32, 48, 256):
    fixed = variant(rule, max(length / 32, 1.01)).config.positional
    own = scheme.at(length)
    assert own.factor == length / 32
    if length > 32:
      np.testing.assert_array_equal(own.frequencies(8), fixed.frequencies(8))
  with pytest.raises(ValueError, match="dynamic_yarn, got 'dynamic_rope'"):
    variant("dynamic_rope", 2.0)


def test_methods_that_change_nothing_are_the_model_itself():
  lm = CheckpointLM(CONFIG, {"embed": 1}, None, 1.0)
  variant = evaluation.variants(lm)
  for method in ("model", "crop", "rope", "pi", "ntk", "yarn"):
    assert variant(method, 1.0) is lm
  assert variant("rope", 4.0) is lm
  assert variant("crop", 4.0) is not lm
  with pytest.raises(ValueError, match="model, crop, .*, got 'yarnn'"):
    variant("yarnn", 1.0)
  no_rope = lm.with_positions(Nope())
  with pytest.raises(ValueError, match="got 'yarnn'"):
    evaluation.methods_of(Suite(methods=("model", "yarnn")), no_rope)


def test_an_evaluation_of_no_model_is_refused():
  with pytest.raises(ValueError, match="at least one model, got none"):
    evaluation.plan(Suite(), {}, Material([], []), Record())
