from collections.abc import Mapping
import typing
from typing import Literal

import pytest

from drope_jax.cli import field_types
from drope_jax.positional import Nope, Pattern, Rope, Scheme


@pytest.mark.parametrize(
  ("value", "hint"),
  [
    (3, int),
    (True, bool),
    (None, int | None),
    ("a", typing.Optional[str]),  # noqa: UP045 - The older spelling counts.
    ((), tuple[int, ...]),
    (((1, 0.5), (2, 0.1)), tuple[tuple[int, float], ...]),
    ({"a": 1, "b": "c"}, Mapping[str, int | str]),
    ("q", Literal["q", "k"]),
    (Rope(), Scheme),
    (Pattern((Nope(), Rope())), Scheme | Pattern),
  ],
)
def test_a_value_of_the_type_passes_unchanged(value, hint):
  assert field_types.check(value, hint) == value


@pytest.mark.parametrize(
  ("value", "hint"),
  [
    (True, int),
    (True, float),
    (1, bool),
    (1.0, int),
    ("1", int | None),
    ((1, 2), tuple[int]),
    ((1, "a"), tuple[int, ...]),
    (1, tuple[int, ...]),
    ({"a": 0.5}, Mapping[str, int | str]),
    ({1: 1}, Mapping[str, int | str]),
    ((), Mapping[str, int]),
    ("v", Literal["q", "k"]),
    (3, Scheme),
    (Nope(), Rope),
  ],
)
def test_a_value_of_another_type_is_refused(value, hint):
  with pytest.raises(TypeError, match="must be .*, got "):
    field_types.check(value, hint)


def test_the_message_calls_a_mapping_a_dict():
  with pytest.raises(TypeError, match="a dict of str to bool or int, got 3"):
    field_types.check(3, Mapping[str, bool | int])


def test_an_int_becomes_a_float_if_the_type_needs_one():
  got = field_types.check((1, (2,)), tuple[float, tuple[float | None, ...]])
  assert got == (1.0, (2.0,))
  assert [type(got[0]), type(got[1][0])] == [float, float]


def test_an_int_stays_an_int_if_both_are_allowed():
  assert type(field_types.check(1, int | float)) is int
