"""A run's saved steps: saving, keeping and restoring them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from drope_jax.checkpoint import files, store
from drope_jax.checkpoint.manifest import Manifest


class RunStore:
  """The checkpoints of a run, saved in the background.

  Use it as a context manager, or call `close`. A save is complete only after
  `wait` or `close`. Opening a run removes what interrupted saves left behind.
  """

  def __init__(
    self,
    directory: files.Path,
    keep: int = 2,
    keep_every_steps: int | None = None,
    tokenizer_path: files.Path | None = None,
  ):
    """Opens, or creates, the run at `directory`.

    Args:
      directory: holds one folder for each step; other names are ignored.
      keep: how many of the newest steps stay on disk, besides RUN/best.
      keep_every_steps: steps that are multiples of it stay too; None for none.
      tokenizer_path: copied into each step; see `save_model`.
    """
    if keep < 1:
      raise ValueError(
        f"RunStore must keep at least 1 step to resume from, got {keep}. "
        "Raise keep."
      )
    policies = ocp.training.preservation_policies
    self.directory = files.absolute(directory)
    self._tokenizer_path = tokenizer_path
    steps = store.finished_steps(self.directory)
    self._held_out = {s: store.held_out(self.directory / str(s)) for s in steps}
    kept = [policies.LatestN(keep), _KeepBest(self._held_out)]
    if keep_every_steps is not None:
      kept.append(policies.EveryNSteps(keep_every_steps))
    self._checkpointer = ocp.training.Checkpointer(
      self.directory,
      context=files.context(),
      preservation_policy=policies.AnyPreservationPolicy(kept),
      cleanup_tmp_directories=True,
    )
    self._latest_step = max(steps, default=None)

  def save(
    self, step: int, state: Mapping[str, Any], manifest: Manifest
  ) -> None:
    """Starts to save `state`; first waits for the previous save.

    The arrays are copied off the device before this returns, so the caller
    may donate or overwrite them.

    Args:
      step: later than every saved step.
      state: mapping of pytrees of arrays, with the model under "params".
      manifest: as of this step.

    Raises:
      ValueError: `step` is not later; or params do not match `manifest.model`;
        or the tokenizer file does not match `manifest.tokenizer`.
    """
    latest = self._latest_step
    if latest is not None and step <= latest:
      raise ValueError(
        f"A saved step must come after {latest}, the newest in "
        f"{self.directory}, got {step}. Restore it, or use another directory."
      )
    rest = {key: value for key, value in state.items() if key != files.PARAMS}
    items = {files.PARAMS: state[files.PARAMS]} | (
      {files.REST: rest} if rest else {}
    )
    self._held_out[step] = manifest.held_out
    self._checkpointer.save_checkpointables_async(
      step,
      files.items(items, manifest, self._tokenizer_path),
      force=True,  # Without it, Orbax skips a save while another is running.
      overwrite=True,  # Only an unfinished step can exist here.
      custom_metadata=files.metadata(manifest, state),
    )
    self._latest_step = step

  def latest_step(self) -> int | None:
    """Returns the newest step saved or being saved; None if there is none."""
    return self._latest_step

  def restore(
    self,
    abstract_state: Mapping[str, Any],
    step: int | None = None,
    unread: Any = None,
  ) -> tuple[dict[str, Any], Manifest]:
    """Returns a saved state, bit for bit, and its manifest.

    Args:
      abstract_state: like the saved state, with or without "params". Leaves are
        arrays or `ShapeDtypeStruct`. Their shardings say where to put what is
        read, by default the first local device; it is cast to their dtypes,
        and what is cast is not checked.
      step: None for the newest.
      unread: parameters that the caller has already, which are not read but
        must equal the saved ones.

    Raises:
      FileNotFoundError: nothing is saved, or not that step.
      ValueError: it is damaged, or `abstract_state` or `unread` does not match
        what was saved.
    """
    self.wait()
    path = store.locate(
      self.directory if step is None else self.directory / str(step)
    )
    remedy = "Copy it again, resume with the recipe that wrote it"
    if earlier := [
      s for s in store.finished_steps(path.parent) if s < int(path.name)
    ]:
      remedy += f", or go back with `from_step={earlier[-1]}`"
    manifest, _, saved = files.describe(path, f"{remedy}.")
    abstract = jax.tree.map(files.abstract, dict(abstract_state))
    params = {k: abstract.pop(k) for k in (files.PARAMS,) if k in abstract}
    items = params | ({files.REST: abstract} if abstract else {})
    with files.context(), files.reading(path, f"{remedy}."):
      loaded = ocp.load_checkpointables(path, items)
      state = {key: loaded[key] for key in params} | loaded.get(files.REST, {})
      files.check(
        state if unread is None else state | {files.PARAMS: unread}, saved
      )
    return state, manifest

  def wait(self) -> None:
    """Waits until saving is complete; raises its errors."""
    self._checkpointer.wait()

  def close(self) -> None:
    """Waits for saving, then frees the background threads."""
    self._checkpointer.close()

  def __enter__(self) -> "RunStore":
    return self

  def __exit__(self, *_) -> None:
    self.close()


@dataclasses.dataclass(frozen=True)
class _KeepBest:
  """Orbax policy that keeps the step of RUN/best."""

  held_out: Mapping[int, tuple[str, float] | None]

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    steps = [checkpoint.step for checkpoint in checkpoints]
    # A step that a kill left half deleted is listed too, and has no manifest.
    best = store.best_step({step: self.held_out.get(step) for step in steps})
    return [step == best for step in steps]
