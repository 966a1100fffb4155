"""`drope plan`: whether a recipe fits a TPU slice, and what it takes."""

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import json
import pathlib
from typing import Any, TypeVar

import jax
from rich import box
from rich.table import Table

from drope_jax.cli import configure, recipe_options, terminal, termination
from drope_jax.cli import console as consoles
from drope_jax.exits import Exit
from drope_jax.model.config import ModelConfig
from drope_jax.perf import compiler
from drope_jax.perf.collectives import Collective
from drope_jax.plan import buffers, evaluation, saved, slices, training
from drope_jax.plan.slices import Slice
from drope_jax.train import preflight
from drope_jax.train.phases import SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe

T = TypeVar("T")

_GIB = 2**30


def run(args: argparse.Namespace) -> int:
  """Prints the plan of each program; returns 3 if one does not fit.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, with an explanation.
  """
  target = slices.parse(args.topology)
  if not 0 < args.mfu <= 1:
    raise ValueError(
      f"--mfu must be above 0 and at most 1, got {args.mfu}. Change it."
    )
  if args.eval is not None and args.eval < 1:
    raise ValueError(
      f"--eval must be at least 1 token, got {args.eval}. Raise it."
    )
  if args.quick and args.save is not None:
    raise ValueError(
      "--quick generates no code, so there is no program to write, got --save "
      f"{args.save}. Leave one of them out."
    )
  recipe = configure.build(args.config, Recipe, args.overrides)
  compiler.prepare()
  config = recipe_options.start_config(recipe, args.model)
  with termination.interruptible_calls():
    trained, evaluated = _plan(recipe, config, target, args)
  if args.json:
    found = {"training": trained, "evaluation": evaluated}
    terminal.say(json.dumps(found, default=dataclasses.asdict, indent=2))
  else:
    _print(trained, evaluated, target)
  fits = all(p.fits for p in trained) and all(p.fits for p in evaluated)
  return Exit.DONE if fits else Exit.DOES_NOT_FIT


def _plan(
  recipe: Recipe, original: ModelConfig, target: Slice, args: argparse.Namespace
) -> tuple[list[training.Plan], list[evaluation.Plan]]:
  trained, evaluated = [], []
  for phase, config in preflight.phases(recipe, original):
    if isinstance(phase, SurgeryPhase):
      continue
    for plan, step in _train(recipe, phase, config, target, args, original):
      trained.append(plan)
      _save(step, phase.name, args.save)
  for name in evaluation.PROGRAMS if args.eval is not None else ():
    _say(f"compiling {name} at {args.eval:,} tokens")
    found, program = _compiled(
      args,
      evaluation.plan,
      *(name, recipe, config, args.eval, target, args.eval_dtype),
    )
    evaluated.append(found)
    _save(program, name, args.save)
  return trained, evaluated


def _train(
  recipe: Recipe,
  phase: TrainPhase,
  config: ModelConfig,
  target: Slice,
  args: argparse.Namespace,
  original: ModelConfig,
) -> Iterator[tuple[training.Plan, jax.stages.Compiled | None]]:
  """Yields the phase's plan and, if it does not fit, those of the search."""
  _say(f"compiling {phase.name}")
  more = config, target, args.mfu, original
  plan, step = _compiled(args, training.plan, recipe, phase, *more)
  yield plan, step
  others = [] if plan.fits else training.with_less_memory(recipe, phase, target)
  start, stop = 0, len(others)
  while start < stop:
    middle = (start + stop) // 2
    other = others[middle][1]
    _say(
      f"compiling {phase.name} with remat {other.remat}, microbatches: "
      f"{other.accumulation}"
    )
    plan, step = _compiled(args, training.plan, *others[middle], *more)
    yield plan, step
    start, stop = (start, middle) if plan.fits else (middle + 1, stop)


