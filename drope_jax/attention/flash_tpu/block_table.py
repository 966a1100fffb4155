"""Blocks found by search; `tools/tune_attention.py` writes this file.

Cycles are those of one head's causal attention in the compiler's static
schedule, at 4096 and at 32768 tokens.
"""

# fmt: off
ROWS = (
  # chip, head_dim, direction, tile (q and k), unit_q, unit_k, ahead, behind,
  # mxu_total, part, undivided, cycles
  ("v5e", 64, "backward", 2048, 256, 256, 2, 1, False, 1024, False, 86157, 4966081),
  ("v5e", 64, "forward", 2048, 256, 128, 3, 2, False, 1024, False, 33822, 1923696),
  ("v5e", 128, "backward", 2048, 256, 256, 2, 1, False, 1024, False, 94853, 5491265),
  ("v5e", 128, "forward", 2048, 256, 128, 3, 2, False, 1024, False, 41081, 2348120),
  ("v5e", 256, "forward", 2048, 256, 256, 2, 1, False, 1024, False, 79180, 4624896),
  ("v5p", 64, "backward", 2048, 256, 256, 2, 1, False, 1024, False, 86485, 4980577),
  ("v5p", 64, "forward", 2048, 256, 128, 3, 2, False, 1024, False, 33893, 1934008),
  ("v5p", 128, "backward", 2048, 256, 256, 2, 1, False, 1024, False, 95163, 5505393),
  ("v5p", 128, "forward", 2048, 256, 128, 3, 2, False, 1024, False, 41024, 2361664),
  ("v5p", 256, "forward", 2048, 256, 256, 2, 1, False, 1024, False, 79434, 4637456),
  ("v6e", 64, "backward", 2048, 256, 256, 2, 1, False, 2048, False, 43254, 2469881),
  ("v6e", 64, "forward", 2048, 256, 256, 3, 2, True, 1024, True, 17822, 998704),
  ("v6e", 128, "backward", 2048, 256, 256, 2, 1, False, 2048, False, 43582, 2481017),
  ("v6e", 128, "forward", 2048, 256, 256, 2, 2, True, 1024, True, 19545, 1082264),
)
