"""`drope inspect`: what a checkpoint, a token store or a config holds."""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import math
import os

import jax
from rich import box, table

from drope_jax import sharding, trees
from drope_jax.analysis import outline
from drope_jax.checkpoint import store
from drope_jax.cli import configure, recipe_options, terminal
from drope_jax.cli import console as consoles
from drope_jax.data import metadata, paths
from drope_jax.data import store as data_store
from drope_jax.model import transformer
from drope_jax.plan import slices
from drope_jax.train.recipe import Recipe


def run(args: argparse.Namespace) -> None:
  """Prints the description of a checkpoint or a token store.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, with an explanation.
  """
  if args.sharding != (args.topology is not None):
    raise ValueError(
      "--sharding and --topology must be given together, got one of them. Give "
      "both, or neither."
    )
  if args.model is not None and not args.checkpoint.endswith(".gin"):
    raise ValueError(
      "--model needs a recipe with --sharding, got a checkpoint, which has its "
      "own. Leave it out."
    )
  if args.sharding:
    _inspect_sharding(args)
    return
  folder = paths.resolve(args.checkpoint)
  if (folder / metadata.FILE).exists():
    _inspect_tokens(os.fspath(folder), args.json)
    return
  path = store.locate(folder)
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
    shapes = transformer.param_shapes(
      recipe_options.start_config(recipe, args.model)
    )
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
    shown.add_column(column, overflow="fold")
  shown.add_column("bytes", justify="right", no_wrap=True)
  for row in rows:
    cells = (row["name"], str(row["shape"]), row["spec"], str(row["part"]))
    shown.add_row(*cells, f"{row['bytes']:,}")
  shown.add_section()
  shown.add_row("total", "", "", "", f"{total:,}")
  consoles.Console().print(shown)


def _inspect_tokens(folder: str, as_json: bool) -> None:
  found = dataclasses.asdict(data_store.Store.open(folder).metadata)
  if as_json:
    terminal.say(json.dumps({"store": folder, **found}, indent=2))
    return
  found["bytes"] = sum(found.pop("file_bytes").values())
  provenance = found.pop("provenance")
  lineage = provenance.pop("lineage", [])
  console = consoles.Console()
  console.print(folder, soft_wrap=True)
  console.print(_fields("token store", outline.rows(found)))
  if provenance:
    console.print(_fields("sampled from", outline.rows(provenance)))
    _print_lineage(console, lineage)


def _print_tables(description: dict) -> None:
  console = consoles.Console()
  console.print(description["checkpoint"], soft_wrap=True)
  config = {k: v for k, v in description["model"].items() if k != "__class__"}
  for name, value in (description["tokenizer"] or {}).items():
    config[f"tokenizer.{name}"] = value
  console.print(_fields("config", outline.rows(config)))

  _print_lineage(console, description["lineage"])
  parameters = _table("parameters")
  parameters.add_column("name", overflow="fold", min_width=14)
  parameters.add_column("shape and dtype")
  for column in ("count", "bytes"):
    parameters.add_column(column, justify="right", no_wrap=True)
  for row in description["parameters"]:
    parameters.add_row(
      row["name"],
      f"{row['shape']} {row['dtype']}",
      f"{row['count']:,}",
      f"{row['bytes']:,}",
    )
  total = description["total"]
  parameters.add_section()
  parameters.add_row("total", "", f"{total['count']:,}", f"{total['bytes']:,}")
  console.print(parameters)


def _print_lineage(console: consoles.Console, lineage: Sequence[dict]) -> None:
  console.print("lineage (without defaults)")
  for number, entry in enumerate(lineage, 1):
    title = f"{number}. {entry['operation']}"
    total = f"{entry['tokens']:,} in {entry['steps']:,} steps"
    history = [
      ("parent", entry["parent"] or "random weights"),
      ("total tokens", total),
      ("time", entry["time"]),
      ("code", entry["code"]),
    ]
    arguments = outline.rows(entry["arguments"], configure.HIDE_DEFAULTS)
    console.print(_fields(title, [*history, *arguments]))


def _fields(title: str, rows: Sequence[tuple[str, str]]) -> table.Table:
  shown = _table(title, show_header=False)
  shown.add_column(overflow="fold", ratio=1, max_width=32)
  shown.add_column(overflow="fold", ratio=2)
  for row in rows:
    shown.add_row(*row)
  return shown


def _table(title: str, **options) -> table.Table:
  return table.Table(
    title=title, title_justify="left", box=box.SIMPLE_HEAD, **options
  )
