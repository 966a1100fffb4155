"""Packaging of drope_jax; the tools' settings are in pyproject.toml."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r'^__version__ = "(.+)"$', (_ROOT / "drope_jax/__init__.py").read_text(), re.M
).group(1)

# Upper bounds stand where an API has changed between minor versions.
_RUNTIME = [
  "absl-py>=2",
  "etils[epath]>=1.12",
  "flax>=0.12,<0.13",
  "gin-config>=0.5,<0.6",
  "grain>=0.2.16,<0.3",
  "jax>=0.10,<0.12",
  "matplotlib>=3.9",
  "ml_dtypes>=0.5",
  "numpy>=2.0",
  "optax>=0.2.6,<0.3",
  "orbax-checkpoint>=0.12,<0.13",
  "psutil>=5.9",
  "rich>=13",
  "safetensors>=0.5",
  "scipy>=1.13",
  "sentencepiece[protobuf]>=0.2.3",
  "tensorstore>=0.1.84",
  "tokenizers>=0.21",
  "wonderwords>=3",
  "zstandard>=0.23",
]

_EVAL = ["jieba>=0.42.1", "lm_eval>=0.4.13,<0.5", "rouge>=1.0.1"]
_GCS = ["gcsfs>=2026.1"]
_GGUF = ["gguf>=0.17"]
_PARQUET = ["pyarrow>=18"]
_TENSORBOARD = ["tensorboardX>=2.6.2"]

_EXTRAS = {
  "docs": ["furo>=2025.12", "myst-parser>=5", "sphinx>=9"],
  "eval": _EVAL,
  "gcs": _GCS,
  "gguf": _GGUF,
  "gpu": ["jax[cuda13]>=0.10,<0.12"],
  "parquet": _PARQUET,
  "test": [
    *_EVAL,
    *_GCS,
    *_GGUF,
    *_PARQUET,
    *_TENSORBOARD,
    "gcp-storage-emulator>=2026.7",
    "hypothesis>=6.130",
    "import-linter>=2.1",
    "jsonschema>=4.20",
    "mypy>=2.4,<3",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.17,<0.18",
    "setuptools>=77",
    # Exact: a version that has a CPU-only build for each supported Python.
    "torch==2.13.0",
    "transformers>=5,<6",
  ],
  "tpu": ["jax[tpu]>=0.10,<0.12"],
  "track": [*_TENSORBOARD, "tensorboard>=2.18", "wandb>=0.19"],
}

setuptools.setup(
  name="drope_jax",
  version=_VERSION,
  description="Drop positional embeddings (DroPE) in JAX and Flax",
  long_description=(_ROOT / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE", "drope_jax/assets/**/LICENSE*"],
  python_requires=">=3.11",
  install_requires=_RUNTIME,
  extras_require=_EXTRAS,
  # configs/ lies at the top of the repository, where people look for it, and
  # is installed inside the package, where the commands look for it.
  packages=[
    *setuptools.find_packages(
      include=["drope_jax", "drope_jax.*", "launch", "launch.*"]
    ),
    "drope_jax.configs",
  ],
  package_dir={"drope_jax.configs": "configs"},
  package_data={
    "drope_jax": ["assets/**/*", "assets/**/.*", "py.typed"],
    "drope_jax.configs": ["**/*.gin"],
    "launch": ["*.toml", "slices/*.toml", "examples/*.yaml"],
  },
  entry_points={
    "console_scripts": [
      "drope = drope_jax.cli.main:main",
      "drope-launch = launch.cli:main",
      "drope-lm-eval = drope_jax.cli.harness:main",
    ]
  },
)
