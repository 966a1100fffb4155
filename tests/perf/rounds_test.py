"""Rows take turns, and ratios compare figures of the same round."""

import subprocess
import sys
import textwrap

from drope_jax.perf import rounds


def test_rows_take_turns():
  calls = []
  found = rounds.in_turn("ab", 3, lambda row: calls.append(row) or len(calls))
  assert calls == ["a", "b"] * 3
  assert found == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_a_ratio_is_of_each_round():
  # A neighbor made the second round ten times as slow for both.
  assert rounds.ratio([2, 20, 3], [1, 10, 1]) == (2, 2, 3)


def test_a_row_runs_in_a_process_with_the_same_arguments(tmp_path):
  tool = tmp_path / "tool.py"
  tool.write_text(
    textwrap.dedent("""
      import json, os, sys
      from drope_jax.perf import rounds
      if "--row" in sys.argv:
        print("not this line")
        print(json.dumps([os.getpid(), sys.argv[1:]]))
      else:
        pid, arguments = rounds.in_process("ours", "--folder", "x")
        print(pid != os.getpid(), *arguments)
    """)
  )
  command = [sys.executable, tool, "--steps", "2"]
  out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  assert out.stdout == "True --steps 2 --row ours --folder x\n"
