"""Counts and parts as people write them."""

import argparse

import pytest

from drope_jax.cli import counts


@pytest.mark.parametrize(
  ("text", "count"),
  [
    ("7", 7),
    ("1_000_000", 10**6),
    ("20M", 20 * 10**6),
    ("300k", 300_000),
    ("1.5B", 1_500_000_000),
    ("0.3M", 300_000),
    ("2T", 2 * 10**12),
  ],
)
def test_a_count_is_parsed(text, count):
  assert counts.parse(text) == count


@pytest.mark.parametrize(
  "text", ["0", "0M", "", "M", "-5", "1.5", "0.0001K", "20MB", "1e6", "\u0663"]
)
def test_text_that_is_not_a_count_is_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match="of at least 1"):
    counts.parse(text)


@pytest.mark.parametrize(("text", "part"), [("1/1", (1, 1)), ("2/8", (2, 8))])
def test_a_part_is_parsed(text, part):
  assert counts.part(text) == part


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_there_is_not_is_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match=f"<= N, got '{text}'"):
    counts.part(text)
