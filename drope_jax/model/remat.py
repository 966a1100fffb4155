"""Rematerialization policies of a layer, by MaxText's names.

The backward pass computes again, from the layer's input, what a policy neither
saves nor offloads. The policies save, in ascending order of memory:

  full                               nothing
  save_out_proj                      out_proj
  save_context                       context
  save_qkv_proj                      query_proj, key_proj, value_proj
  save_dot_with_context_except_mlp   these and context, out_proj
  minimal                            every projection
  minimal_with_context               every projection, and context
  none                               everything

"context" is attention's output and log-sum-exp. With it the backward pass does
not run the forward kernel again. Only the kernels for TPUs have it: the other
backends compute their gradient from queries, keys and values.
"""

from collections.abc import Callable

import jax

_QKV = ("query_proj", "key_proj", "value_proj")
_PROJECTIONS = (*_QKV, "out_proj", "mlpwi_0", "mlpwi_1", "mlpwo")
_SAVED = {
  "full": (),
  "save_out_proj": ("out_proj",),
  "save_context": ("context",),
  "save_qkv_proj": _QKV,
  "save_dot_with_context_except_mlp": (*_QKV, "context", "out_proj"),
  "minimal": _PROJECTIONS,
  "minimal_with_context": (*_PROJECTIONS, "context"),
}
_OFFLOADED = {"qkv_proj_offloaded": _QKV, "minimal_offloaded": _PROJECTIONS}

POLICIES = ("none", *_SAVED, *_OFFLOADED)
"""The offloaded policies keep what they save in the host's pinned memory."""


def apply(name: str, body: Callable, in_loop: bool) -> Callable:
  """Returns a layer's function that saves what a policy says.

  Args:
    name: of the policy, in `POLICIES`.
    body: the layer's function.
    in_loop: whether it is the body of a loop. The compiler does not merge
      computations across a loop's iterations. Elsewhere a barrier has to keep
      it from merging the second computation with the first.

  Raises:
    ValueError: there is no such policy.
  """
  if name == "none":
    return body
  if name in _SAVED:
    policy = jax.checkpoint_policies.save_only_these_names(*_SAVED[name])
  elif name in _OFFLOADED:
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[*_OFFLOADED[name]],
      offload_src="device",
      offload_dst="pinned_host",
    )
  else:
    raise ValueError(
      f"A remat policy must be one of {', '.join(POLICIES)}, got {name!r}. "
      "Name one of these."
    )
  return jax.checkpoint(body, policy=policy, prevent_cse=not in_loop)
