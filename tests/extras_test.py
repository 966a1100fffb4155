"""A library that is not installed is named, with the extra that brings it."""

import json.decoder
import sys

import pytest

from drope_jax import extras


def test_an_installed_module_is_returned():
  assert extras.load("json.decoder", "eval", "A test") is json.decoder


@pytest.mark.parametrize("module", ["gguf", "gguf.quants"])
def test_a_missing_library_is_named_with_its_extra(monkeypatch, module):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ValueError) as error:
    extras.load(module, "gguf", "A test")
  assert str(error.value) == (
    f"A test needs the library {module}, which is missing. Install it with "
    "`pip install 'drope_jax[gguf]'`."
  )
