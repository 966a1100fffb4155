"""The verb `run`: uploads the bundle, orders the run, creates the slices."""

import argparse
import dataclasses
import pathlib
import secrets
import shlex
import tempfile
import time

from drope_jax.cli import terminal
from launch import bucket, bundle, order, watch, ways
from launch.commands import Run
from launch.slice import Slice
from launch.states import ENDS
from launch.ways.way import Standing

_JOIN_S = 900
"""For the hosts to meet: one may finish its installation long after another."""


def submit(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  """Uploads the bundle, orders the run, and creates the slices.

  Args:
    rented: the slices.
    args: of `run`.
    do: runs a command, or only shows it.

  Raises:
    FileNotFoundError: there is no such recipe.
    ValueError: another run goes on; the slices exist by another description; a
      path is in no bucket; the wheel could not be built; a command failed.
  """
  for option in ("data", "out"):
    path = getattr(args, option)
    if path is not None and not path.startswith("gs://"):
      raise ValueError(
        f"--{option} must be gs://BUCKET/..., which all hosts can read, got "
        f"{path}. Copy it there with `gcloud storage cp -r`."
      )
  files = bundle.recipe_files(args.recipe)
  # Before the order is read, so that of two `run`s at once the later fails.
  generation = bucket.generation(order.url(rented), do)
  given = order.read(rented, do)
  if not args.dry_run:
    _require_ended(rented, given, do)
    _require_unchanged(rented, given, do)
  attempt = 1 if given is None else given.attempt + 1
  with tempfile.TemporaryDirectory() as folder:
    wheel = (
      pathlib.Path(folder, "drope_jax-VERSION-py3-none-any.whl")
      if args.dry_run
      else bundle.build_wheel(pathlib.Path(folder))
    )
    lock = pathlib.Path(folder, "lock.txt")
    lock.write_text(bundle.lock())
    for command in bundle.uploads(rented.folder, wheel, lock, files):
      do(command)
    made = _order(rented, args, files, wheel, attempt)
  do(order.write(rented, made, generation))
  state = dataclasses.asdict(watch.begin(attempt, time.time()))
  do(bucket.write(f"{rented.folder}/watch.json", state))
  for command in ways.of(rented).create():
    do(command)
  if not args.dry_run:
    terminal.say(
      f"{made.out}: ordered. `python -m launch watch --config "
      f"{shlex.quote(args.config)}` keeps it going."
    )


def _require_ended(rented: Slice, given: order.Order | None, do: Run) -> None:
  if given is None:
    return
  state = watch.Memory(rented, do).state
  if state.phase not in ENDS and not given.stop:
    raise ValueError(
      f"{rented.name} has one run at a time, got another while {given.recipe} "
      f"is {state.phase}. `stop` it, or give the slices another name."
    )


def _require_unchanged(
  rented: Slice, given: order.Order | None, do: Run
) -> None:
  """`create` keeps what exists, whatever its description was."""
  if given is None or given.rented == rented:
    return
  standing = ways.of(given.rented).observe(do).standing
  if standing in (Standing.ABSENT, Standing.DELETING):
    return
  before, now = dataclasses.asdict(given.rented), dataclasses.asdict(rented)
  changed = [f"{k} = {v!r}" for k, v in before.items() if v != now[k]]
  raise ValueError(
    f"{rented.name} must be as it was rented, with {', '.join(changed)}, got "
    "another description. Restore that, and `delete` before a change; or give "
    "the slices another name."
  )


def _order(rented, args, files, wheel, attempt) -> order.Order:
  recipe = pathlib.Path(args.recipe)
  # With a slash at its end, a folder's files would have two in their names.
  out = (args.out or f"{rented.bucket}/runs/{recipe.stem}").rstrip("/")
  data = (args.data or rented.bucket).rstrip("/")
  overrides = [word for text in args.overrides for word in ("--set", text)]
  topology = ["--topology", rented.topology] if rented.topology else []
  return order.Order(
    id=secrets.token_hex(4),
    attempt=attempt,
    recipe=recipe.name if files else args.recipe,
    files=sorted(files),
    arguments=[
      *overrides,
      *("--data", data, "--out", out),
      *("--distributed", str(_JOIN_S)),
      *topology,
    ],
    out=out,
    rented=rented,
    project=rented.project,
    slices=rented.slices,
    hosts_of_slice=rented.shape.hosts,
    wheel=wheel.name,
    wheel_sha256="0" * 64 if args.dry_run else bundle.digest(wheel),
    extras=bundle.EXTRAS,
    token=secrets.token_hex(16),
    report_every_s=args.report_every_s,
  )
