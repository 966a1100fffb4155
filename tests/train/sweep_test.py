"""The points of a grid."""

import pytest

from drope_jax.train.sweep import Axis, Sweep

NORM = Axis("norm", {"none": (), "qk": ("Surgery.qk_norm = 'qk'",)})
RATE = Axis("rate", {"1e-3": ("Cosine.peak = 1e-3",), "3e-3": ()})


def test_points_are_every_combination_for_each_seed():
  sweep = Sweep("r.gin", (NORM, RATE), (3, 0), ("Recipe.log_every_steps = 1",))
  points = list(sweep.points())
  assert [point.name for point in points] == [
    *("none_1e-3_s3", "none_3e-3_s3", "qk_1e-3_s3", "qk_3e-3_s3"),
    *("none_1e-3_s0", "none_3e-3_s0", "qk_1e-3_s0", "qk_3e-3_s0"),
  ]
  assert points[2].overrides == (
    "Recipe.seed = 3",
    "Recipe.log_every_steps = 1",
    "Surgery.qk_norm = 'qk'",
    "Cosine.peak = 1e-3",
  )


def test_all_points_start_from_the_sweeps_checkpoint():
  sweep = Sweep("r.gin", (NORM,), init_from="it's", seeds=(0,))
  assert {point.overrides[1] for point in sweep.points()} == {
    """Recipe.init_from = "it's\""""
  }


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Axis("norm", {}), "at least one value, .* got none"),
    (lambda: Axis("norm", {"a/b": ()}), r"got \['a/b'\]"),
    (lambda: Sweep("r.gin", ()), "at least one axis and one seed, .* got none"),
    (lambda: Sweep("r.gin", (NORM,), (0, 0)), "names differ, got none_s0,"),
    (
      lambda: Sweep("r.gin", (NORM,), references={"base": "x"}),
      r"references is of evaluations, .* got \{'base': 'x'\} without one",
    ),
    (
      lambda: Sweep("r.gin", (NORM,), methods=("yarn",)),
      "methods is of evaluations",
    ),
    (
      lambda: Sweep("r.gin", (NORM,), against="base"),
      "against is of evaluations",
    ),
    (
      lambda: Sweep(
        "r.gin", (NORM,), suite="s.gin", references={"none_s0": "x"}
      ),
      "no point has",
    ),
    (
      lambda: Sweep("r.gin", (NORM,), shown=("loss", "niah accuracy 4x yarn")),
      "got 'niah accuracy 4x yarn'. .* methods are rows",
    ),
  ],
)
def test_what_cannot_be_run_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
