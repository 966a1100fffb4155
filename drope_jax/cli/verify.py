"""`drope convert --verify`: the checkpoint's logits beside transformers'.

The one module that knows transformers and torch, which are optional.
"""

import importlib.util
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from drope_jax.checkpoint import store
from drope_jax.data import corpus
from drope_jax.data import tokenizer as tokenizers
from drope_jax.model import transformer

_TOKENS = 640
"""More than 512: a short text hides mistakes in RoPE."""


def require_installed() -> None:
  """Raises ValueError where transformers or torch are not installed."""
  missing = [
    name
    for name in ("transformers", "torch")
    if importlib.util.find_spec(name) is None
  ]
  if missing:
    raise ValueError(
      "--verify needs transformers and torch, got no "
      f"{' and no '.join(missing)}. Install them with `pip install "
      "transformers torch`, or leave --verify out."
    )


def compare(folder: pathlib.Path, checkpoint: os.PathLike) -> str:
  """Returns a line on how far two models' logits are apart.

  Both read the same text, or the same random tokens where the checkpoint has
  no tokenizer, in float32; every position counts.

  Args:
    folder: what transformers loads.
    checkpoint: ours.
  """
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  params, manifest = store.load_model(checkpoint, dtype=jnp.float32)
  tokens_BS = _tokens(checkpoint, manifest)
  forward = jax.jit(transformer.forward, static_argnums=0)
  got_SV = np.asarray(forward(manifest.model, params, tokens_BS)[0])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  )
  with torch.no_grad():
    want_SV = model.eval()(torch.asarray(tokens_BS)).logits[0].numpy()
  # In float64: rounding in float32 is larger than the divergence itself.
  got_log, want_log = (
    special.log_softmax(x_SV.astype(np.float64), axis=-1)
    for x_SV in (got_SV, want_SV)
  )
  kl_S = np.sum(np.exp(want_log) * (want_log - got_log), axis=-1)
  return (
    f"{tokens_BS.size} tokens against transformers: largest difference of a "
    f"logit {np.abs(got_SV - want_SV).max():.2g}, mean KL "
    f"{max(float(kl_S.mean()), 0.0):.2g} nats"
  )


def _tokens(checkpoint: os.PathLike, manifest) -> np.ndarray:
  count = min(_TOKENS, manifest.model.positional.most_tokens or _TOKENS)
  if manifest.tokenizer is None:
    V = manifest.model.vocab_size
    return np.random.default_rng(0).integers(0, V, (1, count))
  tokenizer = tokenizers.load(os.fspath(store.tokenizer_path(checkpoint)))
  text = next(corpus.documents("test"))
  ids: list[int] = []
  while len(ids) < count:
    ids += tokenizer.encode(text[: 8 * count])
  return np.asarray([ids[:count]])
