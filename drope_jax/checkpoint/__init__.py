"""Checkpoints: Orbax arrays, a manifest, and the tokenizer."""
