"""Sends a run's metrics to TensorBoard or Weights & Biases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from typing import Any
import uuid

from etils import epath
import jax

from drope_jax import artifacts, extras
from drope_jax.train.context import Listener
from drope_jax.train.recipe import Recipe


@contextlib.contextmanager
def listeners(
  names: Sequence[str], directory: str, recipe: Recipe
) -> Iterator[list[Listener]]:
  """Yields listeners for lines of metrics.jsonl; none but in the first process.

  A run that resumes continues its curves.

  Args:
    names: of `TRACKERS`.
    directory: of the run.
    recipe: shown as the configuration in Weights & Biases.

  Raises:
    ValueError: a tracker's library is not installed.
  """
  modules = {
    name: extras.load(TRACKERS[name][0], "track", f"--track {name}")
    for name in dict.fromkeys(names)
  }
  with contextlib.ExitStack() as stack:
    trackers: list[Any] = []
    if jax.process_index() == 0:
      for name, module in modules.items():
        _, tracker = TRACKERS[name]
        trackers.append(tracker(module, epath.Path(directory), recipe))
        stack.callback(trackers[-1].close)
    yield trackers


class _TensorBoard:
  """Writes OUT/tensorboard."""

  def __init__(self, module, directory: epath.Path, recipe: Recipe):
    self._module = module
    self._directory = directory
    self._writer: Any = None

  def __call__(self, line: Mapping[str, Any]) -> None:
    if self._writer is None:
      # Purge later steps, which an interrupted start has logged.
      self._writer = self._module.SummaryWriter(
        str(self._directory / "tensorboard"), purge_step=line["step"]
      )
    for name, value in _numbers(line).items():
      self._writer.add_scalar(name, value, line["step"])
    self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


class _WandB:
  """Logs a run; its id is stored in OUT/wandb_id."""

  def __init__(self, module, directory: epath.Path, recipe: Recipe):
    self._module = module
    self._directory = directory
    self._recipe = recipe
    self._run: Any = None

  def __call__(self, line: Mapping[str, Any]) -> None:
    if self._run is None:
      file = self._directory / "wandb_id"
      if not file.exists():
        file.write_text(uuid.uuid4().hex)
      self._run = self._module.init(
        project="drope_jax",
        name=self._directory.name,
        id=file.read_text(),
        resume="allow",
        dir=str(self._directory),
        config=artifacts.encode(self._recipe),
      )
    self._run.log(_numbers(line), step=line["step"])

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()


TRACKERS: Mapping[str, tuple[str, Callable]] = {
  "tensorboard": ("tensorboardX", _TensorBoard),
  "wandb": ("wandb", _WandB),
}
"""By name, the library that each needs, and its class."""


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
  return {
    name: value
    for name, value in line.items()
    if isinstance(value, (int, float)) and name != "step"
  }
