"""Traces of some steps, and what XLA makes of a step, for whoever asks."""

from collections.abc import Iterator
import contextlib
import pathlib
import tempfile

from etils import epath
import jax
from jax.experimental.compilation_cache import compilation_cache

TRACES = "tensorboard/plugins/profile"
"""Below a run's folder, where TensorBoard and XProf look for them."""
DUMPS = "xla"


class Profiler:
  """Traces the steps of a training from one to another, of all processes.

  A context manager: what is under way at its end is written, too.
  """

  def __init__(self, directory: epath.Path, steps: tuple[int, int] | None):
    """Prepares to trace.

    Args:
      directory: the run's.
      steps: of the run, the first and the last; None: none.
    """
    self._directory = directory
    self._first, self._last = steps or (0, 0)
    self._traced = contextlib.ExitStack()
    self._under_way = False

  def before(self, step: int) -> None:
    """Begins to trace where `step`, the next, is the first or later."""
    if not self._under_way and self._first <= step <= self._last:
      self._under_way = True
      self._traced.enter_context(_trace(self._directory / TRACES, step))

  def ends(self, step: int) -> bool:
    """Returns whether `step` is the last that is traced."""
    return self._under_way and step == self._last

  def write(self) -> None:
    """Writes what was traced, once its steps are done."""
    self._under_way = False
    self._traced.close()

  def __enter__(self) -> "Profiler":
    return self

  def __exit__(self, *_) -> None:
    self.write()


@contextlib.contextmanager
def _trace(directory: epath.Path, step: int) -> Iterator[None]:
  """Traces into RUN/tensorboard/.../step_N/process_P.xplane.pb.

  By way of this machine's disk: the profiler itself knows no buckets.
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      yield
    (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
    written = directory / f"step_{step}"
    written.mkdir(parents=True, exist_ok=True)
    name = f"process_{jax.process_index()}.xplane.pb"
    (written / name).write_bytes(file.read_bytes())


def dump(lowered: jax.stages.Lowered, directory: epath.Path) -> None:
  """Compiles a step once more, and writes what XLA notes of it.

  Before and after its passes, and the memory that it takes, in files by XLA's
  names; also where it does not compile. Every process compiles, as it must of a
  program that is of them all, and the first writes.

  Args:
    lowered: the step.
    directory: where to; its files of those names are replaced.
  """
  with tempfile.TemporaryDirectory() as folder, _without_cache():
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
      lowered.compile(compiler_options=options)
    finally:
      if jax.process_index() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        for file in pathlib.Path(folder).iterdir():
          (directory / file.name).write_bytes(file.read_bytes())


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  """Has XLA compile what it has compiled before: else it notes little."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # It asks for the setting once.
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()
