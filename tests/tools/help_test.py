"""Every tool explains itself; what it does is tested with what it calls."""

import json
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
# In one process, which imports jax once.
_EXPLAIN = """
import contextlib, io, json, runpy, sys, traceback
told = {}
for tool in sys.argv[1:]:
  out, sys.argv, status = io.StringIO(), [tool, "--help"], None
  with contextlib.redirect_stdout(out):
    try:
      runpy.run_path(tool, run_name="__main__")
    except SystemExit as end:
      status = end.code
    except Exception:
      traceback.print_exc(file=out)
  told[tool] = status, out.getvalue()
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[int | None, str]]:
  """The status of each tool's --help, and what it prints."""
  path = os.pathsep.join([str(ROOT / "tools"), str(ROOT)])
  ran = subprocess.run(
    [sys.executable, "-c", _EXPLAIN, *map(str, TOOLS)],
    capture_output=True,
    env=os.environ | {"PYTHONPATH": path},
    text=True,
  )
  assert ran.returncode == 0, ran.stderr
  return json.loads(ran.stdout)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_a_tool_explains_itself(tool, told):
  status, out = told[str(tool)]
  assert status == 0, out
  assert f"usage: {tool.name}" in out
  first = tool.read_text().splitlines()[0].strip('"')
  assert first.split()[0] in out


def test_there_are_tools():
  assert {"demo_data", "package_checkpoint"} <= {tool.stem for tool in TOOLS}
