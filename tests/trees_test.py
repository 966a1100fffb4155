"""Flattening by path loses nothing, and mismatches are named."""

import numpy as np
import pytest

from drope_jax import trees

TREE = {
  "embed": {"table": np.zeros((4, 2))},
  "layers": {"q": {"kernel": np.zeros((3, 2)), "bias": np.zeros(3)}},
  "gain": np.zeros(2),
}


def test_flatten_keeps_the_trees_order():
  flat = trees.flatten(TREE)
  assert list(flat) == [
    "embed/table",
    "layers/q/kernel",
    "layers/q/bias",
    "gain",
  ]
  assert flat["layers/q/bias"] is TREE["layers"]["q"]["bias"]


def test_unflatten_inverts_flatten():
  again = trees.unflatten(trees.flatten(TREE))
  assert again == TREE  # The same leaf objects: arrays compare by identity.
  assert list(again) == list(TREE)


@pytest.mark.parametrize("key", ["a/b", 3])
def test_a_key_that_unflatten_could_not_invert_is_refused(key):
  message = r"strings without '/', got .*\. Rename"
  with pytest.raises(ValueError, match=message):
    trees.flatten({"layers": {key: 1}})


def test_numbers_and_bytes_are_numpys():
  leaves = [np.zeros((3, 2), np.float16), np.zeros((), np.int32), np.zeros(5)]
  assert trees.count(leaves) == sum(leaf.size for leaf in leaves) == 12
  assert trees.num_bytes(leaves) == sum(leaf.nbytes for leaf in leaves) == 56


def test_trees_with_the_same_leaves_pass_in_any_order():
  reordered = dict(reversed(TREE.items()))
  trees.require_same_leaves(TREE, reordered, "it")


def test_what_is_missing_is_named_in_order():
  want = {name: np.zeros(1) for name in "hgfedcba"}
  with pytest.raises(ValueError, match="missing a, b, c, d, e, f, g, h;"):
    trees.require_same_leaves(want, {"z": np.zeros(1)}, "it")


def test_every_mismatch_is_named():
  misfit = {
    "embed": {"table": np.zeros((5, 2))},
    "layers": {"q": {"kernel": np.zeros((3, 2))}},
    "gain": np.zeros(2),
    "head": np.zeros(1),
  }
  message = (
    "parameters of the file f .*missing layers/q/bias; "
    r"unexpected head; embed/table must be \(4, 2\), got \(5, 2\)\. Use"
  )
  with pytest.raises(ValueError, match=message):
    trees.require_same_leaves(TREE, misfit, "the file f")
