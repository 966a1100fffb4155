"""A command's flags, in place of the library's parameters, in its messages.

The library names a parameter in backticks, alone or with a value: `llama`,
`logit_scale=1.2`.
"""

from collections.abc import Iterator, Mapping
import contextlib
import re


def named(text: str, flags: Mapping[str, str]) -> str:
  """Returns a message with flags, such as --logit-scale 1.2.

  Args:
    text: the library's.
    flags: for each parameter, the flag that sets it.
  """

  def flag(found: re.Match) -> str:
    name, value = found["name"], found["value"]
    if name not in flags:
      return found[0]
    return flags[name] + ("" if value in (None, "True") else f" {value}")

  return re.sub(r'`(?P<name>\w+)(?:="?(?P<value>[^`"]+)"?)?`', flag, text)


@contextlib.contextmanager
def naming(flags: Mapping[str, str]) -> Iterator[None]:
  """Names flags in the messages of a user's mistakes; see `named`."""
  try:
    yield
  except (FileNotFoundError, ValueError) as error:
    text = named(str(error), flags)
    if text == str(error):
      raise
    missing = isinstance(error, FileNotFoundError)
    raise (FileNotFoundError if missing else ValueError)(text) from error
