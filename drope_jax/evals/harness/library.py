"""Access to lm-evaluation-harness, which is imported only where it is used."""

from collections.abc import Iterator
import contextlib
import io
import logging
import random
from typing import Any

import numpy as np

from drope_jax import extras

NAME = "lm_eval"


def module(name: str) -> Any:
  """Returns a module of lm_eval by its name within it, such as "tasks".

  Raises:
    ValueError: lm_eval, or a library that it needs, is not installed.
  """
  return extras.load(f"{NAME}.{name}", "eval", "The eval harness")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps lm_eval's progress bars and warnings off the terminal."""
  log = logging.getLogger(NAME)
  level = log.level
  log.setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stderr(io.StringIO()):
      yield
  finally:
    log.setLevel(level)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
  """Seeds the global generators as lm_eval's command does; restores them after.

  Some tasks shuffle the choices of their questions, or draw the questions.
  """
  defaults = module("defaults")
  drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
  random.seed(defaults.DEFAULT_RANDOM_SEED)
  np.random.seed(defaults.DEFAULT_OTHER_SEED)
  try:
    yield
  finally:
    random.setstate(drawn)
    np.random.set_state(drawn_by_numpy)
