"""What docs/positions.md says is so: its schemes, its backends, its example."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np

from drope_jax import positional
from drope_jax.attention import BACKENDS, Need

TEXT = pathlib.Path("docs/positions.md").read_text()


def _rows(heading: str) -> dict[str, str]:
  """Returns the last cell of each row of a section's table, by its first."""
  section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
  rows = re.findall(r"^\| (`.*?) \| .*?([^|]*) \|$", section, re.M)
  return {name: cell for names, cell in rows for name in _named(names)}


def _named(cell: str) -> list[str]:
  return re.findall(r"`(\w+)`", cell)


def test_the_table_has_every_scheme():
  assert _rows("The schemes").keys() == positional.CATALOGUE.keys()


def test_a_bias_has_the_backends_that_honor_it():
  rows = _rows("What a scheme can say")
  for method, need in (
    ("bias_slopes", Need.SLOPES),
    ("bias", Need.BIAS),
    ("learned_bias", Need.BIAS),
  ):
    able = {name for name, b in BACKENDS.items() if need in b.honors}
    assert {*_named(rows[method])} == able


def test_the_example_is_the_bias_that_it_says():
  (code,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.S | re.M)
  module = {}
  exec(code, module)
  np.testing.assert_allclose(
    module["LogBias"](2.0).bias(3, jnp.arange(4)),
    [-2 * np.log([1, 2, 3, 4])] * 3,
    rtol=1e-6,
  )
