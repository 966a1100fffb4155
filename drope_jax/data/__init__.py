"""Text to batches: tokenizers, token stores, packing, sampling order."""
