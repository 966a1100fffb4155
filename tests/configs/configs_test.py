import math
import pathlib
import re

import jax
import pytest

from drope_jax.cli import configure
from drope_jax.model import config as model_config
from drope_jax.model import transformer

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
MODELS = sorted((CONFIGS / "models").glob("*.gin"))

# As the authors publish them; an error in any dimension changes the sum.
PUBLISHED_PARAMETERS = {
  "llama2_7b": 6_738_415_616,
  "llama3_8b": 8_030_261_248,
  "qwen2_0_5b": 494_032_768,
  "smollm2_135m": 134_515_008,
  "smollm2_1_7b": 1_711_376_384,
  "smollm_1_7b": 1_711_376_384,
  "smollm_360m": 361_821_120,
  "tinyllama_1_1b": 1_100_048_384,
}


def _model(path: pathlib.Path) -> model_config.ModelConfig:
  return configure.build(str(path), model_config.ModelConfig)


def _parameters(config: model_config.ModelConfig) -> int:
  leaves = jax.tree.leaves(transformer.param_shapes(config))
  return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_model_has_its_published_number_of_parameters(name):
  config = _model(CONFIGS / f"models/{name}.gin")
  assert _parameters(config) == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_header_states_what_the_file_describes(path):
  text = path.read_text()
  stated = re.search(r"^# Parameters: ([\d,]+)\.$", text, re.M).group(1)
  assert _parameters(_model(path)) == int(stated.replace(",", ""))
  assert "# Source: " in text
  assert f"'../models/{path.name}'" in text


def test_every_published_model_is_covered():
  assert {path.stem for path in MODELS} == {"tiny", *PUBLISHED_PARAMETERS}
