"""`drope-lm-eval`: lm-evaluation-harness's own command, with the model `drope`.

  drope-lm-eval run --model drope --model_args checkpoint=CKPT --tasks piqa

lm_eval finds no models of other packages by itself, so this registers ours and
then is lm_eval. Model arguments: checkpoint, context_tokens (what may be read;
default: the trained length), begin_with_bos (default: false), dtype (default:
float32). Batches are made by length, on JAX's devices: --batch_size and
--device have no effect.
"""

import os
import sys
from typing import Any

from drope_jax.cli import main as cli
from drope_jax.cli import mistakes, terminal
from drope_jax.data import paths
from drope_jax.evals.harness import adapter, library
from drope_jax.inference.lm import CheckpointLM


def main() -> int:
  """Runs lm_eval's command line, and returns the exit status."""
  try:
    cli.prepare_libraries()
    register()
    library.module("__main__").cli_evaluate()
  except Exception as error:
    explained = mistakes.explain(error)
    if explained is None or os.environ.get("DROPE_DEBUG") == "1":
      raise
    terminal.complain("drope-lm-eval", explained)
    return mistakes.status(error)
  return 0


def register() -> None:
  """Makes checkpoints known to lm_eval, as the model `drope`.

  Raises:
    ValueError: lm_eval is not installed.
  """
  base = adapter.model_class()

  def load(
    self,
    checkpoint: str,
    context_tokens: int | None = None,
    begin_with_bos: bool = False,
    dtype: str = "float32",
    **of_lm_eval: Any,
  ) -> None:
    """Loads a checkpoint by lm_eval's model arguments; see the module."""
    lm = CheckpointLM.load(paths.resolve(checkpoint), dtype)
    length = context_tokens or lm.context_tokens
    if begin_with_bos and lm.bos_id is None:
      raise ValueError(
        "begin_with_bos needs a tokenizer with BOS, got one without. Leave it "
        "out."
      )
    base.__init__(self, lm, length, [lm.bos_id] if begin_with_bos else [])

  model = type("CheckpointModel", (base,), {"__init__": load})
  library.module("api.registry").register_model("drope")(model)


if __name__ == "__main__":
  sys.exit(main())
