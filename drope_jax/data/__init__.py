"""From text to batches: tokenizers, token stores, packing, order."""
