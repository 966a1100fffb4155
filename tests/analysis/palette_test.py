import itertools

from drope_jax.analysis import palette

DEMO = [
  ("base", "model"),
  ("base", "pi"),
  ("base", "ntk"),
  ("base", "yarn"),
  ("recalibrated", "model"),
  ("full", "model"),
]


def _contrast(hex_a, hex_b):
  """The WCAG contrast ratio, 1 to 21."""

  def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
      c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
      for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  high, low = sorted((luminance(hex_a), luminance(hex_b)), reverse=True)
  return (high + 0.05) / (low + 0.05)


def test_no_two_methods_are_told_apart_by_colour_alone():
  looks = list(palette.looks([*DEMO, ("nope", "model")]).values())
  assert len(looks) == 7
  for a, b in itertools.combinations(looks, 2):
    assert a.colour != b.colour and a.marker != b.marker and a.label != b.label


def test_a_method_looks_the_same_whatever_else_is_shown():
  alone = palette.looks([("full", "model")])
  assert alone["full", "model"] == palette.looks(DEMO)["full", "model"]


def test_every_colour_shows_on_white_and_on_the_dark_page():
  for look in palette.looks([*DEMO, ("nope", "model")]).values():
    for page in ("#ffffff", "#191d23"):
      # Below 2 a thick line is hard to see; the worst pair here is at 2.2.
      assert _contrast(look.colour, page) > 2, look


def test_unknown_models_keep_their_names_and_differ():
  pairs = [("mine", "model"), ("mine", "yarn"), ("other", "model")]
  looks = palette.looks(pairs)
  assert [look.label for look in looks.values()] == [
    "mine",
    "mine · YaRN",
    "other",
  ]
  assert len({look.colour for look in looks.values()}) == 3
