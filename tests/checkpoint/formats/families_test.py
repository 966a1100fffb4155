"""What formats call a parameter is of one that is described."""

import pytest

from drope_jax import parameters
from drope_jax.checkpoint.formats import (
  families,
  gguf_file,
  hf_architecture,
  llama2c,
  meta,
)

TABLES = {
  "meta": meta.NAMES,
  "llama2.c": llama2c.NAMES,
  **{name: one.names for name, one in families.FAMILIES.items()},
  **{
    f"GGUF's {name}": one.names for name, one in gguf_file.ARCHITECTURES.items()
  },
}


@pytest.mark.parametrize("table", TABLES)
def test_names_are_of_parameters_and_say_the_layer_of_stacked_ones(table):
  for path, name in TABLES[table].items():
    assert ("{}" in name) == parameters.PARAMETERS[path].is_stacked, path


def test_an_architecture_is_written_or_has_merged_tensors():
  written = {*hf_architecture.STOCK, *hf_architecture.PAPERS}
  merged = {name for name, one in families.FAMILIES.items() if one.merged}
  assert written | merged == set(families.FAMILIES)
  assert merged - written == {"phi3"}
