"""`drope trim`: a smaller vocabulary that every command then works with."""

import pytest

from drope_jax.checkpoint import store as checkpoints
from drope_jax.data import store

TRIM = ("trim", "run", "text", "--vocabulary", 320, "--out", "trimmed")


def test_a_trimmed_model_writes_text_of_its_own(drope, here):
  ran = drope(*TRIM)
  assert ran.status == 0, ran.err
  assert ran.out.startswith("trimmed: 320 of 340 tokens, which are 9")
  manifest, shapes = checkpoints.describe("trimmed")
  assert manifest.model.vocab_size == manifest.tokenizer.vocab_size == 320
  assert shapes["embed"]["table"].shape == (320, 16)
  last = manifest.lineage[-1]
  fingerprint = store.Store.open("text").fingerprint
  assert (last.operation, last.tokens) == ("trim", manifest.lineage[0].tokens)
  assert last.arguments == {"vocabulary": 320, "store": fingerprint}
  ran = drope("sample", "trimmed", "--tokens", "200", "--out", "own")
  assert ran.status == 0, ran.err
  assert store.Store.open("own").vocab_size == 320


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (("--vocabulary", "12"), "of its 340 tokens, got 12"),
    (("--vocabulary", "340"), "of its 340 tokens, got 340"),
    (("--out", "run"), "run"),
  ],
)
def test_a_mistake_is_one_line_and_status_2(drope, here, changes, says):
  ran = drope(*TRIM, *changes)
  assert ran.status == 2, ran
  (line,) = ran.err.strip().splitlines()
  assert line.startswith("drope trim: ") and says in line
  assert not (here / "trimmed").exists()


def test_a_store_of_another_tokenizer_is_refused(drope, here):
  made = "tokenize text.txt --tokenizer packaged --out other --workers 1"
  assert drope(*made.split()).status == 0
  ran = drope("trim", "run", "other", "--vocabulary", 320, "--out", "trimmed")
  assert ran.status == 2
  assert "the model's own tokenizer" in ran.err and "drope sample" in ran.err
