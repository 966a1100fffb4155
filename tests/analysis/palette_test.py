import itertools

import numpy as np
import pytest

from drope_jax.analysis import palette

DEMO = [
  *(("base", method) for method in ("model", "pi", "ntk", "yarn")),
  *((name, "model") for name in ("continued", "live", "partial", "full")),
]


def _contrast(hex_a, hex_b):
  """The WCAG contrast ratio, 1 to 21."""

  def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
      c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
      for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  high, low = sorted((luminance(hex_a), luminance(hex_b)), reverse=True)
  return (high + 0.05) / (low + 0.05)


def test_no_two_rows_are_told_apart_by_color_alone():
  looks = list(palette.looks(DEMO).values())
  assert len(looks) == 8
  for a, b in itertools.combinations(looks, 2):
    assert a.color != b.color and a.marker != b.marker and a.label != b.label
    assert a.dash != b.dash or a.strong != b.strong or "-" in (a.dash, b.dash)


def _simulated(color, confusion):
  """Linear RGB of a color as a color-blind eye has it."""
  channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [
    c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    for c in channels
  ]
  seen = np.clip(np.asarray(confusion) @ linear, 0, 1)
  return np.where(
    seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055
  )


# Machado, Oliveira and Fernandes 2009, table 1, severity 1.
CONFUSIONS = {
  "protanopia": [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  "deuteranopia": [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
}


@pytest.mark.parametrize("confusion", CONFUSIONS.values(), ids=CONFUSIONS)
def test_colors_differ_to_color_blind_eyes(confusion):
  for ink in (palette.INK, "#e6e9ed"):
    looks = palette.looks(DEMO).values()
    seen = [
      _simulated(ink if x.color == palette.INK else x.color, confusion)
      for x in looks
    ]
    # Red and green of one lightness are 0.02 apart here.
    for a, b in itertools.combinations(seen, 2):
      assert np.abs(a - b).max() > 0.08


def test_a_method_looks_the_same_whatever_else_is_shown():
  alone = palette.looks([("full", "model")])
  assert alone["full", "model"] == palette.looks(DEMO)["full", "model"]


def test_every_color_shows_on_white_and_on_the_dark_page():
  for look in palette.looks(DEMO).values():
    if look.color == palette.INK:
      continue  # The page's own text color, on either.
    for page in ("#ffffff", "#191d23"):
      # Below 2 a thick line is hard to see; the worst pair here is at 2.2.
      assert _contrast(look.color, page) > 2, look


def test_unknown_models_keep_their_names_and_differ():
  pairs = [("mine", "model"), ("mine", "yarn"), ("other", "model")]
  looks = palette.looks(pairs)
  assert [look.label for look in looks.values()] == [
    "mine",
    "mine · YaRN",
    "other",
  ]
  assert len({look.color for look in looks.values()}) == 3


def test_where_colors_run_out_lines_and_markers_still_differ():
  pairs = [*DEMO, *((f"model {i}", "model") for i in range(28))]
  looks = list(palette.looks(pairs).values())
  drawn = {(look.color, look.marker, look.dash) for look in looks}
  assert len(drawn) == len(pairs)
  for look in looks[:8]:
    others = [other for other in looks if other.color == look.color]
    assert len({other.marker for other in others}) == len(others) == 4


def test_two_names_of_one_look_do_not_share_it():
  looks = palette.looks([("base", "model"), ("rope", "model")])
  assert len({look.color for look in looks.values()}) == 2
