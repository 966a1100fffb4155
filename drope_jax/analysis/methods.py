"""The position methods of an evaluation, and how a report speaks of each."""

import types
from typing import NamedTuple


class Method(NamedTuple):
  """A way to read beyond the trained context.

  Attributes:
    label: after a model's name, in plots and tables.
    what: what a model under it is, with {model} for the model's name.
    scaling: its name in a sentence, if it scales RoPE; else None.
  """

  label: str
  what: str
  scaling: str | None = None


METHODS = types.MappingProxyType(
  {
    "rope": Method("RoPE", "{model}, with unchanged RoPE"),
    "pi": Method(
      "PI",
      "{model}, every frequency of its RoPE divided by the length factor "
      "(position interpolation)",
      "position interpolation (PI)",
    ),
    "ntk": Method(
      "NTK",
      "{model}, the theta of its RoPE raised with the length, which lowers "
      "slow frequencies more than fast ones (NTK-aware)",
      "NTK-aware scaling",
    ),
    "yarn": Method(
      "YaRN",
      "{model}, only the slow frequencies of its RoPE divided, and its "
      "logits scaled up (YaRN)",
      "YaRN",
    ),
    "longrope2": Method(
      "LongRoPE2",
      "{model}, the frequencies of its RoPE divided, the slow ones by the "
      "length factor and the others by less the faster they are (LongRoPE2's "
      "rule without its search)",
      "LongRoPE2's rule",
    ),
    "crop": Method(
      "cropped",
      "{model}, given only the end of each text, as much as its context holds",
    ),
    "dynamic_pi": Method(
      "dynamic PI",
      "{model}, position interpolation by each text's own length",
      "dynamic position interpolation",
    ),
    "dynamic_ntk": Method(
      "dynamic NTK",
      "{model}, NTK-aware scaling by each text's own length",
      "dynamic NTK-aware scaling",
    ),
    "dynamic_yarn": Method(
      "dynamic YaRN",
      "{model}, YaRN by each text's own length",
      "dynamic YaRN",
    ),
  }
)
"""By the name that results have. "model", a model as it is, has no words."""
SCALINGS = types.MappingProxyType(
  {name: m.scaling for name, m in METHODS.items() if m.scaling is not None}
)
"""Names in a sentence, of the methods that scale RoPE."""
