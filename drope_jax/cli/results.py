"""results.json: every number of an evaluation, and what made it."""

from collections.abc import Mapping, Sequence
import dataclasses
import datetime
import json
import os
import pathlib

from drope_jax.checkpoint import revision, store
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.suite import Suite

FILENAME = "results.json"
SCHEMA_VERSION = 1


def require_new(directory: pathlib.Path) -> None:
  """Raises where `directory` cannot be a new folder of results.

  Raises:
    NotADirectoryError: it is a file.
    ValueError: it holds results already.
  """
  if directory.exists() and not directory.is_dir():
    raise NotADirectoryError(
      f"Results are written to a folder, got the file {directory}. Choose "
      "another --out."
    )
  if (directory / FILENAME).exists():
    raise ValueError(
      f"Results are written to a new folder, got {directory}, which holds "
      f"{FILENAME}. Choose another --out, or remove that file."
    )


def write(
  directory: pathlib.Path,
  suite: Suite,
  checkpoints: Mapping[str, os.PathLike],
  rows: Sequence[Result],
  fits: Mapping[str, Mapping[str, Fit]],
) -> pathlib.Path:
  """Writes results.json and returns its path.

  Args:
    directory: made where it does not exist.
    suite: the settings, seeds and counts among them.
    checkpoints: by the models' names in `rows`.
    rows: the results.
    fits: by model and method.
  """
  document = {
    "schema": SCHEMA_VERSION,
    "created": datetime.datetime.now(datetime.UTC).isoformat(
      timespec="seconds"
    ),
    "code": revision.describe(),
    "models": {
      name: {"manifest": store.describe(path)[0].to_json()}
      for name, path in checkpoints.items()
    },
    "settings": dataclasses.asdict(suite),
    "fits": {
      name: {method: dataclasses.asdict(fit) for method, fit in by.items()}
      for name, by in fits.items()
    },
    "rows": [row.to_dict() for row in rows],
  }
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / FILENAME
  # Whole or not at all: a file cut short would pass for finished results.
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(document, indent=1) + "\n")
  return temporary.replace(path)