def _compiled(
  args: argparse.Namespace, function: Callable[..., tuple[T, Any]], *given: Any
) -> tuple[T, jax.stages.Compiled | None]:
  """Returns `function`'s plan and program; with --quick, no program."""
  return (
    (buffers.plan(function, *given), None) if args.quick else function(*given)
  )


def _say(what: str) -> None:
  terminal.say(what, stderr=True)


def _save(
  program: jax.stages.Compiled | None, name: str, folder: str | None
) -> None:
  if program is None or folder is None:
    return
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  saved.save(program, path / f"{name}.pkl")


def _print(
  trained: list[training.Plan],
  evaluated: list[evaluation.Plan],
  target: Slice,
) -> None:
  console = consoles.Console()
  console.print(
    f"{target.name}: {target.chips} chips; a chip has "
    f"{slices.CHIPS[target.chip].hbm_bytes / _GIB:.2f} GiB"
  )
  held = [
    name
    for name in ("optimizer", "adapters", "average", "teacher")
    if any(getattr(plan, name) for plan in trained)
  ]
  steps = _memory("phase", "remat", "micro-\nbatches", held=held)
  for plan in trained:
    names = (plan.phase, plan.remat, str(plan.accumulation))
    steps.add_row(*names, *_sizes(plan, held))
  console.print(steps)
  for plan in trained:
    if plan.fits:
      console.print(_training_summary(plan), soft_wrap=True)
  if not evaluated:
    return
  programs = _memory("program", "context", "sequences", held=["cache"])
  for plan in evaluated:
    names = (plan.program, f"{plan.context_tokens:,}", f"{plan.texts:,}")
    programs.add_row(*names, *_sizes(plan, ["cache"]))
  console.print(programs)
  for plan in evaluated:
    if plan.fits:
      console.print(_evaluation_summary(plan), soft_wrap=True)


def _memory(*names: str, held: Sequence[str]) -> Table:
  table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for name in names:
    table.add_column(name, overflow="fold")
  for name in ("params", *held, "temp.", "all"):
    table.add_column(f"{name}\nGiB", justify="right", no_wrap=True)
  table.add_column("", justify="right", no_wrap=True)
  return table


def _sizes(
  plan: training.Plan | evaluation.Plan, held: Sequence[str]
) -> Iterator[str]:
  for name in ("params", *held, "temporaries", "total"):
    yield f"{getattr(plan, name) / _GIB:.2f}"
  over = (plan.total - plan.available) / _GIB
  yield "fits" if plan.fits else f"{over:.2f} too much"


def _training_summary(plan: training.Plan) -> str:
  causal, noncausal = (count / 1e12 for count in plan.flops)
  lines = [
    f"{plan.phase}, remat {plan.remat}, microbatches: {plan.accumulation}",
    f"  step: {plan.step_tokens:,} tokens, {causal:,.0f} TFLOP with causal "
    f"attention, {noncausal:,.0f} with full attention",
    f"  phase: {plan.tokens:,} tokens, {plan.hours:,.1f} hours, "
    f"{plan.chip_hours:,.0f} chip-hours at an MFU of {plan.mfu}",
    f"  logits held at once: {plan.logits / _GIB:.2f} GiB",
    f"  checkpoint: {plan.save / _GIB:.1f} GiB of each host's memory",
  ]
  return "\n".join([*lines, *_collectives(plan.collectives)])


def _evaluation_summary(plan: evaluation.Plan) -> str:
  lines = [
    f"{plan.program}, {plan.texts:,} sequences at once",
    f"  {plan.flops / 1e12:,.2f} TFLOP with causal attention; each chip reads "
    f"or writes at least {plan.traffic / _GIB:,.2f} GiB of its memory",
  ]
  return "\n".join([*lines, *_collectives(plan.collectives)])


def _collectives(found: dict[str, Collective] | None) -> Iterator[str]:
  for kind, sent in (found or {}).items():
    yield f"  {kind}: {sent.count:,}, {sent.bytes / _GIB:,.2f} GiB a chip"
