"""Evals of a language model by length, through `interface.LM`; no jax."""
