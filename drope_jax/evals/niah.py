"""Needle in a haystack: facts hidden in held-out text, asked for at its end.

The tasks are RULER's (arXiv:2404.06654), made of text, for any tokenizer, in
its wording or in one shortened for small vocabularies (`needles`).
"""

import bisect
from collections.abc import Iterable, Sequence
import dataclasses
import re

import numpy as np

from drope_jax.evals import interface, intervals, running_text
from drope_jax.evals import needles as needles_lib

# RULER's 40 depths in percent of the haystack's sentences.
_DEPTHS = np.round(np.linspace(0, 100, 40)).astype(int)
_DEPTH_BUCKET = 20


@dataclasses.dataclass(frozen=True)
class NiahConfig:
  """A retrieval task.

  Attributes:
    name: in results.
    num_keys: keys hidden. With one, no key need be read: that is a passkey.
    num_values: values of each key, in a needle each.
    num_queries: keys asked for, each drawn independently of the others: drawn
      without replacement, the last could be answered by exclusion. A key drawn
      twice is listed twice.
    max_new_tokens: generated, and kept free within the length.
    needles: what needles say.
  """

  name: str
  num_keys: int = 1
  num_values: int = 1
  num_queries: int = 1
  max_new_tokens: int = 16
  needles: needles_lib.Needles = dataclasses.field(
    default_factory=needles_lib.Needles
  )

  def __post_init__(self):
    numbers = {
      name: getattr(self, name)
      for name in ("num_keys", "num_values", "num_queries", "max_new_tokens")
    }
    hidden = self.num_keys * self.num_values
    if min(numbers.values()) < 1 or hidden > len(_DEPTHS):
      raise ValueError(
        "NiahConfig needs at least one key, value, query and new token, and "
        f"at most {len(_DEPTHS)} needles, got {numbers}. Change them."
      )


def tasks(needles: needles_lib.Needles) -> dict[str, NiahConfig]:
  """Returns the tasks by name: passkey, multi_key, multi_value, multi_query."""
  configs = (
    NiahConfig("passkey", needles=needles),
    NiahConfig("multi_key", num_keys=4, needles=needles),
    NiahConfig("multi_value", num_values=4, max_new_tokens=32, needles=needles),
    NiahConfig(
      "multi_query",
      num_keys=4,
      num_queries=2,
      max_new_tokens=32,
      needles=needles,
    ),
  )
  return {config.name: config for config in configs}


@dataclasses.dataclass(frozen=True)
class Sample:
  """One prompt with its answers.

  Attributes:
    prompt: its text, the answer's prefix included.
    prompt_tokens: its ids, BOS included where one was given.
    queries: the keys asked for.
    answers: their values, in the order of the queries.
    distractors: the values hidden but not asked for.
    depth: of the first answer's needle, percent of the haystack's sentences.
    length: tokens that it was made for, those to be generated among them.
  """

  prompt: str
  prompt_tokens: tuple[int, ...]
  queries: tuple[str, ...]
  answers: tuple[str, ...]
  distractors: tuple[str, ...]
  depth: int
  length: int


def samples(
  config: NiahConfig,
  encode: needles_lib.Encode,
  documents: Iterable[str],
  length: int,
  count: int,
  seed: int,
  bos_id: int | None = None,
) -> list[Sample]:
  """Returns `count` prompts that fill `length` tokens with the answer.

  The haystack is a random run of the documents' words that ends with a
  sentence (a run that meets the start of its document goes on into the one
  before, and from the first into the last); its first sentence is cut so that
  prompt and `max_new_tokens` reach `length` within a word, and never pass it.
  Needles stand between sentences, at distinct depths.

  Args:
    documents: held-out text.
    length: tokens of BOS, prompt and answer together.
    seed: sample i depends on nothing but the arguments and (seed, i). Use
      other seeds, and other documents, for training documents, for a split to
      fit the logit scale on, and for the test.

  Raises:
    ValueError: not even one word of haystack fits, or there is no text.
  """
  text = running_text.RunningText.of(encode, documents, length)
  return [
    _sample(
      config,
      encode,
      text,
      length,
      np.random.default_rng((seed, index)),
      () if bos_id is None else (bos_id,),
    )
    for index in range(count)
  ]


