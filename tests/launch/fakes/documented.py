"""The documented flags of each command, and a parser that allows no others."""

from collections.abc import Sequence
import pathlib
import tomllib
from typing import Any

TABLE = tomllib.loads(
  (pathlib.Path(__file__).parents[1] / "documented.toml").read_text()
)
_EVERYWHERE = {"project", "quiet", "format", "filter"}


def parse(args: Sequence[str]) -> tuple[str, list[str], dict[str, str]]:
  """Returns a command's name in the table, its positions, and its flags.

  Raises:
    ValueError: no page documents that command, or a flag of it.
  """
  # What follows a lone -- is another program's.
  args = list(args[: args.index("--")] if "--" in args else args)
  plain = [word for word in args if not word.startswith("--")]
  name = max(
    (n for n in TABLE if plain[: len(n.split())] == n.split()),
    key=len,
    default=None,
  )
  if name is None:
    raise ValueError(f"no page has the command {' '.join(plain)}")
  flags: dict[str, Any] = {}
  for word in args:
    if word.startswith("--"):
      flag, _, value = word[2:].partition("=")
      known = set(TABLE[name]["flags"])
      if args[0] == "gcloud":
        known |= _EVERYWHERE
      if flag not in known:
        raise ValueError(f"{name}: no page has the flag --{flag}")
      flags[flag] = value
  return name, plain[len(name.split()) :], flags
