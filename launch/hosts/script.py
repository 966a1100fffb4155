"""The start-up script as a file and as text."""

import pathlib

SCRIPT = pathlib.Path(__file__).with_name("bootstrap.py")


def source() -> str:
  """Returns its text, which a pod's command has; that knows no file."""
  return SCRIPT.read_text("utf-8")
