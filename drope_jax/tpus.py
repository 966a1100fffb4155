"""TPU chips, by the kinds that JAX gives their devices."""

import types

KINDS = types.MappingProxyType(
  {
    "v4": ("TPU v4",),
    "v5e": ("TPU v5 lite", "TPU v5e"),
    "v5p": ("TPU v5", "TPU v5p"),
    "v6e": ("TPU v6 lite", "TPU v6e"),
  }
)
"""Kinds of each chip's devices, the current name first."""


def chip(kind: str) -> str | None:
  """Returns the chip of a device, a key of `KINDS`; None if it is no such TPU.

  Args:
    kind: `jax.Device.device_kind`.
  """
  return next((chip for chip, kinds in KINDS.items() if kind in kinds), None)
