"""`drope evaluate`: perplexity and retrieval, as a table and results.json."""

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import os
import time
from typing import Any

import jax
import rich.box
import rich.console
import rich.table

from drope_jax import sharding
from drope_jax.analysis import palette
from drope_jax.checkpoint import store
from drope_jax.cli import (
  configure,
  memory,
  progress,
  results,
  terminal,
  text_inputs,
)
from drope_jax.cli import console as consoles
from drope_jax.data import lock, paths
from drope_jax.evals import harness, interface, longbench, steps
from drope_jax.evals import suite as suites
from drope_jax.evals.record import Record
from drope_jax.inference import evaluation, weights
from drope_jax.inference.lm import CheckpointLM


def run(args: argparse.Namespace) -> None:
  """Evaluates, shows a table, and writes results.json.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  suite = _suite(args)
  if args.fit_text and not args.text:
    raise ValueError(
      "--fit-text is text beside --text, which is tested on, got it alone. "
      "Give both, or neither."
    )
  if args.text and not args.fit_text and suite.fit_factor is not None:
    raise ValueError(
      "A suite that fits a softmax scale needs other text for it than --text, "
      "which is tested on, got no --fit-text. Give it, or fit none: "
      "--set 'Suite.fit_factor = None'."
    )
  for flag, given in (
    ("--keep-outputs", args.keep_outputs),
    ("--share", args.share),
  ):
    if given and args.out is None:
      raise ValueError(
        f"{flag} keeps results in a folder, got no --out. Name one, or leave "
        f"{flag} out."
      )
  if args.save_scale and (
    suite.fit_factor is None or "model" not in suite.methods
  ):
    raise ValueError(
      "--save-scale needs a suite that fits the scale of the model's own "
      f"positions, got fit_factor {suite.fit_factor} and the methods "
      f"{', '.join(suite.methods)}. Set Suite.fit_factor, and add model."
    )
  if args.save_scale and suite.scale_by_query:
    raise ValueError(
      "--save-scale needs one scale for a length, got Suite.scale_by_query. "
      "Set it to False, or leave --save-scale out."
    )
  if args.save_scale and args.share is not None:
    raise ValueError(
      "--save-scale needs all of the fits, got --share, which has some. Give "
      "it to the command that gathers the shares."
    )
  checkpoints = _checkpoints(args.checkpoints)
  if args.save_scale:
    _require_fits(suite, checkpoints)
  material = _material(args)
  console = consoles.Console(stderr=True)
  must_fit = () if args.positions is None else suite.methods
  if args.out is None:
    record = Record()
    try:
      compare(
        suite,
        checkpoints,
        material,
        record,
        console,
        mesh=_mesh(args),
        must_fit=must_fit,
        dtype=args.dtype,
      )
    except KeyboardInterrupt as interrupt:
      raise type(interrupt)(
        "ended, and nothing is kept; with --out, the same command would resume"
      ) from interrupt
    consoles.Console().print(tables(record.rows))
    if args.save_scale:
      save_scales(checkpoints, record)
    return
  out = paths.local(args.out, "--out")
  if args.share is not None:
    k, n = args.share
    out /= f"share_{k}_of_{n}"
  file = results.ResultsFile(
    out,
    suite,
    checkpoints,
    material,
    args.keep_outputs,
    args.dtype,
  )
  with lock.held(out):
    file.load()
    if file.finished and args.keep_outputs and not file.has_outputs:
      raise ValueError(
        "--keep-outputs keeps what models write as they are evaluated, got "
        f"finished results without it in {out}. Name another --out."
      )
    if args.share is None and not file.finished:
      file.gather()
    if not file.finished:
      compare(
        suite,
        checkpoints,
        material,
        file.record,
        console,
        on_step=file.save,
        mesh=_mesh(args),
        must_fit=must_fit,
        share=args.share,
        dtype=args.dtype,
      )
      file.save(finished=True)
  consoles.Console().print(tables(file.record.rows))
  terminal.say(file.path)
  if args.save_scale:
    save_scales(checkpoints, file.record)


def compare(
  suite: suites.Suite,
  checkpoints: Mapping[str, os.PathLike],
  material: suites.Material,
  record: Record,
  console: consoles.Console,
  on_step: Callable[[], None] = lambda: None,
  mesh: jax.sharding.Mesh | None = None,
  as_they_are: Collection[str] = (),
  must_fit: Collection[str] = (),
  share: tuple[int, int] | None = None,
  dtype: str = "float32",
  stopping: Callable[[], bool] = lambda: False,
) -> None:
  """Evaluates several checkpoints, and adds what the record lacks.

  One checkpoint's weights are in memory at a time.

  Args:
    suite: what to evaluate.
    checkpoints: by the models' names.
    material: text.
    record: what is in it is not done again.
    console: where progress is shown.
    on_step: called when the record has got something more.
    mesh: see `CheckpointLM`.
    as_they_are, must_fit: see `evaluation.plan`.
    share: number of a share of the work and how many there are, see
      `steps.share`; None: all.
    dtype: see `CheckpointLM.of`.
    stopping: whether to leave the rest, asked before each step.

  Raises:
    FileNotFoundError, ValueError: a checkpoint cannot be read, or as
      `evaluation.plan`.
  """
  shelf = weights.OneAtATime(memory.while_loading)
  lms = {
    name: CheckpointLM.load(path, dtype, mesh=mesh, shelf=shelf)
    for name, path in checkpoints.items()
  }
  ahead = evaluation.plan(suite, lms, material, record, as_they_are, must_fit)
  if share is not None:
    ahead = steps.share(ahead, *share)
  take(ahead, record, console, on_step, stopping)


def take(
  ahead: Sequence[steps.Step],
  record: Record,
  console: consoles.Console,
  on_step: Callable[[], None] = lambda: None,
  stopping: Callable[[], bool] = lambda: False,
) -> None:
  """Takes the steps that are not done, and shows progress; see `compare`."""
  with progress.EvaluationProgress(ahead, console) as show:
    for step in ahead:
      if stopping():
        return
      if not step.done:
        began_s = time.monotonic()
        with show(step) as on_read:
          step.run(on_read)
        record.seconds[step.name] = round(time.monotonic() - began_s, 3)
        on_step()


def save_scales(checkpoints: Mapping[str, os.PathLike], record: Record) -> None:
  """Writes the slope that was fitted for each model into its checkpoint.

  It is 0 where a scale below 1 did best.

  Raises:
    ValueError: a checkpoint cannot be written.
  """
  for name, path in checkpoints.items():
    fit = record.fits[name]["model"]
    slope = max(fit.c, 0.0)
    fitted = {"factor": fit.factor, "losses": [list(x) for x in fit.losses]}
    try:
      store.save_slope(path, slope, fitted)
    except OSError as error:
      raise ValueError(
        f"--save-scale needs a checkpoint that it may write to, got {path} "
        f"({error.strerror}). Copy it to a folder of yours."
      ) from error
    terminal.say(f"{path}: slope {slope:.3f} of the softmax scale")


def tables(rows: Sequence[interface.Result]) -> rich.console.Group:
  """Returns a table for each metric, with one column a factor.

  LongBench's tasks have a table of their mean as well.

  Under each value stands its 95% interval, n/a where there are too few samples
  for one, and the share of inputs that were cut to the length, if inputs have
  their own; "+scale" is a fitted softmax scale. A second table has a column for
  each range of the inputs' own lengths.
  """
  by_metric: dict[tuple[str, str], list[interface.Result]] = {}
  for row in [*rows, *longbench.means(rows)]:
    by_metric.setdefault((row.task, row.metric), []).append(row)
  shown = []
  for (task, metric), found in sorted(by_metric.items()):
    factors = sorted({row.factor for row in found})
    columns = {factor: f"{factor:g}x" for factor in factors}
    cells: dict[str, dict[Any, str]] = {}
    parts: dict[str, dict[Any, str]] = {}
    for row in found:
      name = palette.label(row.model, row.method)
      scaled = "\n+scale" if row.scale_fitted else ""
      cells.setdefault(f"{name}{scaled}", {})[row.factor] = _cell(row)
      if row.parts:
        parts[f"{name} {columns[row.factor]}{scaled}"] = {
          part.name: _cell(part) for part in row.parts
        }
    shown.append(_table(f"{task}: {metric}", columns, cells))
    if parts:
      ranges = {name: name for by in parts.values() for name in by}
      shown.append(_table(f"{task}: {metric} by input length", ranges, parts))
  return rich.console.Group(*shown)


def _cell(row: interface.Result | interface.Part) -> str:
  interval = "n/a" if row.low is None else f"{row.low:.2f}..{row.high:.2f}"
  cut = "" if row.truncated is None else f"\n{row.truncated:.0%} cut"
  return f"{row.value:.3f}\n{interval}{cut}"


def _table(
  title: str, columns: Mapping[Any, str], cells: Mapping[str, Mapping[Any, str]]
) -> consoles.Table:
  """Returns a table of cells by row and column."""
  shown = consoles.Table(title=title, title_justify="left", box=rich.box.SIMPLE)
  shown.add_column("", overflow="fold", min_width=12)
  for column in columns.values():
    shown.add_column(column, justify="right", no_wrap=True)
  for name, by_column in cells.items():
    shown.add_row(name, *(by_column.get(column, "") for column in columns))
  return shown


def _suite(args: argparse.Namespace) -> suites.Suite:
  asked = [] if args.eval is None else args.eval.split(",")
  if args.tasks is not None and asked != ["harness"]:
    raise ValueError(
      f"--tasks names tasks for --eval harness, got --eval {args.eval}. Give "
      "both, or name other evals in --eval."
    )
  shipped = "harness" if asked == ["harness"] else "standard"
  path = args.suite or f"evals/{shipped}.gin"
  suite = configure.build(path, suites.Suite, args.overrides)
  changes: dict[str, Any] = {}
  if args.tasks is not None:
    own = [e for e in suite.evals if isinstance(e, harness.Harness)]
    group = own[0] if own else harness.Harness()
    tasks = tuple(args.tasks.split(","))
    changes["evals"] = (dataclasses.replace(group, tasks=tasks),)
  elif asked:
    changes["evals"] = suite.only(asked)
  if args.positions is not None:
    changes["methods"] = tuple(args.positions.split(","))
  if args.factors is not None:
    changes["factors"] = _numbers(args.factors)
  if args.excerpts is not None:
    changes["excerpts"] = args.excerpts
  if args.seed is not None:
    changes["seed"] = args.seed
  factors = changes.get("factors", suite.factors)
  if set(factors) == {1} and not args.save_scale:
    changes["fit_factor"] = None  # A fitted scale would be used nowhere.
  of_suite = dict(zip(suite.factors, suite.samples, strict=True))
  changes["samples"] = tuple(
    of_suite.get(factor, suite.samples[0])
    if args.samples is None
    else args.samples
    for factor in factors
  )
  return dataclasses.replace(suite, **changes)


def _require_fits(
  suite: suites.Suite, checkpoints: Mapping[str, os.PathLike]
) -> None:
  """Raises ValueError if a model's positions end before its scale is fitted."""
  assert suite.fit_factor is not None  # `run` has refused it.
  for name, path in checkpoints.items():
    config = store.describe(path)[0].model
    tokens = round(suite.fit_factor * config.context_tokens)
    if (most := config.positional.most_tokens) is not None and most < tokens:
      raise ValueError(
        f"--save-scale fits a scale at {tokens} tokens, got {name}, which "
        f"reads {most}. Leave it out, or drop the model's positions."
      )


