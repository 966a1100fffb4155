"""Libraries of the extras in setup.py, which may not be installed."""

import importlib
from typing import Any


def load(module: str, extra: str, user: str) -> Any:
  """Returns a module of a library that one of the extras brings.

  Args:
    module: its name.
    extra: the library's.
    user: what needs it, at the beginning of a sentence.

  Raises:
    ValueError: the library, or one that it needs, is not installed.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise ValueError(missing(error.name or module, extra, user)) from error


def missing(library: str, extra: str, user: str) -> str:
  """Returns what to say where a library is not installed."""
  return (
    f"{user} needs the library {library}, which is missing. Install it with "
    f"`pip install 'drope_jax[{extra}]'`."
  )
