"""Every tool explains itself; what it does is tested with what it calls."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOOLS = [
  file
  for file in sorted((ROOT / "tools").glob("*.py"))
  if "__main__" in file.read_text()  # Others are what some tools share.
]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_a_tool_explains_itself(tool):
  ran = subprocess.run(
    [sys.executable, tool, "--help"],
    capture_output=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    text=True,
  )
  assert ran.returncode == 0, ran.stderr
  assert f"usage: {tool.name}" in ran.stdout
  first = tool.read_text().splitlines()[0].strip('"')
  assert first.split()[0] in ran.stdout


def test_there_are_tools():
  assert {"demo_data", "package_checkpoint"} <= {tool.stem for tool in TOOLS}
