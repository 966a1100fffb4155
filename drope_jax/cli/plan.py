r"""Compiles a recipe's training steps for a TPU slice, with no TPU at hand.

Says whether each phase fits, what it takes of a chip's memory, what it computes
and sends, and how long it would take at an assumed share of the peak. Where it
does not fit, what would is searched: more recomputation, then microbatches.
Needs libtpu, the TPU's compiler: pip install 'drope_jax[tpu]'

  drope plan recipes/qwen2_0_5b_drope.gin --topology v5e-16
  drope plan recipes/llama2_7b_drope.gin --model models/llama2_7b.gin \
    --topology v5e-256 --json
"""

import argparse
import dataclasses
import json

from rich import box
from rich.console import Console
from rich.table import Table

from drope_jax.cli import configure
from drope_jax.model.config import ModelConfig
from drope_jax.plan import compile as plans
from drope_jax.plan import slices
from drope_jax.train import preflight
from drope_jax.train.recipe import Recipe, SurgeryPhase

_GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument("config", metavar="CONFIG.gin", help="the recipe")
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    dest="overrides",
    metavar="'Class.param = value'",
    help="a binding over the file's; may be repeated",
  )
  parser.add_argument(
    "--model",
    metavar="CONFIG.gin",
    help="what the recipe starts from, where its checkpoint is not here",
  )
  parser.add_argument(
    "--topology", required=True, metavar="SLICE", help="v5e-256, say"
  )
  parser.add_argument(
    "--data",
    metavar="DIR",
    help="where the recipe's relative paths start (default: here)",
  )
  parser.add_argument(
    "--mfu",
    type=float,
    default=0.5,
    help="share of peak, causal count, that hours assume "
    "(default: %(default)s)",
  )
  parser.add_argument("--json", action="store_true", help="print JSON instead")


def run(args: argparse.Namespace) -> int:
  """Prints each phase's plan; returns 3 where one does not fit.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  target = slices.parse(args.topology)
  if not 0 < args.mfu <= 1:
    raise ValueError(
      f"--mfu must be a share above 0 and at most 1, got {args.mfu}. Change it."
    )
  recipe = configure.build(args.config, Recipe, args.overrides)
  plans.prepare()
  config = _start_config(recipe, args.model, args.data)
  console, found = Console(stderr=True), []
  for phase in recipe.phases:
    if isinstance(phase, SurgeryPhase):
      config = preflight.config_after(phase, config)
      continue
    with console.status(f"compiling {phase.name} for {target.name}"):
      plan = plans.plan(recipe, phase, config, target, args.mfu)
    found.append(plan)
    if plan.fits:
      continue
    for thriftier, other in plans.thriftier(recipe, phase, target):
      with console.status(
        f"compiling {phase.name} with remat {other.remat}, accumulation "
        f"{other.accumulation}"
      ):
        found.append(plans.plan(thriftier, other, config, target, args.mfu))
      if found[-1].fits:
        break
  if args.json:
    print(json.dumps([dataclasses.asdict(plan) for plan in found], indent=2))
  else:
    _print(found, target)
  return 0 if all(plan.fits for plan in found) else 3


def _start_config(
  recipe: Recipe, model: str | None, base_dir: str | None
) -> ModelConfig:
  if model is None:
    return preflight.start_config(recipe, base_dir)
  if recipe.model is not None:
    raise ValueError(
      "--model is of a recipe that starts from a checkpoint, got one that has "
      "its own. Leave it out."
    )
  return configure.build(model, ModelConfig)


def _print(found: list[plans.Plan], target: slices.Slice) -> None:
  console = Console()
  chip = slices.CHIPS[target.chip]
  parts = "" if chip.devices == 1 else f", {chip.devices} devices each"
  console.print(
    f"{target.name}: {target.chips} chips{parts}; a device has "
    f"{chip.hbm_bytes / _GIB:.2f} GiB"
  )
  memory = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for name in ("phase", "remat", "micro-\nbatches"):
    memory.add_column(name, no_wrap=True)
  for name in ("params\nGiB", "optimizer\nGiB", "temp.\nGiB", "all\nGiB", ""):
    memory.add_column(name, justify="right", no_wrap=True)
  for plan in found:
    sizes = (plan.params, plan.optimizer, plan.temporaries, plan.total)
    over = (plan.total - plan.available) / _GIB
    memory.add_row(
      plan.phase,
      plan.remat,
      str(plan.accumulation),
      *(f"{size / _GIB:.2f}" for size in sizes),
      "fits" if plan.fits else f"{over:.2f} too much",
    )
  console.print(memory)
  for plan in found:
    if plan.fits:
      console.print(_summary(plan))


def _summary(plan: plans.Plan) -> str:
  causal, noncausal = (count / 1e12 for count in plan.flops)
  lines = [
    f"{plan.phase}, remat {plan.remat}, microbatches: {plan.accumulation}",
    f"  a step: {plan.step_tokens:,} tokens, {causal:,.0f} TFLOP by the causal "
    f"count, {noncausal:,.0f} by the other",
    f"  the phase: {plan.tokens:,} tokens, {plan.hours:,.1f} hours, "
    f"{plan.chip_hours:,.0f} chip-hours at an MFU of {plan.mfu}",
    f"  a checkpoint: {plan.save / _GIB:.1f} GiB of each host's memory",
  ]
  if plan.collectives is None:
    return "\n".join([*lines, "  collectives: not given for this program"])
  return "\n".join(
    lines
    + [
      f"  {kind}: {sent.count:,} a step, {sent.bytes / _GIB:,.2f} GiB a device"
      for kind, sent in plan.collectives.items()
    ]
  )
