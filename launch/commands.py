"""Commands of gcloud and kubectl, as lists of arguments."""

from collections.abc import Callable, Iterable
import json
import re
import subprocess
from typing import NamedTuple

from drope_jax.cli import terminal


class Command(NamedTuple):
  """One program's run.

  Attributes:
    args: its name and arguments; no shell interprets them.
    stdin: its input; None: empty.
    settled_by: kinds of failure that mean that its work was done before.
  """

  args: tuple[str, ...]
  stdin: str | None = None
  settled_by: tuple[str, ...] = ()


_TIMEOUT_S = 1800
"""For the slowest: a managed instance group's deletion waits for its end."""

Run = Callable[[Command], str]
"""Runs a command, and returns what it printed."""

KINDS = {
  # Too many requests in a short time; their limit is called a quota, too.
  "busy": r"RATE_LIMIT_EXCEEDED|rateLimitExceeded|per minute|code=429|"
  r"HTTPError 429",
  # The project may not have so many: only a person changes that.
  "quota": r"QUOTA_EXCEEDED|[Qq]uota .*exceeded|exceeds? .*quota|"
  r"Quota limit|Insufficient .*quota",
  # The zone has none left at the moment.
  "stockout": r"ZONE_RESOURCE_POOL_EXHAUSTED|STOCKOUT|no more capacity|"
  r"does not have enough resources|[Nn]ot enough resources|"
  r"RESOURCE_EXHAUSTED|[Ii]nsufficient capacity",
  "exists": r"ALREADY_EXISTS|[Aa]lready exists|AlreadyExists",
  "login": r"Reauthentication",
  # kubectl lacks it, and says so in the words of "missing".
  "context": r"context .*(was not found|does not exist)",
  "missing": r"NOT_FOUND|was not found|[Nn]ot found|NotFound|"
  r"matched no objects|One or more URLs matched no objects",
  "changed": r"HTTPError 412|conditionNotMet|pre-?condition",
  "denied": r"PERMISSION_DENIED|Required ['\"].*['\"] permission|"
  r"[Pp]ermission .*denied|does not have .* access|HTTPError 403|code=403|"
  r"[Ff]orbidden",
  "invalid": r"INVALID_ARGUMENT|Invalid value for|"
  r"no matches for kind|unrecognized arguments",
}
"""The kind of a failure, by a pattern of what gcloud or kubectl prints.

The first that fits counts. Quota comes before capacity, as the Cloud TPU API
gives both the code RESOURCE_EXHAUSTED:
docs.cloud.google.com/tpu/docs/troubleshooting/trouble-tf.
"""

LASTING = frozenset(("login", "context", "denied", "invalid"))
"""Kinds of failure that no later attempt mends."""

_REMEDIES = {
  "quota": "Ask for more at console.cloud.google.com/iam-admin/quotas, or "
  "delete what holds it.",
  "stockout": "Try again, or another zone or capacity.",
  "login": "Log in with `gcloud auth login`.",
  "context": "`gcloud container clusters get-credentials` makes it.",
  "changed": "Somebody else wrote it at the same moment: try again.",
  "denied": "Grant the roles that docs/tpu.md lists.",
  "invalid": "Correct the description, or update gcloud and kubectl.",
}


class Failed(ValueError):
  """A program's failure.

  Attributes:
    kind: a key of `KINDS`, or "other".
    said: its last words.
  """

  def __init__(self, command: Command, said: str):
    self.kind = kind_of(said)
    self.said = " ".join(said.split()) or "nothing"
    words = " ".join(command.args[:5])
    remedy = _REMEDIES.get(self.kind, "Correct that, and try again.")
    said = self.said.rstrip(".")
    super().__init__(f"`{words} ...` failed: {said}. {remedy}")


def kind_of(said: str) -> str:
  """Returns the kind of a failure that was described so."""
  for kind, pattern in KINDS.items():
    if re.search(pattern, said):
      return kind
  return "other"


def run(command: Command) -> str:
  """Runs a command.

  Raises:
    Failed: it failed, and not by a kind in `settled_by`, or did not end.
    ValueError: the program is not installed.
  """
  try:
    ran = subprocess.run(
      command.args,
      input=command.stdin,
      capture_output=True,
      text=True,
      errors="replace",  # A log may begin within a character.
      timeout=_TIMEOUT_S,
    )
  except subprocess.TimeoutExpired as error:
    raise Failed(command, f"no answer within {_TIMEOUT_S} s") from error
  except FileNotFoundError as error:
    raise ValueError(
      f"{command.args[0]} is needed, got none on PATH. Install the Google "
      "Cloud CLI (cloud.google.com/sdk), for JobSets with its kubectl."
    ) from error
  if ran.returncode:
    failed = Failed(command, ran.stderr)
    if failed.kind not in command.settled_by:
      raise failed
  return ran.stdout


def run_all(commands: Iterable[Command], do: Run) -> None:
  """Shows and runs commands, one after the other."""
  for command in commands:
    show(command)
    do(command)


def show(command: Command) -> None:
  """Prints a command as a list of its arguments, in JSON."""
  terminal.say(json.dumps(list(command.args)))


def only_show(command: Command) -> str:
  """Shows a command instead of running it, and returns an empty output."""
  show(command)
  return ""
