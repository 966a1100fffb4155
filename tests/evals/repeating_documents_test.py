import dataclasses

import numpy as np
import pytest

from drope_jax.evals import repeating_documents
from drope_jax.evals.repeating_documents import RepeatingDocuments

EOS = 9_999
CONFIG = RepeatingDocuments(share=0.5, min_span=4, max_span=12)


def _document(config, seed=0, tokens=400):
  # Each id of the text is new, so that an id seen before is a copy.
  rng = np.random.default_rng(seed)
  made = repeating_documents.training_document(
    config, np.arange(tokens), rng, EOS
  )
  assert len(made) == tokens and made[-1] == EOS
  return np.array(made[:-1])


def _is_copy(document):
  first = {}
  for place, token in enumerate(document.tolist()):
    first.setdefault(token, place)
  return np.array([first[t] < p for p, t in enumerate(document.tolist())])


def test_new_text_is_in_order_and_copies_are_spans_of_what_stands_before():
  document = _document(CONFIG)
  copied = _is_copy(document)
  fresh = document[~copied]
  np.testing.assert_array_equal(fresh, np.arange(len(fresh)))
  # Where a copy goes on, it goes on as its original did.
  follows = np.flatnonzero(copied[1:] & copied[:-1]) + 1
  goes_on = document[follows - 1] + 1 == document[follows]
  assert goes_on.mean() > 0.8


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_the_share_of_copies_is_as_asked(share):
  config = dataclasses.replace(CONFIG, share=share)
  shares = [_is_copy(_document(config, seed)).mean() for seed in range(40)]
  assert abs(np.mean(shares) - share) < 0.04


def test_documents_depend_on_their_seed_and_index(tokenizer, documents):
  def made(count, seed=3):
    return list(
      repeating_documents.training_documents(
        CONFIG, tokenizer.encode, documents, 64, count, seed, EOS
      )
    )

  assert made(2) == made(4)[:2]
  assert made(1) != made(1, seed=4)
  assert all(len(ids) == 64 and ids[-1] == EOS for ids in made(4))


@pytest.mark.parametrize(
  "changes",
  [{"share": 0.0}, {"share": 1.0}, {"min_span": 0}, {"min_span": 13}],
)
def test_settings_that_repeat_nothing_are_refused(changes):
  with pytest.raises(ValueError, match="RepeatingDocuments needs"):
    dataclasses.replace(CONFIG, **changes)
