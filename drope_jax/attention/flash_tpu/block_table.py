"""Blocks found by search; `tools/tune_attention.py` writes this file.

Cycles are those of one head's causal attention in the compiler's static
schedule, at 4096 and at 32768 tokens.
"""

ROWS = (
  # chip, head_dim, direction, q, k, unit_q, unit_k, ahead, behind, cycles
  ("v5e", 64, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v5e", 64, "forward", 1024, 1024, 256, 128, 4, 2, 0, 0),
  ("v5e", 128, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v5e", 128, "forward", 1024, 1024, 256, 128, 4, 2, 0, 0),
  ("v5p", 64, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v5p", 64, "forward", 1024, 1024, 256, 128, 4, 2, 0, 0),
  ("v5p", 128, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v5p", 128, "forward", 1024, 1024, 256, 128, 4, 2, 0, 0),
  ("v6e", 64, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v6e", 64, "forward", 1024, 1024, 256, 256, 3, 2, 0, 0),
  ("v6e", 128, "backward", 1024, 1024, 256, 256, 2, 1, 0, 0),
  ("v6e", 128, "forward", 1024, 1024, 256, 256, 3, 2, 0, 0),
)
