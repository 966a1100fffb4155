"""What the library says of its parameters becomes what a command takes."""

import pytest

from drope_jax.checkpoint.formats import export
from drope_jax.cli import flags

FLAGS = {"format": "--format", "scale": "--logit-scale", "nan": "--nan"}


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("`scale` must be above 0.", "--logit-scale must be above 0."),
    ("Use `scale=1.25`.", "Use --logit-scale 1.25."),
    ('`format="sakana"` has one.', "--format sakana has one."),
    ("or `nan=True`.", "or --nan."),
    ("`drope surgery --scale` and `other=1`", None),
    ("the scale and its format", None),
  ],
)
def test_parameters_in_backticks_become_flags(text, told):
  assert flags.named(text, FLAGS) == (told or text)


def test_the_library_names_its_own_parameter_and_the_command_its_flag():
  with pytest.raises(ValueError, match="^`logit_scale` must be"):
    export.Options(logit_scale=0.0)
  with (
    pytest.raises(ValueError, match="^--logit-scale must be .* got 0.0"),
    flags.naming({"logit_scale": "--logit-scale"}),
  ):
    export.Options(logit_scale=0.0)
