"""The tables combine seeds and compare rivals on the same samples."""

import json
import pathlib
import subprocess
import sys

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "ladder_table.py"


def _write(folder, method, outcomes):
  value = sum(outcomes) / len(outcomes)
  row = {
    "task": "multi_key",
    "metric": "accuracy",
    "model": folder.name,
    "method": method,
    "factor": 4.0,
    "context_tokens": 512,
    "logit_scale": 1.0,
    "count": len(outcomes),
    "mean_tokens": 2048.0,
    "scale_fitted": False,
    "value": value,
    "low": None,
    "high": None,
    "seed": 0,
    "outcomes": outcomes,
    "series": None,
  }
  folder.mkdir()
  results = {"schema": 2, "finished": True, "rows": [row]}
  (folder / "results.json").write_text(json.dumps(results))


def _run(*arguments):
  return subprocess.run(
    [sys.executable, TOOL, *arguments], capture_output=True, text=True
  )


def test_seeds_are_one_line_and_differences_are_paired(tmp_path):
  _write(tmp_path / "base", "yarn", [1.0, 0.0, 0.0, 0.0] * 10)
  _write(tmp_path / "keep12_1.0M_s0", "model", [1.0, 1.0, 0.0, 0.0] * 10)
  _write(tmp_path / "keep12_1.0M_s1", "model", [1.0, 1.0, 1.0, 0.0] * 10)
  out = _run(tmp_path).stdout
  assert "| base · YaRN | 0.25 |" in out
  assert "| keep12_1.0M | 0.62 (0.50–0.75) |" in out
  assert "| keep12_1.0M | +0.38 [+0.24, +0.51] |" in out


def test_missing_inputs_are_named(tmp_path):
  empty = _run(tmp_path)
  assert empty.returncode == 2 and "Traceback" not in empty.stderr
  assert "results.json for each variant is required" in empty.stderr
  _write(tmp_path / "base", "model", [1.0])
  alone = _run(tmp_path)
  assert alone.returncode == 2
  assert "needs one of base, got base · YaRN" in alone.stderr
  (tmp_path / "base" / "results.json").write_text("{")
  damaged = _run(tmp_path)
  assert damaged.returncode == 2 and "Traceback" not in damaged.stderr
