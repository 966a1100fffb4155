"""`drope generate`: what the model is asked, and what is printed."""

import dataclasses
import json

import pytest

from drope_jax.cli import generate
from drope_jax.inference import choice
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(16, 1, 8, 1, 1, 8, 8, context_tokens=8)
GREEDY = choice.Sampling()


@dataclasses.dataclass
class FakeLM:
  """Answers " sea", " sky" and EOS, in two pieces; pieces are words.

  As imported Llamas do, it decodes the first piece without its space.
  """

  bos_id: int | None = 1
  eos_id: int = 2
  ends: tuple[int, ...] = (2,)
  context_tokens: int = 8
  config: ModelConfig = CONFIG
  logit_scale: float = 1.0
  asked: list = dataclasses.field(default_factory=list)

  def encode(self, text):
    return [10] if text else []

  def decode(self, ids):
    pieces = {1: "", 2: "", 10: " The", 11: " sea", 12: " sky"}
    return "".join(pieces[i] for i in ids).lstrip()

  def stream(self, prompts, *settings):
    self.asked.append((prompts, *settings))
    for i in range(len(prompts)):
      yield i, [11]
    for i in range(len(prompts)):
      yield i, [12, self.eos_id]

  def logit_scale_at(self, tokens):
    return self.config.logit_scale_at(tokens)

  def with_logit_scale(self, scale):
    self.logit_scale = scale
    return self


@pytest.fixture
def lm(monkeypatch):
  fake = FakeLM()

  def load(path, dtype):
    fake.dtype = dtype
    return fake

  monkeypatch.setattr(generate.lms.CheckpointLM, "load", load)
  return fake


def test_prints_prompt_and_continuation_as_one_text(drope, lm):
  ran = drope("generate", "c", "--prompt", "The")
  assert (ran.status, ran.out) == (0, "The sea sky\n")
  assert lm.asked == [([[10]], 128, GREEDY, [])]


def test_settings_reach_the_model(drope, lm):
  drope(
    *("generate", "c", "--prompt", "The", "--bos", "--max-new-tokens", 5),
    *("--temperature", 0.5, "--seed", 3, "--logit-scale", 1.25),
    *("--top-k", 4, "--top-p", 0.9, "--min-p", 0.1),
    *("--repetition-penalty", 1.1, "--stop", "x", "--stop", "yz"),
  )
  want = choice.Sampling(0.5, 4, 0.9, 0.1, 1.1, 3)
  assert lm.asked == [([[1, 10]], 5, want, ["x", "yz"])]
  assert lm.logit_scale == 1.25


def test_one_continuation_is_printed_as_it_is_written(drope, lm, monkeypatch):
  """A piece is printed as far as no stop string may begin in it."""
  printed = []
  monkeypatch.setattr(
    generate.terminal,
    "print_output",
    lambda text, end="\n": printed.append(text),
  )
  drope("generate", "c", "--prompt", "The", "--stop", "ky")
  assert printed == ["The se", "a ", "s"]


def test_files_and_standard_input_are_prompts(drope, lm, tmp_path, monkeypatch):
  file = tmp_path / "prompt.txt"
  file.write_text("The\n")
  asked = []
  monkeypatch.setattr(lm, "encode", lambda text: asked.append(text) or [10])
  drope("generate", "c", "--prompt-file", file, "--prompt", "A", "--json")
  assert asked == ["A", "The\n"]
  file.write_bytes(b"\xff")
  ran = drope("generate", "c", "--prompt-file", file)
  assert ran.status == 2 and str(file) in ran.err


def test_several_samples_are_numbered_or_lines_of_json(drope, lm):
  options = ("--prompt", "The", "--prompt", "", "--num-samples", 2)
  options += ("--temperature", 1.0)
  ran = drope("generate", "c", *options)
  assert lm.asked[0][0] == [[10], [10], [2], [2]]
  assert ran.out.count("The sea sky") == 2 and "4 of 4" in ran.out
  ran = drope("generate", "c", *options, "--json", "--stop", "sky")
  lines = [json.loads(line) for line in ran.out.splitlines()]
  assert [(line["prompt"], line["sample"]) for line in lines] == [
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
  ]
  assert lines[0] | {"prompt": 0, "sample": 0} == {
    "prompt": 0,
    "sample": 0,
    "text": " sea ",
    "prompt_tokens": 1,
    "new_tokens": 3,
    "finish_reason": "stop",
  }


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ((), "needs a prompt, got none"),
    (("--prompt", "a", "--num-samples", 2), "needs a --temperature above 0"),
    (("--prompt", "a", "--num-samples", 0), "of at least 1, got 128 and 0"),
    (("--prompt", "a", "--top-p", 1.5), "top_p must be in (0, 1], got 1.5"),
    (("--prompt-file", "absent.txt"), "absent.txt"),
    (("--prompt", "a", "--top-k", 5), "--top-k chooses among drawn tokens"),
    (("--prompt", "a", "--seed", 2**64), "seed must be in 0..2**32 - 1"),
    (("--prompt", "a", "--top-k", 2**40), "top_k must be at least 1 and less"),
    (("--prompt", "a", "--logit-scale", "inf"), "must be finite and above 0"),
  ],
)
def test_invalid_options_are_refused(drope, lm, options, said):
  ran = drope("generate", "c", *options)
  assert ran.status == 2 and said in ran.err and not lm.asked


@pytest.mark.parametrize(
  ("new", "options", "slope", "said"),
  [
    (8, (), None, "9 tokens are more than the trained context of 8"),
    (7, (), None, ""),
    (8, ("--logit-scale", 1.5), None, ""),
    (
      8,
      (),
      0.5,
      "9 tokens are more than the trained context of 8: ",
    ),
  ],
)
def test_beyond_the_context_the_scale_is_reported(
  drope, lm, new, options, slope, said
):
  lm.config = dataclasses.replace(CONFIG, logit_scale_slope=slope)
  ran = drope(
    "generate", "c", "--prompt", "The", "--max-new-tokens", new, *options
  )
  assert ran.status == 0
  assert ran.err.startswith(said) and bool(ran.err) == bool(said)
  assert ("1.059" in ran.err) == (slope is not None)  # 1 + 0.5 ln(9 / 8)


def test_weights_have_the_dtype_asked_for(drope, lm):
  assert drope("generate", "c", "--prompt", "a").status == 0
  assert lm.dtype == "float32"
  drope("generate", "c", "--prompt", "a", "--dtype", "int8")
  assert lm.dtype == "int8"


def test_an_empty_prompt_begins_a_document(drope, lm):
  drope("generate", "c", "--prompt", "")
  assert lm.asked[0][0] == [[lm.eos_id]]


def test_bos_needs_a_tokenizer_with_one(drope, lm):
  lm.bos_id = None
  ran = drope("generate", "c", "--prompt", "The", "--bos")
  assert ran.status == 2 and "got one without. Leave it out" in ran.err
  assert not lm.asked
