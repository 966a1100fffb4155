"""`python -m launch VERB --config launch/slices/NAME.toml`.

  create   ask for the slices; their hosts wait for an order
  run      order a recipe: upload this revision, and create the slices
  watch    keep the run going to its end, through preemptions and crashes
  status   step, loss, speed, last save, cost
  logs     the log of a host's training
  ssh      log in to a host
  stop     save and end the training; the slices stay
  delete   remove what `create` made, and list what is left
  render   show the description, manifest, variables and setup

With --dry-run a verb runs no command. It prints each as a JSON list of its
arguments.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import os
import shlex
import signal
import sys
import time
from typing import Any

from drope_jax.cli import mistakes, terminal
from launch import (
  access,
  arguments,
  bucket,
  commands,
  order,
  slice,
  states,
  status,
  submit,
  ways,
)
from launch import watch as watching
from launch.commands import Run
from launch.hosts import bootstrap, flags, script
from launch.slice import Slice

_ENDED_WELL = (states.Phase.FINISHED, states.Phase.STOPPED)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb and returns the process's exit status.

  0: done; a watched run has finished or was stopped. 1: a watched run has
  failed or is gone. 2: a mistake of the user's, or a refusal of Google Cloud's,
  in one line. 130: Ctrl-C; `watch` continues when it is started again.

  Args:
    argv: arguments after the program's name; by default the process's own.
  """
  args = arguments.parser(_VERBS, __doc__).parse_args(argv)
  try:
    rented = slice.read(args.config, os.environ, placeholders=args.dry_run)
    do = commands.only_show if args.dry_run else commands.run
    return _VERBS[args.verb](rented, args, do) or 0
  except KeyboardInterrupt:
    return _fail(args.verb, "interrupted; the same command continues", 130)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
  except Exception as error:
    explained = mistakes.explain(error)
    if explained is None:
      raise
    return _fail(args.verb, explained, 2)


def _fail(verb: str, message: str, code: int) -> int:
  terminal.complain(f"launch {verb}", message)
  return code


