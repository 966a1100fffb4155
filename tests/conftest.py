"""What every test shares: eight virtual CPU devices, and real data if any.

Compiling was most of the suite's time. So tests compile without optimizations
(`tests.xla`), and what one of them has compiled, the others and the programs
that they start find in a cache.
"""

import atexit
import base64
import gc
import json
import os
import pathlib
import shutil
import tempfile

from tests import xla

# Before any test imports jax, which reads them once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), xla.flags(devices=8)]
).strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.mkdtemp(prefix="drope-tests-")
  atexit.register(shutil.rmtree, _cache, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import numpy as np
import pytest

pytest_plugins = ["tests.emulator"]  # The fixture `bucket`.


def pytest_collection_finish():
  """Keeps the collector off what is imported, a tenth of the suite's time."""
  gc.freeze()
  gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
  """Drops what a file's tests compiled: gigabytes that slow collections."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="session")
def test_data() -> pathlib.Path:
  """The folder named by DROPE_TEST_DATA; the test is skipped without one."""
  folder = os.environ.get("DROPE_TEST_DATA")
  if not folder:
    pytest.skip("needs real data: DROPE_TEST_DATA names no folder")
  path = pathlib.Path(folder)
  if not path.is_dir():
    pytest.fail(f"DROPE_TEST_DATA must name a folder, got {folder}. Unset it.")
  return path


@pytest.fixture(scope="session")
def write_meta_folder():
  """Writes a tiny Llama 3.1 as Meta does, in two files; returns its params."""
  torch = pytest.importorskip("torch")

  def write(folder: pathlib.Path) -> dict:
    width, mlp_width, vocab_size = 32, 48, 256 + 256
    params = {
      "dim": width,
      "ffn_dim_multiplier": 0.5,
      "multiple_of": 16,
      "n_heads": 4,
      "n_kv_heads": 2,
      "n_layers": 2,
      "norm_eps": 1e-5,
      "rope_theta": 500_000.0,
      "use_scaled_rope": True,
      "vocab_size": vocab_size,
    }
    halves = {
      "tok_embeddings": (vocab_size // 2, width),
      "output": (vocab_size // 2, width),
      "norm": (width,),
    }
    for n in range(params["n_layers"]):
      halves |= {
        f"layers.{n}.attention_norm": (width,),
        f"layers.{n}.attention.wq": (width // 2, width),
        f"layers.{n}.attention.wk": (width // 4, width),
        f"layers.{n}.attention.wv": (width // 4, width),
        f"layers.{n}.attention.wo": (width, width // 2),
        f"layers.{n}.ffn_norm": (width,),
        f"layers.{n}.feed_forward.w1": (mlp_width // 2, width),
        f"layers.{n}.feed_forward.w2": (width, mlp_width // 2),
        f"layers.{n}.feed_forward.w3": (mlp_width // 2, width),
      }
    rng = np.random.default_rng(0)
    folder.mkdir()
    for rank in range(2):
      weights = {
        f"{name}.weight": torch.ones(shape)
        if len(shape) == 1
        else torch.from_numpy(rng.normal(0, 0.1, shape))
        for name, shape in halves.items()
      }
      weights = {name: x.to(torch.bfloat16) for name, x in weights.items()}
      torch.save(weights, folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps(params))
    ranks = [base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256)]
    (folder / "tokenizer.model").write_bytes(b"".join(ranks))
    return params

  return write
