"""`drope generate`: the model's input, and the output."""

import dataclasses

import pytest

from drope_jax.cli import generate
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(16, 1, 8, 1, 1, 8, 8, context_tokens=8)


@dataclasses.dataclass
class FakeLM:
  """Generates " sea" and EOS; pieces are words with their spaces.

  Like imported Llama models, it decodes the first piece without its space.
  """

  bos_id: int | None = 1
  eos_id: int = 2
  context_tokens: int = 8
  config: ModelConfig = CONFIG
  logit_scale: float = 1.0
  asked: list = dataclasses.field(default_factory=list)

  def encode(self, text):
    return [10] if text else []

  def decode(self, ids):
    pieces = {1: "", 2: "", 10: " The", 11: " sea"}
    return "".join(pieces[i] for i in ids).lstrip()

  def generate(self, prompts, *settings):
    self.asked.append((prompts, *settings))
    return [[11, self.eos_id]]

  def with_logit_scale(self, scale):
    self.logit_scale = scale
    return self


@pytest.fixture
def lm(monkeypatch):
  fake = FakeLM()
  monkeypatch.setattr(generate.lms.CheckpointLM, "load", lambda path: fake)
  return fake


def test_prints_prompt_and_continuation_as_one_text(drope, lm):
  ran = drope("generate", "c", "--prompt", "The")
  assert (ran.status, ran.out) == (0, "The sea\n")
  assert lm.asked == [([[10]], 128, 0.0, 0)]


def test_settings_reach_the_model(drope, lm):
  drope(
    *("generate", "c", "--prompt", "The", "--bos", "--max-new-tokens", 5),
    *("--temperature", 0.5, "--seed", 3, "--logit-scale", 1.25),
  )
  assert lm.asked == [([[1, 10]], 5, 0.5, 3)]
  assert lm.logit_scale == 1.25


@pytest.mark.parametrize(
  ("new", "options", "slope", "said"),
  [
    (8, (), None, "9 tokens are more than the trained context of 8"),
    (7, (), None, ""),
    (8, ("--logit-scale", 1.5), None, ""),
    (8, (), 0.0, ""),
  ],
)
def test_a_missing_scale_beyond_the_context_is_reported(
  drope, lm, new, options, slope, said
):
  lm.config = dataclasses.replace(CONFIG, logit_scale_slope=slope)
  ran = drope(
    "generate", "c", "--prompt", "The", "--max-new-tokens", new, *options
  )
  assert ran.status == 0
  assert ran.err.startswith(said) and bool(ran.err) == bool(said)


def test_an_empty_prompt_begins_a_document(drope, lm):
  drope("generate", "c", "--prompt", "")
  assert lm.asked[0][0] == [[lm.eos_id]]


def test_bos_needs_a_tokenizer_with_one(drope, lm):
  lm.bos_id = None
  ran = drope("generate", "c", "--prompt", "The", "--bos")
  assert ran.status == 2 and "got one without. Leave it out" in ran.err
  assert not lm.asked