def _checkpoints(named: Sequence[str]) -> dict[str, os.PathLike]:
  """Returns paths by name, out of CKPT or NAME=CKPT; a path may have a =."""
  found: dict[str, os.PathLike] = {}
  for text in named:
    path = paths.resolve(text)
    name, equals, rest = text.partition("=")
    if equals and not path.exists():
      path = paths.resolve(rest)
    else:
      name = path.absolute().name
    if not name:
      raise ValueError(
        f"A checkpoint's name must not be empty, got {text}. Write NAME=CKPT."
      )
    if name in found:
      raise ValueError(
        f"Checkpoints need names that differ, got {name} twice. Write "
        "NAME=CKPT for one of them."
      )
    found[name] = path
  return found


def _mesh(args: argparse.Namespace) -> jax.sharding.Mesh | None:
  return None if args.mesh is None else sharding.make_mesh(args.mesh)


def _numbers(text: str) -> tuple[float, ...]:
  try:
    return tuple(float(number) for number in text.split(","))
  except ValueError as error:
    raise ValueError(
      f"--factors takes numbers such as 1,2,4,8, got {text!r}. Separate them "
      "by commas only."
    ) from error


def _material(args: argparse.Namespace) -> suites.Material:
  if not args.text:
    return evaluation.packaged()
  return evaluation.material(
    text_inputs.expand(args.text), text_inputs.expand(args.fit_text or ())
  )
