"""Profiler traces of some steps, and XLA's dump of a step."""

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
  """Traces a range of steps in every process."""

  def __init__(self, directory: epath.Path, steps: tuple[int, int] | None):
    """Prepares to trace.

    Args:
      directory: of the run.
      steps: the first and the last step of the run to trace; None: none.
    """
    self._directory = directory
    self._first, self._last = steps or (0, 0)
    self._traced = contextlib.ExitStack()
    self._under_way = False

  def before(self, step: int) -> None:
    """Starts the trace if the next step, `step`, is in the range."""
    if not self._under_way and self._first <= step <= self._last:
      self._under_way = True
      self._traced.enter_context(_trace(self._directory / TRACES, step))

  def ends(self, step: int) -> bool:
    """Returns whether `step` is the last one of the trace."""
    return self._under_way and step == self._last

  def write(self) -> None:
    """Writes the trace, if one has started."""
    self._under_way = False
    self._traced.close()


@contextlib.contextmanager
def _trace(directory: epath.Path, step: int) -> Iterator[None]:
  """Traces into RUN/tensorboard/.../step_N/process_P.xplane.pb.

  The profiler cannot write to a bucket, so a local folder comes first.
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
  """Compiles a step once more, and writes XLA's dump of it.

  The dump has the program before and after XLA's passes, and its memory, in
  files with XLA's names. It is written even if the step does not compile. All
  processes compile, as a program of several processes requires, and the first
  one writes.

  Args:
    lowered: the step.
    directory: of the dump; files of the same names are replaced.
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
  """Turns the compilation cache off: XLA dumps little of a cached program."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # The cache reads the setting only once.
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()
