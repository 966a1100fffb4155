"""DroPE in JAX: train with RoPE, drop it, recalibrate, read longer contexts.

Importing the package imports nothing else: neither jax, nor gin, nor a device.
"""

__version__ = "0.1.0"
