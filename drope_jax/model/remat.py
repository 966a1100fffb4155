"""Which of a layer's activations the backward pass finds, by MaxText's names.

What a policy neither saves nor offloads is computed again from the layer's
input. Saved, in ascending order of memory:

  full                               nothing
  save_out_proj                      out_proj
  save_context                       context
  save_qkv_proj                      query_proj, key_proj, value_proj
  save_dot_with_context_except_mlp   these and context, out_proj
  minimal                            every projection
  minimal_with_context               every projection, and context
  none                               everything

"context" is attention's output and log-sum-exp, with which the backward kernel
need not run the forward one again. The kernels for TPUs name it; the other
backends make their gradient from queries, keys and values, and save nothing.
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
"""The offloaded ones keep what they save in the host's pinned memory."""


def apply(name: str, body: Callable, in_loop: bool) -> Callable:
  """Returns a layer's function that saves as policy `name` has it.

  Args:
    name: in `POLICIES`.
    body: the layer's function.
    in_loop: whether a loop runs it, whose bounds alone keep the compiler from
      merging what is computed again with what was computed before.

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
