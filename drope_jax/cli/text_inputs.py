"""The text inputs that a command line names."""

from collections.abc import Sequence

from drope_jax.cli import terminal
from drope_jax.data import inputs, reading, sources


def expand(
  names: Sequence[str], options: reading.Options = reading.DEFAULT
) -> tuple[sources.Source, ...]:
  """Returns the sources of `inputs.expand`; prints what is left out.

  Raises:
    FileNotFoundError, ValueError: as `inputs.expand`.
  """
  found, left_out = inputs.expand(names, options)
  if left_out:
    terminal.say(inputs.describe(left_out), stderr=True)
  return found