def evaluate(
  config: NiahConfig,
  lm: interface.LM,
  samples: Sequence[Sample],
  condition: interface.Condition,
) -> list[interface.Result]:
  """Returns "accuracy" (strict) and "string_match_all" (RULER's).

  Outcomes are each question's. The series of "accuracy" is by depth, in
  fifths. Intervals are Wilson's.

  Raises:
    ValueError: there is no sample, or they differ in length.
  """
  lengths = {sample.length for sample in samples}
  if len(lengths) != 1:
    raise ValueError(
      "niah.evaluate needs samples of one length, got "
      f"{sorted(lengths) or 'no sample'}. Evaluate each length by itself."
    )
  (length,) = lengths
  lm = lm.with_logit_scale(condition.logit_scale)
  prompts = [sample.prompt_tokens for sample in samples]
  outputs = [
    lm.decode([token for token in ids if token != lm.eos_id])
    for ids in lm.generate(prompts, config.max_new_tokens)
  ]
  pairs = list(zip(outputs, samples, strict=True))
  scores = {
    "accuracy": [float(is_exact(*pair)) for pair in pairs],
    "string_match_all": [string_match_all(*pair) for pair in pairs],
  }
  results = []
  for metric, values in scores.items():
    low, high = intervals.wilson(sum(values), len(values))
    results.append(
      interface.Result(
        task=config.name,
        metric=metric,
        factor=length / lm.context_tokens,
        context_tokens=lm.context_tokens,
        value=float(np.mean(values)),
        low=low,
        high=high,
        count=len(values),
        mean_tokens=float(np.mean([len(prompt) for prompt in prompts])),
        outcomes=tuple(values),
        series=_by_depth(samples, values) if metric == "accuracy" else None,
        **vars(condition),
      )
    )
  return results


def string_match_all(output: str, sample: Sample) -> float:
  """Returns the share of answers that `output` contains, ignoring case.

  A substring anywhere counts, as in RULER: "art" in "party" does, and so does
  an output that lists every value in sight.
  """
  output = output.lower()
  return float(np.mean([answer.lower() in output for answer in sample.answers]))


def is_exact(output: str, sample: Sample) -> bool:
  """Returns whether the output's first sentence says the answers and no other.

  Every answer must stand in it as a whole word, in any order and case, and no
  distractor may: a model that lists whatever it has seen has not retrieved.
  """
  sentence = re.split(r"[.!?\n]", output, maxsplit=1)[0]

  def says(value: str) -> bool:
    word = rf"(?<!\w){re.escape(value)}(?!\w)"
    return re.search(word, sentence, re.IGNORECASE) is not None

  return all(map(says, sample.answers)) and not any(
    map(says, sample.distractors)
  )


def _sample(config, encode, text, length, rng, prefix) -> Sample:
  needles = config.needles
  pairs = needles.draw(rng, config.num_keys, config.num_values)
  hidden = [(key, value) for key, values in pairs.items() for value in values]
  hidden = [hidden[i] for i in rng.permutation(len(hidden))]
  depths = np.sort(rng.choice(_DEPTHS, len(hidden), replace=False))
  keys = list(pairs)
  drawn = rng.integers(len(keys), size=config.num_queries)
  queries = tuple(keys[i] for i in drawn)
  answers = tuple(value for key in queries for value in pairs[key])
  before, ask = needles.around(queries, config.num_values)
  stop = text.draw_end(rng)

  def prompt(start: int) -> str:
    haystack = text.sentences(start, stop)
    places = len(haystack) * depths // 100
    # From the back, so that places stay true.
    for place, pair in reversed(list(zip(places, hidden, strict=True))):
      haystack.insert(place, needles.needle(*pair))
    return before + " ".join(haystack) + ask

  # Words cost the same wherever they stand, so that the first guess is right
  # for most tokenizers; where it is too long, bisection finds the cut.
  room = length - config.max_new_tokens - len(prefix)

  def fits(start: int) -> bool:
    return len(encode(prompt(start))) <= room

  spare = max(room - len(encode(prompt(stop))), 0)
  start = int(np.searchsorted(text.costs, text.costs[stop] - spare))
  if start < stop and not fits(start):
    start = bisect.bisect_left(range(stop), True, lo=start + 1, key=fits)
  if start == stop:
    needed = len(encode(prompt(stop - 1))) + length - room
    raise ValueError(
      f"Task {config.name} needs {needed} tokens for its needles, question, "
      f"a word of text and {config.max_new_tokens} new tokens, got a length of "
      f"{length}. Use a longer length or fewer keys."
    )
  return Sample(
    prompt=prompt(start),
    prompt_tokens=(*prefix, *encode(prompt(start))),
    queries=queries,
    answers=answers,
    distractors=tuple(v for _, v in hidden if v not in answers),
    depth=int(depths[[value for _, value in hidden].index(answers[0])]),
    length=length,
  )


def _by_depth(samples, values) -> tuple[tuple[int, float], ...]:
  """Returns the mean of values by depth, each bucket named by its middle."""
  buckets = np.array([min(s.depth, 99) // _DEPTH_BUCKET for s in samples])
  return tuple(
    (
      int(bucket * _DEPTH_BUCKET + _DEPTH_BUCKET // 2),
      float(np.mean(np.array(values)[buckets == bucket])),
    )
    for bucket in np.unique(buckets)
  )
