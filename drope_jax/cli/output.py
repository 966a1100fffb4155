"""The folder that a command writes its figures and its json to."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

import rich.box
import rich.table

from drope_jax import artifacts
from drope_jax.analysis import canvas
from drope_jax.cli import console as consoles
from drope_jax.cli import terminal
from drope_jax.data import paths, whole_file


@dataclasses.dataclass(frozen=True)
class Output:
  """Writes files, each as a whole, and names them on the terminal."""

  folder: pathlib.Path

  @classmethod
  def open(cls, folder: str) -> "Output":
    """Makes the folder.

    Raises:
      NotADirectoryError: it is a file.
      ValueError: it is empty, or in a bucket.
    """
    path = paths.local(folder, "--out")
    paths.require_folder(path)
    path.mkdir(parents=True, exist_ok=True)
    return cls(path)

  def json(self, what: str, **fields: Any) -> None:
    """Writes WHAT.json.

    Args:
      what: the analysis.
      fields: dicts, lists and dataclasses of scalars; null stands for those
        that are not finite.
    """
    fields = artifacts.encode(fields, tagged=False, finite=False)
    data = artifacts.stamp({"analysis": what, **fields})
    self._write(f"{what}.json", json.dumps(data).encode() + b"\n")

  def figure(self, name: str, figure: canvas.Figure) -> None:
    """Writes NAME.svg, on white."""
    path = self.folder / f"{name}.svg"
    canvas.save(figure, path)
    terminal.say(path)

  def text(self, name: str, content: str) -> None:
    """Writes a text file."""
    self._write(name, content.encode())

  def _write(self, name: str, content: bytes) -> None:
    whole_file.write(self.folder / name, content)
    terminal.say(self.folder / name)


def show(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
  """Prints a table; its first column is text, and the others are numbers."""
  # A table's own title would be wrapped to its width.
  terminal.say(title)
  table = consoles.Table(box=rich.box.SIMPLE)
  first, *others = columns
  table.add_column(first, overflow="fold", min_width=12)
  for column in others:
    table.add_column(column, justify="right", no_wrap=True)
  for row in rows:
    table.add_row(*row)
  consoles.Console().print(table)
