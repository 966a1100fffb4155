"""The tool for a GPU, as far as a CPU runs it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from drope_jax import attention
from drope_jax.attention import Mask
from drope_jax.cli import configure
from drope_jax.model.config import ModelConfig

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "bench_gpu.py"


@pytest.fixture(scope="module")
def tool():
  spec = importlib.util.spec_from_file_location("bench_gpu", TOOL)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def tiny():
  return configure.build("models/tiny.gin", ModelConfig)


@pytest.mark.slow
def test_attention_is_within_its_tolerance_of_the_reference(tool, tiny):
  rows = list(tool.attention_errors(tiny, 64))
  assert {row["mask"] for row in rows} == {
    "causal",
    "window",
    "segments",
    "offset",
  }
  assert all(row["passed"] for row in rows), rows
  # Not the reference beside itself.
  assert all(min(row["errors"]) > 0 for row in rows)


def test_a_backend_that_ignores_the_mask_fails(tool, tiny, monkeypatch):
  xla = attention.BACKENDS["xla"]

  def attend(q_BSHD, k_BTKD, v_BTKD, mask, *options):
    if mask.offset_B is not None:
      raise ValueError("No offset.\nNor any other line.")
    return xla.attend(q_BSHD, k_BTKD, v_BTKD, Mask(), *options)

  backends = {**attention.BACKENDS, "xla": xla._replace(attend=attend)}
  monkeypatch.setattr(attention.backends, "BACKENDS", backends)
  rows = list(tool.attention_errors(tiny, 64))
  assert all(row["passed"] == (row["mask"] == "causal") for row in rows), rows
  refused = [row["refused"] for row in rows if row["mask"] == "offset"]
  assert set(refused) == {"No offset."}


def test_a_failure_sets_the_exit_status(tool, monkeypatch, capsys):
  row = {"backend": "cudnn", "dtype": "bfloat16", "mask": "window"}
  found = [row | {"passed": False, "errors": [0.5, 0.5, 0.5, 0.5]}]
  monkeypatch.setattr(tool.rounds, "in_process", lambda row: found)
  monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--part", "correctness"])
  with pytest.raises(SystemExit) as left:
    tool.main()
  assert left.value.code == 1
  assert "cudnn bfloat16 window" in capsys.readouterr().out


def test_the_comparison_says_what_is_not_installed(tool, monkeypatch, capsys):
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name: None if name == "torch" else name
  )
  monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
  with pytest.raises(SystemExit) as left:
    tool.main()
  assert left.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "got no torch. Install them" in line


def test_two_devices_are_not_compared(tool, monkeypatch, capsys):
  devices = {"jax": "cpu", "torch": "NVIDIA H200"}
  monkeypatch.setattr(tool.rounds, "in_process", lambda row: devices)
  monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--part", "speed"])
  with pytest.raises(SystemExit) as left:
    tool.main()
  assert left.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "got cpu in JAX and NVIDIA H200 in torch" in line


@pytest.mark.slow
def test_both_sides_take_a_step_of_one_shape(tmp_path):
  flags = "--part speed --model models/tiny.gin --batch 2 --tokens 64"
  flags += " --rounds 1 --steps 1 --peak-tflops 0.5 --json"
  file = tmp_path / "gpu.json"
  ran = subprocess.run(
    [sys.executable, TOOL, *flags.split(), file],
    capture_output=True,
    env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    text=True,
  )
  assert ran.returncode == 0, ran.stderr
  speed = json.loads(file.read_text())["speed"]
  assert speed["parameters"] == 95_472
  ours, theirs = speed["ours"], speed["theirs"]
  assert speed["ratio"] == pytest.approx(
    ours["tokens_per_s"] / theirs["tokens_per_s"]
  )
  for side in (ours, theirs):
    # 64 tokens of 2 layers of 4 heads of 16, over 6 for each weight.
    weights = 2 * 48 * (2 * 64 + 2 * 32 + 3 * 96) + 512 * 48
    token_flops = 6 * weights + 12 * 2 * 64 * 64
    assert side["mfu_noncausal"] == pytest.approx(
      side["tokens_per_s"] * token_flops / 0.5e12
    )
