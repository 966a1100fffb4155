"""results.json: every number of an evaluation, and what made it.

It is written anew after each step, so that an evaluation that was interrupted
continues from its last step.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import reprlib
from typing import Any

from drope_jax import artifacts, revision
from drope_jax.analysis import runs
from drope_jax.checkpoint import store
from drope_jax.cli import readings
from drope_jax.data import paths, whole_file
from drope_jax.evals.interface import Result
from drope_jax.evals.logit_scale import Fit
from drope_jax.evals.record import Record
from drope_jax.evals.suite import Material, Suite

FILENAME = "results.json"


class ResultsFile:
  """An evaluation's results.json.

  Attributes:
    path: of the file.
    record: its results.
    finished: whether the evaluation is complete.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    suite: Suite,
    checkpoints: Mapping[str, os.PathLike],
    material: Material,
    keep_outputs: bool = False,
    dtype: str = "float32",
  ):
    """Describes an evaluation; reads and writes no results yet.

    Args:
      directory: made at the first `save`.
      suite: the settings.
      checkpoints: by the models' names.
      material: text.
      keep_outputs: whether every prompt and output stays in samples.jsonl.
      dtype: of the models' weights.

    Raises:
      NotADirectoryError: `directory` is a file.
      FileNotFoundError, ValueError: a checkpoint cannot be read.
    """
    paths.require_folder(directory)
    self.path = directory / FILENAME
    fingerprints = {
      name: store.fingerprint(path) for name, path in checkpoints.items()
    }
    # What was read without outputs is read again where they are asked for.
    evaluation = _digest([repr(fingerprints), dtype, repr(keep_outputs)])
    self._readings = readings.Readings(directory, keep_outputs, evaluation)
    self.record, self.finished = Record(memory=self._readings), False
    self._gathered = False
    self._about = {
      "created": datetime.datetime.now(datetime.UTC).isoformat(
        timespec="seconds"
      ),
      "code": [revision.describe()],
      "versions": [_versions()],
      "models": {
        name: {
          "manifest": store.describe(path)[0].to_json(),
          "fingerprint": fingerprints[name],
        }
        for name, path in checkpoints.items()
      },
      "text": {
        "test": _digest(material.test),
        "fit": _digest(material.fit),
      },
      "dtype": dtype,
      "keep_outputs": keep_outputs,
      "settings": artifacts.encode(suite, tagged=False),
      "metrics": {
        task.name: [dataclasses.asdict(metric) for metric in task.metrics]
        for task in suite.tasks
      },
    }

  @property
  def has_outputs(self) -> bool:
    """Whether prompts and outputs of an evaluation lie beside the results."""
    return self._readings.has_outputs

  def load(self) -> None:
    """Reads the file, if there is one.

    Raises:
      ValueError: it belongs to another evaluation, or to a later version.
    """
    self._readings.load()
    if self.path.exists():
      found = self._read(self.path)
      self._about["created"] = found["created"]
      self.finished = found["finished"]
      self._take(found)

  def gather(self) -> None:
    """Takes what the shares of the evaluation have, from folders in this one.

    Raises:
      ValueError: one belongs to another evaluation, or to a later version.
    """
    for path in sorted(self.path.parent.glob(f"share_*/{FILENAME}")):
      self._take(self._read(path))
      self._gathered = True

  def add(self, record: Record) -> None:
    """Takes the results of another evaluation with the same settings."""
    self.record.add(record.rows, record.fits, record.seconds)
    self._gathered = True

  @property
  def rows(self) -> list[Result]:
    """The results, in the order of one evaluation of everything."""
    rows = self.record.rows
    if not self._gathered:
      return rows
    models, tasks = list(self._about["models"]), list(self._about["metrics"])
    settings = self._about["settings"]
    context = rows[0].context_tokens if rows else 0
    lengths = [round(factor * context) for factor in settings["factors"]]
    return sorted(
      rows,
      key=lambda row: (
        models.index(row.model),
        lengths.index(round(row.factor * context)),
        settings["methods"].index(row.method),
        row.scale_fitted,
        tasks.index(row.task),
      ),
    )

  def _read(self, path: pathlib.Path) -> Mapping[str, Any]:
    found = runs.load_results(path)
    differences = list(_differences(found, self._about))
    if differences:
      raise ValueError(
        f"A folder holds one evaluation, got {path} of another: "
        f"{'; '.join(differences)}. Choose another --out, or remove that file."
      )
    return found

  def _take(self, found: Mapping[str, Any]) -> None:
    """Adds what a file has to the record."""
    # More than one where another revision continued the evaluation.
    for field in ("code", "versions"):
      before = found.get(field, [])
      later = [one for one in self._about[field] if one not in before]
      self._about[field] = [*before, *later]
    self.record.begin(found.get("samples") or self.record.samples)
    self.record.add(
      [Result.from_dict(row) for row in found["rows"]],
      {
        name: {method: Fit.from_dict(fit) for method, fit in by.items()}
        for name, by in found["fits"].items()
      },
      found.get("seconds", {}),
    )

  def save(self, finished: bool = False) -> None:
    """Writes the file atomically; samples of what is in it are not needed."""
    self.finished = finished
    rows, fits = self.rows, self.record.fits
    document = artifacts.stamp(
      {
        "finished": finished,
        **self._about,
        "samples": self.record.samples,
        "hashes": self.record.hashes,
        "seconds": self.record.seconds,
        "fits": {
          name: {method: dataclasses.asdict(fit) for method, fit in by.items()}
          for name, by in fits.items()
        },
        "rows": [row.to_dict() for row in rows],
      }
    )
    self.path.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(document, indent=1) + "\n"
    whole_file.write(self.path, written.encode())
    self._readings.forget()


def _versions() -> dict[str, str]:
  """Returns the versions of what numbers depend on."""
  names = ("jax", "jaxlib", "numpy", "sentencepiece", "tokenizers")
  found = {name: importlib.metadata.version(name) for name in names}
  return {"python": platform.python_version(), **found}


def _digest(documents) -> str:
  """Returns a SHA-256 of the documents and where they end."""
  digest = hashlib.sha256()
  for document in documents:
    data = document.encode()
    digest.update(len(data).to_bytes(8, "big") + data)
  return digest.hexdigest()


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]):
  """Yields the differences of two evaluations."""
  yield from _changes("Suite", there["settings"], here["settings"])
  old, new = (", ".join(side["models"]) for side in (there, here))
  if old != new:
    yield f"its checkpoints are {old}, not {new}"
  else:
    for name, model in here["models"].items():
      # The fingerprint covers the manifest, whose form depends on the version.
      if there["models"][name]["fingerprint"] != model["fingerprint"]:
        yield f"its checkpoint {name} has other weights or another lineage"
  # Evaluations of earlier versions are all in float32.
  yield from _changes("dtype", there.get("dtype", "float32"), here["dtype"])
  asked = here["keep_outputs"]
  kept = there.get("keep_outputs", asked)  # Earlier versions do not say it.
  # A finished evaluation adds no outputs, and removes none.
  if kept != asked and (asked or not there["finished"]):
    yield f"it was begun {'with' if kept else 'without'} --keep-outputs"
  for role in ("test", "fit"):
    if there["text"][role] != here["text"][role]:
      yield f"its text to {role} on is another"


def _changes(name, old, new):
  if isinstance(old, dict) and isinstance(new, dict):
    for field in old | new:
      yield from _changes(f"{name}.{field}", old.get(field), new.get(field))
  elif old != new:
    yield f"its {name} is {reprlib.repr(old)}, not {reprlib.repr(new)}"
