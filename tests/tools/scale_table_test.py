"""tools/scale_table.py agrees with what docs/scale.md says by other ways."""

import importlib.util
import pathlib

import pytest

from drope_jax.cli import configure
from drope_jax.model.config import ModelConfig

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table():
  spec = importlib.util.spec_from_file_location(
    "scale_table", ROOT / "tools" / "scale_table.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _row(table, model, chip, **changes):
  config = configure.build(f"models/{model}.gin", ModelConfig)
  options = {"tokens": 30e9, "mfu": 0.5, "teacher": False, "frozen": False}
  return table.row(config, chip, **options | changes)


def test_hours_are_those_of_drope_plan(table):
  """llama2_7b_drope_reference.gin: 5,000 steps of 512 x 4096 in 5.0 hours."""
  found = _row(table, "llama2_7b", "v5e", tokens=5_000 * 512 * 4096)
  assert found.hours == pytest.approx(5.0, abs=0.05)
  assert found.chip_hours == pytest.approx(256 * found.hours)
  assert found.dollars == pytest.approx(1.20 * found.chip_hours)
  tokens_a_second = 5_000 * 512 * 4096 / (3600 * found.hours)
  assert found.read_mb == pytest.approx(2 * tokens_a_second / 1e6)
  assert found.save_gib == pytest.approx(12 * 6_738_415_616 / 2**30)


def test_a_teacher_adds_a_forward_pass_and_lora_saves_a_third(table):
  plain = _row(table, "llama3_70b", "v6e")
  teacher = _row(table, "llama3_70b", "v6e", teacher=True)
  assert teacher.hours == pytest.approx(plain.hours * 4 / 3)
  # Attention's own products keep their gradients.
  lora = _row(table, "llama3_70b", "v6e", frozen=True)
  assert 2 / 3 < lora.hours / plain.hours < 0.72
  assert lora.save_gib < 0.5
  # Its vocabulary of 128,256 needs four bytes a token.
  per_token = plain.read_mb * 1e6 / (30e9 / (3600 * plain.hours))
  assert per_token == pytest.approx(4)
