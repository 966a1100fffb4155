"""Blocks found by search; `tools/tune_attention.py` writes this file.

Cycles are those of one head's causal attention in the compiler's static
schedule, at 4096 and at 32768 tokens.
"""

ROWS = (
  # chip, head_dim, direction, tile (q and k), unit_q, unit_k, ahead, behind,
  # mxu_total, part, cycles
  ("v5e", 64, "backward", 2048, 256, 256, 2, 1, False, 1024, 84309, 4867073),
  ("v5e", 64, "forward", 2048, 256, 128, 3, 2, False, 1024, 30677, 1751704),
  ("v5e", 128, "backward", 2048, 256, 256, 2, 1, False, 1024, 93038, 5393977),
  ("v5e", 128, "forward", 2048, 256, 128, 3, 2, False, 1024, 38916, 2233696),
  ("v5p", 64, "backward", 2048, 256, 256, 2, 1, False, 1024, 84885, 4893409),
  ("v5p", 64, "forward", 2048, 256, 128, 3, 2, False, 1024, 31150, 1785392),
  ("v5p", 128, "backward", 2048, 256, 256, 2, 1, False, 1024, 93605, 5420129),
  ("v5p", 128, "forward", 2048, 256, 128, 3, 2, False, 1024, 39058, 2251408),
  ("v6e", 64, "backward", 2048, 256, 256, 2, 1, False, 2048, 43695, 2490321),
  ("v6e", 64, "forward", 2048, 256, 256, 3, 2, True, 1024, 18251, 1018152),
  ("v6e", 128, "backward", 2048, 256, 256, 2, 1, False, 2048, 43988, 2500393),
  ("v6e", 128, "forward", 2048, 256, 256, 2, 2, True, 1024, 20139, 1100008),
)