def _create(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  way = ways.of(rented)
  if args.dry_run:
    for command in way.create():
      do(command)
    return
  commands.run_all(way.create(), do)
  terminal.say(
    f"{rented.name}: asked for. Its hosts wait for `run RECIPE.gin`."
  )


def _watch(rented: Slice, args: argparse.Namespace, do: Run) -> int:
  policy = states.Policy(
    hosts=rented.hosts,
    retries=args.retries,
    keep=args.keep,
    settle_s=args.settle_s,
    join_s=args.join_s,
  )
  if args.dry_run:
    _show_a_look(rented, do)
    for command in [*ways.of(rented).delete(), *ways.of(rented).create()]:
      do(command)
    return 0
  state = watching.watch(rented, policy, do, look_every_s=args.look_every_s)
  return 0 if state.phase in _ENDED_WELL else 1


def _show_a_look(rented: Slice, do: Run) -> None:
  """Shows the commands that look at a run, without knowing any run."""
  nothing: dict[str, Any] = dict.fromkeys(
    field.name for field in dataclasses.fields(order.Order)
  )
  known = {"id": "RUN", "out": f"{rented.bucket}/runs/RECIPE"}
  given = order.Order(**nothing | known)
  watching.look(rented, given, watching.begin(1, 0.0), do, 0.0)


def _status(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  if args.dry_run:
    _show_a_look(rented, do)
    return
  terminal.say(status.report(rented, do, time.time()))


def _logs(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  number, worker = ways.of(rented).place(args.host)
  attempt = args.attempt
  if attempt is None:
    given = order.read(rented, do)
    attempt = given.attempt if given else 1
  where = bootstrap.log_url(rented.folder, attempt, f"{number}-{worker}")
  text = bucket.read(where, do)
  if args.dry_run:
    return
  if text is None:
    raise ValueError(
      f"A log of host {args.host} in attempt {attempt} is needed, got none at "
      f"{where}. The host has not begun; `status` shows more."
    )
  terminal.say(text.rstrip("\n"))


def _ssh(rented: Slice, args: argparse.Namespace, do: Run) -> int | None:
  way = ways.of(rented)
  number, worker = way.place(args.host)
  given = order.read(rented, do)
  run, attempt = (given.id, given.attempt) if given else ("RUN", 1)
  where = order.records(rented, run, attempt)
  record = bucket.read(f"{where}/{number}-{worker}.json", do)
  host = json.loads(record)["host"] if record else None
  command = way.ssh(args.host, host or "MACHINE", args.command)
  if args.dry_run:
    do(command)
    return None
  if host is None and rented.way != "queued":
    raise ValueError(
      f"Host {args.host} must have begun, but has not reported its name. "
      "`status` shows more."
    )
  commands.show(command)
  os.execvp(command.args[0], command.args)


def _stop(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  if args.dry_run:
    url = order.url(rented)
    for command in (
      bucket.describe(url),
      bucket.cat(url),
      bucket.write(url, {}, "GENERATION"),
    ):
      do(command)
    return
  generation = bucket.generation(order.url(rented), do)
  given = order.require(rented, do)
  do(order.write(rented, dataclasses.replace(given, stop=True), generation))
  terminal.say(
    f"{rented.name}: its hosts save and end. `run` continues from that save. "
    "The slices still cost money until `delete`."
  )


def _delete(rented: Slice, args: argparse.Namespace, do: Run) -> int | None:
  way = ways.of(rented)
  # The order goes first: a `watch` then creates nothing anew.
  removed = [
    bucket.remove(order.url(rented)),
    *way.delete(),
    bucket.remove_folder(rented.folder),
  ]
  if args.dry_run:
    for command in [*removed, *way.left()]:
      do(command)
    return None
  if not args.yes:
    terminal.say(
      f"This deletes the {rented.slices} x {rented.slice} of {rented.name}, "
      f"and {rented.folder}; checkpoints stay."
    )
    try:
      answer = input("Delete? [y/N] ")
    except EOFError as error:
      raise ValueError(
        "A deletion needs an answer, got no terminal. Pass --yes."
      ) from error
    if answer.strip().lower() not in ("y", "yes"):
      terminal.say("Nothing was deleted.")
      return 1
  commands.run_all(removed, do)
  left = [line for command in way.left() for line in do(command).split()]
  named = ", ".join(left) if left else "nothing"
  terminal.say(
    f"Left in {rented.project} under {slice.LABEL}={rented.name}: {named}. "
    "A deletion takes minutes; until then its resource is listed."
  )
  return None


def _show_for_shell(command: commands.Command) -> None:
  terminal.say(shlex.join(command.args))


def _render(rented: Slice, args: argparse.Namespace, do: Run) -> None:
  show = commands.show if args.dry_run else _show_for_shell
  terminal.say(f"# {rented.name}")
  for field in dataclasses.fields(rented):
    terminal.say(f"{field.name} = {getattr(rented, field.name)!r}")
  shape = rented.shape
  size = f"{rented.chips} chips on {rented.hosts} hosts"
  terminal.say(f"# {size}; each slice {shape.topology}")
  terminal.say("\n# Once for a project")
  for command in access.prepare(rented):
    show(command)
  terminal.say("\n# create")
  for command in ways.of(rented).create():
    show(command)
  if manifest := ways.of(rented).manifest():
    terminal.say(f"\n# What kubectl applies\n{manifest}")
  terminal.say(f"\n# The start-up script: {script.SCRIPT}")
  terminal.say("\n# Variables of the training on each host")
  for flag in flags.TABLE:
    if rented.slices > 1 or not flag.several_slices:
      terminal.say(f"{flag.name}={flag.value}  # {flag.reason}")


_VERBS = {
  "create": _create,
  "run": submit.submit,
  "watch": _watch,
  "status": _status,
  "logs": _logs,
  "ssh": _ssh,
  "stop": _stop,
  "delete": _delete,
  "render": _render,
}
