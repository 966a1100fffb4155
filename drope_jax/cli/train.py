"""`drope train`: runs what is left of a recipe."""

import argparse
from collections.abc import Callable, Iterator, Mapping
import contextlib
import faulthandler
import os
import pathlib
import signal
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils

from drope_jax.checkpoint.model import Model
from drope_jax.cli import (
  agreement,
  configure,
  flags,
  hosts,
  progress,
  readiness,
  rendezvous,
  terminal,
  termination,
  track,
)
from drope_jax.cli import console as consoles
from drope_jax.data import paths
from drope_jax.exits import Exit
from drope_jax.inference import measurement
from drope_jax.plan import slices
from drope_jax.train import loop, training, watchdog
from drope_jax.train.recipe import Recipe

_FLAGS = {"base_dir": "--data", "from_step": "--from-step"}


def run(args: argparse.Namespace) -> int | None:
  """Runs what is left of the recipe.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
    KeyboardInterrupt: Ctrl-C or SIGTERM came; the last step is saved.
  """
  if args.distributed is not None:
    status = hosts.supervised()
    if status is not None:
      return status
  recipe = configure.build(args.config, Recipe, args.overrides)
  named = f"runs/{pathlib.Path(args.config).stem}"
  out = named if args.out is None else args.out
  paths.require_named(out)
  with contextlib.ExitStack() as stack:
    request = stack.enter_context(termination.stop_request("train"))
    stack.enter_context(_fit_hosts(recipe, out, args))
    stack.enter_context(flags.naming(_FLAGS))  # Hosts report errors themselves.
    _run(recipe, out, args, request)
  return None


@contextlib.contextmanager
def _fit_hosts(recipe, out, args) -> Iterator[None]:
  """Joins the hosts of the run, all of which are found fit for it."""
  own = readiness.describe(out)
  topology = args.topology and slices.parse(args.topology)

  def judge(came: Mapping[int, Mapping[str, Any]]) -> str | None:
    found = {index: said["host"] for index, said in came.items()}
    agreed = {
      index: {item: fact for item, fact in said.items() if item != "host"}
      for index, said in came.items()
    }
    return agreement.differences(
      agreed, readiness.names(found)
    ) or readiness.obstacle(found, out)

  @flags.naming(_FLAGS)
  def require(found: rendezvous.Hosts) -> None:
    readiness.require(recipe, out, found, topology)

  if args.distributed is None:
    if (problem := readiness.obstacle({0: own}, out)) is not None:
      raise ValueError(problem)
    require({0: own})
    yield
    return
  facts = agreement.describe(recipe, out, args.data, args.from_step)
  facts |= {"host": own, "--topology": args.topology}
  # JAX puts its own handler of SIGTERM in the place of ours.
  with hosts.joined(args.distributed, facts, judge, require):
    yield


def run_loop(
  request: termination.StopRequest,
  recipe: Recipe,
  directory: str | os.PathLike,
  *,
  on_model: Callable[[str, Model], None] = lambda name, model: None,
  **options: Any,
) -> None:
  """Calls `loop.run` with `options`; `request` can end it.

  Raises:
    KeyboardInterrupt: `request` ended it; the last step is saved.
  """

  def on_saved(name: str, model: Model) -> None:
    request.saved()
    on_model(name, model)

  try:
    loop.run(
      recipe,
      epath.Path(directory),
      on_model=on_saved,
      stopping=_stopping(request),
      on_stall=_on_stall(request),
      evaluator=measurement.Measurement,
      **options,
    )
  except training.Stopped as stopped:
    raise request.error(str(stopped)) from stopped


def _on_stall(request: termination.StopRequest) -> watchdog.OnStall:
  """Returns what says who keeps the run waiting, and in the end ends it."""

  def on_stall(told: str, too_long: bool) -> None:
    if not too_long:
      request.say(told)
      return
    request.say(f"{told}, so this process ends. Start all again: they resume")
    faulthandler.dump_traceback(2)
    # The main thread waits in C++, where no exception reaches it.
    os._exit(Exit.STALLED)

  return on_stall


def _stopping(request: termination.StopRequest) -> Callable[[int], bool]:
  """Returns whether any process of the run was told to end, as all see it."""
  forwarded = reached = False
  asked = 0

  def stopping(step: int) -> bool:
    nonlocal forwarded, reached, asked
    told = request.stopping(step)
    if not jax.distributed.is_initialized():
      return told
    if told and not forwarded:
      forwarded = True
      os.kill(os.getpid(), signal.SIGTERM)  # Which JAX tells all processes of.
    # JAX ends all at the number after the largest that any has asked with, and
    # says so for this number alone. A run that resumes, or ends a phase early,
    # does not train at each of them.
    for number in range(asked + 1, step + 1):
      reached |= multihost_utils.reached_preemption_sync_point(number)
    asked = max(asked, step)
    return reached

  return stopping


def _show_model(console: consoles.Console, name: str, model: Model) -> None:
  console.print(f"{name}: {model.tokens:,} tokens of training behind it")
  unused = model.manifest.unused_ids
  if name == "start" and unused:
    console.print(
      f"The model's last {unused:,} of {model.config.vocab_size:,} ids have no "
      "piece in its tokenizer; no text has them."
    )


def _run(recipe, out, args, request) -> None:
  console = consoles.Console(stderr=True, quiet=jax.process_index() != 0)
  with (
    track.listeners(args.track, out, recipe) as trackers,
    progress.TrainingProgress(recipe, console) as show,
  ):

    def on_metrics(line: Mapping[str, Any]) -> None:
      show(line)
      for tracker in trackers:
        tracker(line)

    run_loop(
      request,
      recipe,
      out,
      base_dir=args.data,
      on_metrics=on_metrics,
      on_model=lambda name, model: _show_model(console, name, model),
      from_step=args.from_step,
    )
  if jax.process_index() == 0:
    last = f"{out}/{recipe.phases[-1].name}"
    terminal.say(f"{out}: finished. `drope inspect {last}` shows it.")
