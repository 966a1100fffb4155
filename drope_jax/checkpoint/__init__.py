"""The checkpoint format: Orbax arrays, a manifest, and the tokenizer."""
