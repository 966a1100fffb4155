"""The label, color, marker and dash of each compared model, in all plots.

Colors are those of Okabe and Ito, which color-blind readers can tell apart, and
a ninth; unscaled RoPE has ink and gray. Two looks never differ by color alone:
markers and dashes differ as well.
"""

from collections.abc import Iterable
import dataclasses
import itertools

from drope_jax.analysis import methods

INK = "#1b1f24"
"""`canvas.svg` replaces this by the text color of the page, light or dark."""


@dataclasses.dataclass(frozen=True)
class Look:
  """The look of a model, or of a model under a method, in plots and tables.

  Attributes:
    label: what the reader sees.
    color: hex; legible on white and on near-black, or `INK`.
    marker: a matplotlib marker.
    dash: a matplotlib line style.
    strong: whether it is drawn wider and on top of the others.
  """

  label: str
  color: str
  marker: str
  dash: str | tuple[int, tuple[float, ...]] = "-"
  strong: bool = False


BASE = Look("base", INK, "o")
DROPPED = Look("live", "#d55e00", "D", strong=True)
_PI = Look("base · PI", "#e69f00", "v", (0, (1, 1)))
_NTK = Look("base · NTK", "#56b4e9", "s", (0, (5, 1.5)))
_YARN = Look("base · YaRN", "#1f77c0", "^")
_CONTINUED = Look("continued", "#6f7783", "h", (0, (6, 1.5, 1, 1.5)))
_PARTIAL = Look("partial", "#cc79a7", "P", (0, (4, 1.5)), strong=True)
FULL = Look("full", "#009e73", "X", (0, (3, 1, 1, 1)), strong=True)
_NINTH = Look("", "#8e5ea2", "p", (0, (8, 2, 1, 2)))

_MODELS = {
  "base": BASE,
  "rope": BASE,
  "continued": _CONTINUED,
  "live": DROPPED,
  "partial": _PARTIAL,
  "full": FULL,
  "drope": FULL,
}
_SCALINGS = {"pi": _PI, "ntk": _NTK, "yarn": _YARN}
_SPARE = (BASE, DROPPED, _YARN, FULL, _PI, _PARTIAL, _NTK, _CONTINUED, _NINTH)
# Markers and dashes for using the same colors again.
_LAPS = (("<", (0, (1, 3))), (">", (0, (8, 2, 1, 2))), ("*", (0, (2, 1))))


def label(model: str, method: str) -> str:
  """Returns the name of a model under a method, for all plots and tables."""
  if method == "model":
    return model
  known = methods.METHODS.get(method)
  return f"{model} · {known.label if known else method}"


def renamed(look: Look, label: str) -> Look:
  """Returns a look under another label."""
  return dataclasses.replace(look, label=label)


def looks(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
  """Returns the look of each (model, method) pair, in the order given.

  The models of the demo by the method "model", and every scaling of its base,
  have the same look in all plots, and so have "rope" and "drope". Other pairs
  get the next free look. If there is none, a color is used again with another
  marker and dash. The label is always that of the pair.
  """
  pairs = list(dict.fromkeys(pairs))
  chosen: dict[tuple[str, str], Look] = {}
  for pair in pairs:
    known = _known(*pair)
    if known and known not in chosen.values():
      chosen[pair] = known
  spare = _spare(chosen.values())
  return {
    pair: dataclasses.replace(
      chosen[pair] if pair in chosen else next(spare), label=label(*pair)
    )
    for pair in pairs
  }


def _spare(taken):
  """Yields looks that are not taken, without end."""
  yield from (look for look in _SPARE if look not in taken)
  for marker, dash in itertools.cycle(_LAPS):
    for look in _SPARE:
      yield dataclasses.replace(look, marker=marker, dash=dash, strong=False)


def _known(model, method):
  look = _MODELS.get(model)
  if method == "model":
    return look
  return _SCALINGS.get(method) if look is BASE else None
