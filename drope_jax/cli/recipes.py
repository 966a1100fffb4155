"""`drope recipes`: lists the shipped configs, or prints one."""

import argparse
import difflib
import pathlib
import re

import rich.table

from drope_jax.cli import console as consoles
from drope_jax.cli import shipped, terminal

_KINDS = ("recipes", "models", "evals", "sweeps")


def run(args: argparse.Namespace) -> None:
  """Prints the list, or a file.

  Raises:
    ValueError: no shipped config has that name.
  """
  if args.name is None:
    consoles.Console().print(*map(_list, _KINDS))
  else:
    terminal.say(copy(_find(args.name)).rstrip("\n"))


def copy(file: pathlib.Path) -> str:
  """Returns a shipped config's text; its includes work from any folder."""

  def by_name(include: re.Match) -> str:
    included = (file.parent / include[1]).resolve()
    return f"include '{included.relative_to(shipped.folder().resolve())}'"

  return re.sub(r"(?m)^include '(.*)'", by_name, file.read_text("utf-8"))


def purpose(file: pathlib.Path) -> str:
  """Returns the first sentence of a config's header."""
  header = file.read_text("utf-8").split("\n#\n")[0]
  text = " ".join(line.strip("# ") for line in header.splitlines())
  return re.split(r"(?<=\.)\s", text)[0]


def _list(kind: str) -> rich.table.Table:
  shown = rich.table.Table(
    title=kind,
    title_justify="left",
    title_style="bold",
    box=None,
    show_header=False,
    padding=(0, 0, 0, 2),
  )
  shown.add_column(no_wrap=True)
  shown.add_column()
  for file in sorted((shipped.folder() / kind).glob("*.gin")):
    shown.add_row(file.stem, purpose(file))
  return shown


def _find(name: str) -> pathlib.Path:
  wanted = name.removesuffix(".gin")
  files = {
    f"{kind}/{file.stem}": file
    for kind in _KINDS
    for file in sorted((shipped.folder() / kind).glob("*.gin"))
  }
  for known, file in files.items():
    if wanted in (known, file.stem):
      return file
  stems = {known.split("/")[1]: None for known in files}
  near = difflib.get_close_matches(wanted, [*files, *stems], n=3, cutoff=0.5)
  advice = f"Did you mean {' or '.join(near)}?" if near else ""
  raise ValueError(
    f"The name of a shipped config is needed, got {name!r}. {advice} "
    "`drope recipes` lists all."
  )
