"""The host that ended by itself is blamed, not those that lost it."""

import pytest

from drope_jax.exits import Exit
from launch import ends
from launch.states import Host


def _host(name, code, started=True):
  return Host(name, code, f"{name} spoke", 0.0, started=started)


@pytest.mark.parametrize(
  ("first", "later"),
  [
    (Exit.BUG, Exit.STALLED),
    (Exit.STALLED, Exit.TERMINATED),
    (Exit.TERMINATED, Exit.HOST_LOST),
    (Exit.OUT_OF_MEMORY, Exit.HOST_LOST),
  ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_ends_the_cause_gives_the_reason(first, later, swapped):
  hosts = [_host("cause", first), _host("victim", later)]
  end = ends.explain(hosts[::-1] if swapped else hosts)
  assert "cause: cause spoke" in end.reason
  assert end.terminated == (first == Exit.TERMINATED)
  assert end.final == (first == Exit.OUT_OF_MEMORY) and not end.anew


def test_a_failed_start_is_before_all_others_and_needs_new_machines():
  end = ends.explain([_host("a", 1), _host("b", 1, started=False)])
  assert end.reason == "the start-up script failed; b: b spoke"
  assert end.anew and not end.final
