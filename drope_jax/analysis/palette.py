"""How each compared method looks: one name, colour, marker and dash for all.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and no
two methods differ by colour alone: markers and dashes differ as well.
"""

from collections.abc import Iterable
import dataclasses
import itertools


@dataclasses.dataclass(frozen=True)
class Look:
  """The looks of one method in every plot and table.

  Attributes:
    label: what the reader sees.
    colour: hex; legible on white and on near-black.
    marker: a matplotlib marker.
    dash: a matplotlib line style.
    strong: drawn wider, on top of the others.
  """

  label: str
  colour: str
  marker: str
  dash: str = "-"
  strong: bool = False


ROPE = Look("RoPE", "#808890", "o")
PI = Look("PI", "#e69f00", "v")
NTK = Look("NTK-aware", "#56b4e9", "s", "--")
YARN = Look("YaRN", "#1f86c8", "^")
DROPE = Look("DroPE", "#d55e00", "D", strong=True)
DROPE_LIVE = Look("DroPE, brief", "#cc79a7", "P", (0, (4, 1.5)), strong=True)
NOPE = Look("NoPE", "#009e73", "X", "-.")

_MODELS = {
  "base": ROPE,
  "rope": ROPE,
  "full": DROPE,
  "drope": DROPE,
  "recalibrated": DROPE_LIVE,
  "nope": NOPE,
}
_SCALINGS = {"rope": ROPE, "pi": PI, "ntk": NTK, "yarn": YARN}
_SPARE = (ROPE, DROPE, YARN, NOPE, PI, DROPE_LIVE, NTK)


def looks(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
  """Returns the look of each (model, method) pair, in the order given.

  A well-known model ("base", "recalibrated", "full", "rope", "nope", "drope")
  as it is (method "model") and every scaling of the base look the same in all
  plots. Anything else is labelled with its own name and takes the next look
  that is free; where none is, it shares one.
  """
  pairs = list(dict.fromkeys(pairs))
  known = {pair: _known(*pair) for pair in pairs}
  free = [look for look in _SPARE if look not in known.values()] or _SPARE
  spare = itertools.cycle(free)
  return {
    (model, method): known[model, method]
    or dataclasses.replace(next(spare), label=_label(model, method))
    for model, method in pairs
  }


def _known(model, method):
  if method == "model":
    return _MODELS.get(model.lower())
  return _SCALINGS.get(method) if _MODELS.get(model.lower()) is ROPE else None


def _label(model, method):
  if method == "model":
    return model
  scaling = _SCALINGS.get(method)
  return f"{model} · {scaling.label if scaling else method}"
