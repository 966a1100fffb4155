"""The start-up script, as a file and as text."""

import pathlib

SCRIPT = pathlib.Path(__file__).with_name("bootstrap.py")


def source() -> str:
  """Returns its text; a pod's command contains it, as a pod has no file."""
  return SCRIPT.read_text("utf-8")
