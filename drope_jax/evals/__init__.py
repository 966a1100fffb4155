"""Perplexity and retrieval by length, seen through `interface.LM`; no jax."""
