"""Every family's model, its positions dropped, leaves as the same model.

The reference is the family's own code under a rotation that turns nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from drope_jax.checkpoint import store
from drope_jax.cli import main
from drope_jax.inference import choice, decode
from drope_jax.model import transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NEW = 64

CASES = {
  "Llama, MHA": ("Llama", {"num_key_value_heads": 4}, "SmolLM3"),
  "Llama, MQA, tied, biases": (
    "Llama",
    {
      "num_key_value_heads": 1,
      "tie_word_embeddings": True,
      "attention_bias": True,
    },
    "SmolLM3",
  ),
  "Llama, GQA, wide heads": ("Llama", {"head_dim": 16}, "SmolLM3"),
  "Mistral, a window": ("Mistral", {"sliding_window": 100}, "SmolLM3"),
  "Qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}, "SmolLM3"),
  "Qwen2, a window in the upper layer": (
    "Qwen2",
    {
      "use_sliding_window": True,
      "sliding_window": 100,
      "max_window_layers": 1,
    },
    "SmolLM3",
  ),
  "Qwen3, MHA, tied, wide heads": (
    "Qwen3",
    {
      "num_key_value_heads": 4,
      "tie_word_embeddings": True,
      "head_dim": 16,
    },
    "Qwen3",
  ),
  "Qwen3, MQA, a window in the upper layer": (
    "Qwen3",
    {
      "num_key_value_heads": 1,
      "head_dim": 8,
      "use_sliding_window": True,
      "sliding_window": 100,
      "max_window_layers": 1,
    },
    "Qwen3",
  ),
  "SmolLM3, wide heads, a window": (
    "SmolLM3",
    {
      "head_dim": 16,
      "no_rope_layers": [1, 0],
      "use_sliding_window": True,
      "sliding_window": 100,
    },
    "SmolLM3",
  ),
}
# Others have what is in these; two of them generate below.
WITHIN_OTHERS = (
  "Llama, MHA",
  "Llama, GQA, wide heads",
  "Qwen2, tied",
  "Qwen3, MQA, a window in the upper layer",
)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in WITHIN_OTHERS else ())
    for name in CASES
  ],
)
@torch.no_grad()
def test_a_family_after_the_drop(
  name, make_theirs, tokens_BS, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  family, settings, leaves_as = CASES[name]
  theirs = make_theirs(family, **settings)
  theirs.save_pretrained("theirs")
  for command in (
    "convert theirs --out ours",
    "surgery ours --drop all --out dropped",
    "export dropped --out again",
  ):
    assert main.main(command.split()) == 0
  tokens = torch.asarray(tokens_BS)
  rotated = theirs(tokens).logits.numpy()
  _hold_still(theirs, tokens_BS.shape[1])
  want = theirs(tokens).logits.numpy()
  assert 0.3 < np.std(want) < 3, "logits are not of order one"
  assert np.abs(want - rotated).max() > 0.1, "nothing was dropped"
  params, manifest = store.load_model("dropped")
  forward = jax.jit(transformer.forward, static_argnums=0)
  got = forward(manifest.model, params, tokens_BS)
  np.testing.assert_allclose(got, want, atol=1e-5)
  again = _load("again")
  assert type(again).__name__ == f"{leaves_as}ForCausalLM"
  np.testing.assert_allclose(again(tokens).logits.numpy(), want, atol=1e-5)


@pytest.mark.parametrize(
  ("family", "settings"),
  [
    ("Llama", {}),
    ("GPT2", {"intermediate_size": None, "num_key_value_heads": None}),
    ("GPTNeoX", {"num_key_value_heads": None}),
  ],
)
@torch.no_grad()
def test_weights_of_several_dtypes_are_read_exactly(
  family, settings, make_theirs, tokens_BS, tmp_path, monkeypatch
):
  """As a training of q alone leaves them, the others frozen in bfloat16."""
  monkeypatch.chdir(tmp_path)
  make_theirs(family, **settings).save_pretrained("theirs")
  command = "convert theirs --out frozen --dtype bfloat16"
  assert main.main(command.split()) == 0
  params, manifest = store.load_model("frozen")
  q = params["layers"]["attention"]["q"]
  # Rounded to bfloat16, it would be as before.
  q["kernel"] = q["kernel"].astype(jnp.float32) * (1 + 2**-9)
  store.save_model("ours", params, manifest)
  assert main.main(["export", "ours", "--out", "again"]) == 0
  forward = jax.jit(transformer.forward, static_argnums=0)
  want, rounded = (
    forward(manifest.model, optax.tree.cast(x, jnp.float32), tokens_BS)
    for x in (params, optax.tree.cast(params, jnp.bfloat16))
  )
  assert np.abs(rounded - want).max() > 1e-3, "rounding q does not show"
  got = _load("again")(torch.asarray(tokens_BS)).logits.float().numpy()
  np.testing.assert_allclose(got, want, atol=1e-5)


def _load(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation="eager"
  ).eval()


def _hold_still(theirs, length):
  rotary = theirs.model.rotary_emb
  cos, sin = rotary(torch.zeros(1, 1), torch.arange(length)[None])
  still = torch.ones_like(cos), torch.zeros_like(sin)
  rotary.forward = lambda *args, **kwargs: still


@pytest.mark.parametrize(
  ("name", "drop"),
  [
    ("Llama, GQA, wide heads", "none"),
    ("Llama, MHA", "1"),
    ("Mistral, a window", "all"),
    ("Qwen3, MHA, tied, wide heads", "all"),
  ],
)
@torch.no_grad()
def test_greedy_tokens_are_transformers(
  name, drop, make_theirs, tokens_BS, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  family, settings, _ = CASES[name]
  make_theirs(family, **settings).save_pretrained("theirs")
  commands = ["convert theirs --out ours", "export ours --out again"]
  if drop != "none":
    commands.insert(1, f"surgery ours --drop {drop} --out dropped")
    commands[-1] = "export dropped --out again"
  for command in commands:
    assert main.main(command.split()) == 0
  params, manifest = store.load_model("ours" if drop == "none" else "dropped")
  prompts_BS = tokens_BS[:, :200]  # Beyond the windows.
  B, S = prompts_BS.shape
  rows = decode.start(
    manifest.model,
    None,
    params,
    jnp.asarray(prompts_BS),
    jnp.full(B, S),
    jnp.float32(1.0),
    max_tokens=S + NEW,
    chunk_tokens=S,
    backend="blockwise",
  )
  _, got_Bn = decode.advance(
    manifest.model,
    None,
    params,
    rows,
    jnp.float32(1.0),
    choice.GREEDY.arrays(),
    jax.random.split(jax.random.key(0), B),
    jnp.int32(NEW),
    steps=NEW,
    end_ids=(-1,),
    backend="blockwise",
  )
  output_Bt = _load("again").generate(
    torch.asarray(prompts_BS),
    attention_mask=torch.ones(B, S),
    max_new_tokens=NEW,
    do_sample=False,
    eos_token_id=[],
    pad_token_id=0,
  )
  want_Bn = output_Bt[:, S:].numpy()
  assert len(np.unique(want_Bn)) > 5, "they repeat themselves"
  np.testing.assert_array_equal(got_Bn, want_Bn)
