"""Shows a checkpoint's config, lineage and parameter table.

Reads no array, so it is quick for any size.
"""

import argparse
import json
import math
import os
from typing import Any

import rich
from rich import box, markup, table

from drope_jax import trees
from drope_jax.checkpoint import store
from drope_jax.data import paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("checkpoint", help="model checkpoint, run, or step")
  parser.add_argument("--json", action="store_true", help="print JSON instead")


def run(args: argparse.Namespace) -> None:
  """Prints the checkpoint's description."""
  path = store.locate(paths.resolve(args.checkpoint))
  manifest, shapes = store.describe(path)
  rows = [
    {
      "name": name,
      "shape": list(leaf.shape),
      "dtype": leaf.dtype.name,
      "count": math.prod(leaf.shape),
      "bytes": math.prod(leaf.shape) * leaf.dtype.itemsize,
    }
    for name, leaf in trees.flatten(shapes).items()
  ]
  total = {key: sum(row[key] for row in rows) for key in ("count", "bytes")}
  description = {
    "checkpoint": os.fspath(path),
    **manifest.to_json(),
    "parameters": rows,
    "total": total,
  }
  if args.json:
    print(json.dumps(description, indent=2))
  else:
    _print_tables(description)


def _print_tables(description: dict) -> None:
  rich.print(markup.escape(description["checkpoint"]))
  config = _table("config", "field", "value")
  for name, value in description["model"].items():
    if name != "__class__":
      config.add_row(name, _show(value))
  for name, value in (description["tokenizer"] or {}).items():
    config.add_row(f"tokenizer.{name}", str(value))
  rich.print(config)

  lineage = _table("lineage", "operation", "tokens", "steps", "time", "code")
  lineage.add_column("parent, arguments", overflow="fold")
  for entry in description["lineage"]:
    lineage.add_row(
      entry["operation"],
      f"{entry['tokens']:,}",
      f"{entry['steps']:,}",
      entry["time"],
      entry["code"],
      markup.escape(
        f"{entry['parent'] or 'random weights'}\n{_show(entry['arguments'])}"
      ),
    )
  rich.print(lineage)

  parameters = _table("parameters")
  parameters.add_column("name", no_wrap=True)
  parameters.add_column("shape")
  parameters.add_column("dtype")
  for column in ("count", "bytes"):
    parameters.add_column(column, justify="right")
  for row in description["parameters"]:
    parameters.add_row(
      row["name"],
      str(row["shape"]),
      row["dtype"],
      f"{row['count']:,}",
      f"{row['bytes']:,}",
    )
  total = description["total"]
  parameters.add_section()
  parameters.add_row(
    "total", "", "", f"{total['count']:,}", f"{total['bytes']:,}"
  )
  rich.print(parameters)


def _table(title: str, *columns: str) -> table.Table:
  return table.Table(
    *columns, title=title, title_justify="left", box=box.SIMPLE_HEAD
  )


def _show(value: Any) -> str:
  """Returns an encoded value on one line, dataclasses as Python writes them."""
  if isinstance(value, dict):
    fields = ", ".join(
      f"{name}={_show(item)}"
      for name, item in value.items()
      if name != "__class__"
    )
    return f"{value.get('__class__', '')}({fields})"
  if isinstance(value, list):
    return f"({', '.join(_show(item) for item in value)})"
  return str(value)
