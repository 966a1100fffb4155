"""Nested dicts of arrays, and the same as flat dicts with paths as keys."""

from collections.abc import Callable, Iterable, Mapping
import math
from typing import Any

SEPARATOR = "/"


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns {"layers/attention/q/kernel": leaf, ...}, in the tree's order.

  Raises:
    ValueError: a key is not a string, or contains the separator, which
      `unflatten` could not invert.
  """
  flat: dict[str, Any] = {}
  for key, value in tree.items():
    if not isinstance(key, str) or SEPARATOR in key:
      raise ValueError(
        f"A tree's keys must be strings without {SEPARATOR!r}, got {key!r}. "
        "Rename the key."
      )
    if isinstance(value, Mapping):
      for path, leaf in flatten(value).items():
        flat[key + SEPARATOR + path] = leaf
    else:
      flat[key] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested dict from which `flatten` made `flat`."""
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split(SEPARATOR)
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = leaf
  return tree


def map_with_path(
  function: Callable[[str, Any], Any], tree: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the tree of what a function makes of each path and leaf."""
  return unflatten(
    {path: function(path, leaf) for path, leaf in flatten(tree).items()}
  )


def count(leaves: Iterable[Any]) -> int:
  """Returns how many numbers arrays, or shapes of arrays, have together."""
  return sum(math.prod(leaf.shape) for leaf in leaves)


def num_bytes(leaves: Iterable[Any]) -> int:
  """Returns how many bytes arrays, or shapes of arrays, have together."""
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def require_same_leaves(
  want: Mapping[str, Any], got: Mapping[str, Any], what: str
) -> None:
  """Checks that two trees have the same paths and shapes.

  Args:
    want: tree of leaves with the expected `shape`.
    got: tree to check.
    what: name of `got` in the message, e.g. "the checkpoint at /a/b".

  Raises:
    ValueError: listing leaves that are missing, unexpected or of another shape.
  """
  want_flat, got_flat = flatten(want), flatten(got)
  complaints = []
  if missing := sorted(want_flat.keys() - got_flat.keys()):
    complaints.append("missing " + ", ".join(missing))
  if unexpected := sorted(got_flat.keys() - want_flat.keys()):
    complaints.append("unexpected " + ", ".join(unexpected))
  for path in sorted(want_flat.keys() & got_flat.keys()):
    want_shape = tuple(want_flat[path].shape)
    got_shape = tuple(got_flat[path].shape)
    if want_shape != got_shape:
      complaints.append(f"{path} must be {want_shape}, got {got_shape}")
  if complaints:
    raise ValueError(
      f"The parameters of {what} do not match the model's configuration: "
      f"{'; '.join(complaints)}. Use the configuration they were saved with."
    )
