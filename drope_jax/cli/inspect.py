r"""Shows a checkpoint's config, lineage and parameter table.

Reads no array, so it is quick for any size. With --sharding it shows what each
device of a TPU slice holds of every parameter, by a recipe's mesh; of a
checkpoint, with all devices on the fsdp axis.

  drope inspect runs/mine
  drope inspect --sharding recipes/tiny.gin --topology v5e-8
  drope inspect --sharding recipes/llama2_7b_drope.gin \
    --model models/llama2_7b.gin --topology v5p-128
"""

import argparse
import json
import math
import os
from typing import Any

import jax
from rich import box, table

from drope_jax import sharding, trees
from drope_jax.checkpoint import store
from drope_jax.cli import configure, recipes, terminal
from drope_jax.cli import console as consoles
from drope_jax.data import paths
from drope_jax.model import transformer
from drope_jax.plan import slices
from drope_jax.train.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "checkpoint",
    metavar="CHECKPOINT",
    help="model checkpoint, run, or step; with --sharding a CONFIG.gin too",
  )
  parser.add_argument(
    "--sharding", action="store_true", help="show parameters on a TPU slice"
  )
  parser.add_argument(
    "--topology", metavar="SLICE", help="of --sharding: v5e-256, say"
  )
  recipes.add_model(parser)
  parser.add_argument("--json", action="store_true", help="print JSON instead")


def run(args: argparse.Namespace) -> None:
  """Prints the checkpoint's description.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  if args.sharding != (args.topology is not None):
    raise ValueError(
      "--sharding and --topology come together, got one of them. Give both, or "
      "neither."
    )
  if args.model is not None and not args.checkpoint.endswith(".gin"):
    raise ValueError(
      "--model is of a recipe's --sharding, got a checkpoint, which has its "
      "own. Leave it out."
    )
  if args.sharding:
    _inspect_sharding(args)
    return
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
    terminal.say(json.dumps(description, indent=2))
  else:
    _print_tables(description)


def _inspect_sharding(args: argparse.Namespace) -> None:
  target = slices.parse(args.topology)
  if args.checkpoint.endswith(".gin"):
    recipe = configure.build(args.checkpoint, Recipe)
    shapes = transformer.param_shapes(recipes.start_config(recipe, args.model))
    layout = sharding.layout(recipe.mesh)
  else:
    path = store.locate(paths.resolve(args.checkpoint))
    shapes, layout = store.describe(path)[1], sharding.MeshConfig()
  mesh = jax.sharding.AbstractMesh(layout.shape(target.chips), sharding.AXES)
  shardings = trees.flatten(sharding.param_shardings(mesh, shapes))
  rows = []
  for name, leaf in trees.flatten(shapes).items():
    part = shardings[name].shard_shape(leaf.shape)
    rows.append(
      {
        "name": name,
        "shape": list(leaf.shape),
        "spec": str(shardings[name].spec).removeprefix("PartitionSpec"),
        "part": list(part),
        "bytes": math.prod(part) * leaf.dtype.itemsize,
      }
    )
  total = sum(row["bytes"] for row in rows)
  if args.json:
    mesh_shape = dict(mesh.shape)
    terminal.say(
      json.dumps({"mesh": mesh_shape, "parameters": rows, "total": total})
    )
    return
  of = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  shown = _table(f"{target.name}: {target.chips} devices, {of}")
  for column in ("name", "shape", "spec", "on a device"):
    shown.add_column(column, no_wrap=column == "name")
  shown.add_column("bytes", justify="right")
  for row in rows:
    cells = (row["name"], str(row["shape"]), row["spec"], str(row["part"]))
    shown.add_row(*cells, f"{row['bytes']:,}")
  shown.add_section()
  shown.add_row("total", "", "", "", f"{total:,}")
  consoles.Console().print(shown)


def _print_tables(description: dict) -> None:
  console = consoles.Console()
  console.print(description["checkpoint"], soft_wrap=True)
  config = _table("config", "field", "value")
  for name, value in description["model"].items():
    if name != "__class__":
      config.add_row(name, _show(value))
  for name, value in (description["tokenizer"] or {}).items():
    config.add_row(f"tokenizer.{name}", str(value))
  console.print(config)

  lineage = _table("lineage", "operation", "tokens", "steps", "time", "code")
  lineage.add_column("parent, arguments", overflow="fold")
  for entry in description["lineage"]:
    lineage.add_row(
      entry["operation"],
      f"{entry['tokens']:,}",
      f"{entry['steps']:,}",
      entry["time"],
      entry["code"],
      f"{entry['parent'] or 'random weights'}\n{_show(entry['arguments'])}",
    )
  console.print(lineage)

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
  console.print(parameters)


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
