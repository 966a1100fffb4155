"""Programs and people tell ends apart by their statuses."""

import pathlib
import re

from drope_jax.exits import Exit

GUIDE = pathlib.Path(__file__).parents[1] / "docs/train.md"


def test_each_end_has_a_status_of_its_own():
  assert len(Exit) == len(Exit.__members__), "two names for one status"


def test_the_guide_lists_those_of_a_training():
  listed = re.findall(r"^\| ([\d, ]+) \| ", GUIDE.read_text(), re.M)
  found = {int(status) for row in listed for status in row.split(", ")}
  # `drope plan` alone ends with DOES_NOT_FIT; KILLED is 128 + a signal.
  assert found == {*Exit} - {Exit.DOES_NOT_FIT, Exit.KILLED}
