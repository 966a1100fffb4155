"""Objects in the bucket, by which the launcher and the hosts communicate.

The launcher reads and writes them by gcloud, with the rights of its user.
"""

from collections.abc import Mapping
import json
from typing import Any

from launch import commands
from launch.commands import Command, Run


def copy(source: str, url: str) -> Command:
  """Returns the command that uploads a local file.

  Source: gcloud reference, storage cp.
  """
  return Command(("gcloud", "storage", "cp", source, url))


def write(
  url: str, content: Mapping[str, Any], generation: str | None = None
) -> Command:
  """Returns the command that writes JSON, which it reads from its input.

  Args:
    url: of the object.
    content: of the object.
    generation: that the object must have; "0": it must not exist; None: any.

  Source: gcloud reference, storage cp.
  """
  guard = () if generation is None else (f"--if-generation-match={generation}",)
  text = json.dumps(content, indent=1) + "\n"
  return Command(("gcloud", "storage", "cp", *guard, "-", url), stdin=text)


def cat(url: str) -> Command:
  """Returns the command that prints an object, or all that match a pattern.

  Source: gcloud reference, storage cat.
  """
  return Command(("gcloud", "storage", "cat", url))


def end_of(url: str, count: int) -> Command:
  """Returns the command that prints an object's last bytes."""
  return Command(("gcloud", "storage", "cat", f"--range=-{count}", url))


def remove(url: str) -> Command:
  """Returns the command that removes an object.

  Source: gcloud reference, storage rm.
  """
  return Command(("gcloud", "storage", "rm", url), settled_by=("missing",))


def remove_folder(url: str) -> Command:
  """Returns the command that removes a folder with all objects in it."""
  return Command(
    ("gcloud", "storage", "rm", "--recursive", url), settled_by=("missing",)
  )


def describe(url: str) -> Command:
  """Returns the command that prints an object's generation.

  Source: gcloud reference, storage objects describe.
  """
  return Command(
    ("gcloud", "storage", "objects", "describe", url, "--format=json")
  )


def read(url: str, do: Run) -> str | None:
  """Returns the content of objects; None: there are none.

  Raises:
    Failed: they could not be read.
  """
  return _unless_missing(cat(url), do)


def read_end(url: str, count: int, do: Run) -> str | None:
  """Returns an object's last bytes; None: there is none.

  Raises:
    Failed: it could not be read.
  """
  return _unless_missing(end_of(url, count), do)


def generation(url: str, do: Run) -> str:
  """Returns an object's generation; "0": it does not exist.

  Raises:
    Failed: it could not be read.
  """
  found = _unless_missing(describe(url), do)
  return str(json.loads(found)["generation"]) if found else "0"


def _unless_missing(command: Command, do: Run) -> str | None:
  try:
    return do(command) or None
  except commands.Failed as failed:
    if failed.kind == "missing":
      return None
    raise
