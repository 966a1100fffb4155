"""A suite that says too little or too much is refused."""

import dataclasses

import numpy as np
import pytest

from drope_jax.evals import harness, niah, ruler
from drope_jax.evals import suite as suites

SUITE = suites.Suite(factors=(1.0, 4.0), samples=(3, 2))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"evals": ()}, "evals must be at least one"),
    ({"evals": ("perplexity", "needle")}, "got needle"),
    ({"evals": ("passkey", "passkey")}, "evals must be .* named once"),
    ({"methods": ()}, "methods must be at least one"),
    ({"methods": ("pi", "pi")}, "methods must be .* named once"),
    ({"factors": (0.5, 1.0)}, "factors must be 1 or more"),
    ({"factors": (1.0, np.nan)}, "factors must be 1 or more"),
    ({"factors": (1.0, np.inf)}, "factors must be 1 or more"),
    ({"factors": (2.0, 2.0)}, "factors must be .* named once"),
    ({"samples": (3,)}, "a count of at least 1 for each"),
    ({"samples": (3, 0)}, "a count of at least 1 for each"),
    ({"excerpts": 0}, "excerpts must be at least 1, got 0. Raise it"),
    ({"fit_factor": 1.0}, "fit_factor must be above 1"),
    ({"fit_excerpts": -1}, "fit_excerpts must be at least 0, got -1"),
    ({"fit_excerpts": 0}, "got no fit_excerpts and no fit_needle_documents"),
    ({"fit_evaluations": 2}, "fit_evaluations must be at least 3, got 2"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    (
      {"scale_by_own_length": True, "scale_by_query": True},
      "scale has one form",
    ),
  ],
)
def test_a_suite_that_says_nothing_or_too_much_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SUITE, **changes)


def test_tasks_chosen_by_name_keep_the_settings_that_the_suite_has_of_them():
  mine = ruler.Ruler(tasks=("vt", "qa_1"), squad="dev-v2.0.json")
  suite = suites.Suite(evals=("perplexity", mine))
  assert suite.only(["vt", "perplexity", "passkey"]) == (
    dataclasses.replace(mine, tasks=("vt",)),
    "perplexity",
    "passkey",
  )
  assert suite.only(["ruler"]) == (mine,)
  assert suite.only(["qa_2", "vt"]) == (
    dataclasses.replace(mine, tasks=("vt", "qa_2")),
  )


def test_a_groups_name_stands_for_the_suites_own_tasks():
  own = harness.Harness(tasks=("lambada_openai", "piqa"), num_fewshot=5)
  assert suites.Suite(evals=(own,)).only(["harness"]) == (own,)
  assert suites.Suite().only(["harness"]) == harness.TASKS
  # Two of one class do not exchange their tasks, and the first takes more.
  plain = ruler.Ruler(tasks=("niah_single_2",), essays="essays.json")
  short = dataclasses.replace(plain, wording="short")
  suite = suites.Suite(evals=(plain, short))
  assert suite.only(["ruler"]) == (plain, short)
  assert suite.only(["niah_single_2_short"]) == (short,)
  assert suite.only(["niah_single_3", "niah_single_2_short"]) == (
    dataclasses.replace(plain, tasks=("niah_single_3",)),
    short,
  )
  # A suite that holds needles of its own is no group of all of them.
  needle = niah.Niah("passkey", max_new_tokens=8)
  assert suites.Suite(evals=(needle,)).only(["niah"]) == (
    needle,
    *[task.name for task in niah.TASKS[1:]],
  )
  with pytest.raises(ValueError, match="must be some of .* got niah_single_9."):
    suite.only(["niah_single_9"])
