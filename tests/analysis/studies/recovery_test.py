"""Laws and spikes of a log that was made by a known law."""

import numpy as np
import pytest

from drope_jax.analysis import records
from drope_jax.analysis.studies import lengths_plots, recovery


def _log(phase, first, count, seed):
  tokens = 1e4 * np.arange(1, count + 1)
  rng = np.random.default_rng(seed)
  losses = 2.0 + 0.5 * (tokens / 1e6) ** -0.4 + rng.normal(0, 0.02, count)
  return [
    {"step": first + i, "phase": phase, "tokens": 1e4 * (first + i), "loss": x}
    for i, x in enumerate(losses.tolist(), 1)
  ]


LOG = (*_log("a", 0, 200, 0), *_log("b", 200, 300, 1), *_log("c", 500, 9, 2))


def test_the_law_of_each_phase_is_found_within_its_intervals():
  laws = recovery.laws(LOG)
  assert [law.phase for law in laws] == ["a", "b"]  # c has too few records.
  for law in laws:
    for interval, true in (
      (law.limit, 2.0),
      (law.scale, 0.5),
      (law.exponent, 0.4),
    ):
      assert interval.low < true < interval.high
      assert interval.low <= interval.value <= interval.high
      assert interval.high - interval.low < 1
    assert law.at(1e6) == pytest.approx(2.5, abs=0.03)
    assert law.first_tokens == 1e4
    assert 0.001 < law.deviation < 0.03


def test_losses_that_leave_the_exponent_open_have_no_law():
  tokens = 1e4 * np.arange(1, 61)
  noise = np.random.default_rng(0).normal(0, 0.02, 60)
  assert recovery.fit("a", "loss", tokens, 2.0 + noise) is None
  straight = 3 - 0.1 * np.log(tokens) + noise
  assert recovery.fit("a", "loss", tokens, straight) is None


@pytest.mark.parametrize("late", [1e6, 1e9])
def test_records_that_are_close_together_have_no_law(late):
  tokens = [1.0, *np.linspace(late, 1.01 * late, 20)]
  losses = 2.0 + 0.5 * np.asarray(tokens) ** -0.4
  assert recovery.fit("a", "loss", tokens, losses) is None


def test_held_out_loss_is_fitted_where_there_is_enough():
  log = [record | {"held_out_loss": record["loss"]} for record in LOG[:200]]
  assert recovery.laws(log)[0].field == "held_out_loss"
  few = [*log[:5], *LOG[5:200]]
  assert recovery.laws(few)[0].field == "loss"


def test_spikes_are_records_far_above_those_before_in_their_phase():
  log = [dict(record) for record in LOG]
  log[150]["loss"] += 0.5
  log[160]["loss"] = None  # Not finite.
  log[205]["loss"] += 5  # A phase begins higher.
  (spike,) = recovery.spikes(log)
  assert spike.step == 151
  assert spike.above == pytest.approx(0.5, abs=0.1)


def test_a_plot_has_the_losses_the_laws_and_the_saves():
  laws = recovery.laws(LOG)
  saves = [recovery.Save(1, 1e4, 3.0, 0.5, 0.3, 0.7)]
  top, bottom = lengths_plots.training(LOG, laws, saves).axes
  losses, first, second = top.lines
  assert len(losses.get_xdata()) == len(LOG)
  # A law begins where its phase does.
  assert second.get_xdata()[0] == pytest.approx(2e6 + 1e4)
  assert bottom.lines[0].get_ydata().tolist() == [0.5]
  (ax,) = lengths_plots.spikes(LOG, recovery.spikes(LOG)).axes
  assert len(ax.lines[0].get_xdata()) == len(LOG)


def test_each_eval_of_the_log_is_a_panel_with_a_line_a_length():
  log = [dict(record) for record in LOG]
  log[99]["multi_key.accuracy.1x"], log[199]["multi_key.accuracy.1x"] = 0.2, 0.8
  log[199]["multi_key.accuracy.2x.crop"] = 0.5
  log[199]["arc_easy.acc.1x"] = 0.3
  assert records.scores(log)["multi_key", "accuracy"] == {
    "1×": [(1e6, 0.2), (2e6, 0.8)],
    "2×, crop": [(2e6, 0.5)],
  }
  saves = [recovery.Save(1, 1e4, 3.0, 0.5, 0.3, 0.7)]
  axes = lengths_plots.training(log, [], saves).axes
  loss, keys, arc, recall = axes
  assert [line.get_label() for line in keys.lines] == ["1×", "2×, crop"]
  assert keys.lines[0].get_ydata().tolist() == [0.2, 0.8]
  assert "multi_key" in keys.get_title(loc="left")
  assert arc.lines[0].get_ydata().tolist() == [0.3]
  assert recall.lines[0].get_ydata().tolist() == [0.5]
  assert len(loss.lines) == 1
