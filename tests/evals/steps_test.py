"""What a suite runs: every method alike, each step once."""

import dataclasses

import numpy as np
import pytest

from drope_jax.evals import cropped, needle_documents, steps
from drope_jax.evals import suite as suites
from drope_jax.evals.record import Record

SUITE = suites.Suite(
  evals=("perplexity", "passkey"),
  methods=("model", "yarn"),
  factors=(1.0, 4.0),
  samples=(3, 2),
  excerpts=2,
  fit_excerpts=2,
  fit_needle_documents=1,
  seed=7,
)


@pytest.fixture
def material(documents):
  return suites.Material(test=documents[:2], fit=documents[2:])


@pytest.fixture
def lm(fake_lm):
  """Best at a scale of 1.5, and always answers "whale"."""
  return fake_lm(
    answer=lambda prompt: " whale",
    loss=lambda position, scale: 3 + (scale - 1.5) ** 2 + 0 * position,
  )


def _run(suite, variant, material, record=None):
  """Returns the record, and the names of the steps that were run."""
  record = Record() if record is None else record
  inputs = steps.Inputs(suite, variant("model", 1.0), material)
  ahead = steps.steps(inputs, "m", suite.methods, variant, record)
  names = [step.name for step in ahead if not step.done]
  for step in ahead:
    if not step.done:
      step.run()
  return record, names


def _rows(suite, lm, material):
  record, _ = _run(suite, lambda *by: lm, material)
  return {
    (r.task, r.metric, r.method, r.factor, r.scale_fitted): r
    for r in record.rows
  }, record.fits.get("m")


def test_every_method_is_run_without_and_with_its_own_scale(lm, material):
  rows, fits = _rows(SUITE, lm, material)
  conditions = {cell[2:] for cell in rows}
  # At the trained length the fitted scale is 1, so that row would be a copy.
  assert conditions == {
    *(("model", 1.0, False), ("model", 4.0, False), ("model", 4.0, True)),
    *(("yarn", 1.0, False), ("yarn", 4.0, False), ("yarn", 4.0, True)),
  }
  assert len(rows) == 6 * (3 + 2)
  assert fits.keys() == {"model", "yarn"}
  for (_, _, method, factor, fitted), row in rows.items():
    assert row.seed == 7
    assert row.count == {1.0: 3, 4.0: 2}[factor] or row.task == "perplexity"
    if fitted:
      assert row.logit_scale == fits[method].scale
      assert row.logit_scale == pytest.approx(1.5, abs=0.07)
    else:
      assert row.logit_scale == 1.0
  plain, scaled = (rows["perplexity", "loss", "model", 4.0, f] for f in (0, 1))
  assert plain.value == pytest.approx(3.25)
  assert scaled.value < 3.01


def test_without_a_fit_the_model_has_its_own_scale(lm, material):
  lm.logit_scale_at = lambda tokens: tokens / 64
  suite = dataclasses.replace(SUITE, fit_factor=None)
  rows, _ = _rows(suite, lm, material)
  assert {row.factor: row.logit_scale for row in rows.values()} == {1: 1, 4: 4}


def test_every_eval_has_the_factor_of_its_whole_number_of_tokens(lm, material):
  suite = dataclasses.replace(SUITE, factors=(1.0, 1.33), fit_factor=None)
  rows, _ = _rows(suite, lm, material)
  factors = {task: set() for task in SUITE.evals}
  for row in rows.values():
    factors[row.task].add(row.factor)
  assert factors["perplexity"] == factors["passkey"] == {1.0, 85 / 64}


def test_factors_of_one_length_are_refused_before_any_work(fake_lm, material):
  suite = dataclasses.replace(SUITE, factors=(1.0, 1.001))
  with pytest.raises(ValueError, match=r"lengths that differ.*\[64, 64\]"):
    _run(suite, lambda *by: fake_lm(), material)


def test_methods_read_the_same_samples(fake_lm, material):
  read = {"model": [], "yarn": []}

  class Recorder(fake_lm):
    def __init__(self, seen):
      super().__init__(loss=lambda position, scale: position)
      self.seen = seen

    def with_logit_scale(self, scale):
      return self

    def loglikelihood(self, sequences):
      self.seen += [tuple(s) for s in sequences]
      return super().loglikelihood(sequences)

    def generate(self, prompts, max_new_tokens, stop=()):
      self.seen += [tuple(p) for p in prompts]
      return [[self.eos_id] for _ in prompts]

  lms = {method: Recorder(seen) for method, seen in read.items()}
  tokenizer = lms["model"].tokenizer
  lms["yarn"].tokenizer = tokenizer
  suite = dataclasses.replace(SUITE, fit_evaluations=3)
  _run(suite, lambda method, factor: lms[method], material)
  assert sorted(set(read["model"])) == sorted(set(read["yarn"]))
  lengths = {len(sequence) for sequence in read["model"]}
  assert {64, 256} <= lengths


def test_each_sample_has_a_hash_of_its_own(lm, material):
  def hashes(**changes):
    suite = dataclasses.replace(SUITE, **changes)
    return steps.Inputs(suite, lm, material).hashes["passkey"]

  few, more = hashes(), hashes(samples=(3, 5))
  assert [len(few["64"]), len(few["256"])] == [3, 2]
  assert more["256"][:2] == few["256"]
  drawn = {*more["64"], *more["256"]}
  assert len(drawn) == 8 and {len(one) for one in drawn} == {16}
  assert drawn.isdisjoint(hashes(seed=8)["64"])


def test_the_scale_is_fitted_on_text_that_is_not_tested(fake_lm, material):
  calls = []

  class Recorder(fake_lm):
    def with_logit_scale(self, scale):
      calls.append([])
      return self

    def loglikelihood(self, sequences):
      calls[-1] += map(tuple, sequences)
      return super().loglikelihood(sequences)

  lm = Recorder(loss=lambda position, scale: position)
  suite = dataclasses.replace(
    SUITE, evals=("perplexity",), methods=("model",), fit_needle_documents=0
  )
  _run(suite, lambda *by: lm, material)
  fit, test = calls[0], calls[-1]
  assert len(fit) == len(test) == 2
  texts = [lm.decode(sequence) for sequence in fit]
  assert all(text in "".join(material.fit) for text in texts)
  assert not any(text in "".join(material.test) for text in texts)
  assert all(lm.decode(s) in "".join(material.test) for s in test)


def test_needles_to_fit_on_are_not_those_of_the_seed_tested(lm, material):
  def drawn(seed):
    return next(
      needle_documents.training_documents(
        needle_documents.NeedleDocuments(needles=SUITE.needles),
        lm.encode,
        list(material.fit),
        tokens=256,
        count=1,
        seed=seed,
        eos_id=lm.eos_id,
      )
    )

  (*_, fitted_on) = steps.Inputs(SUITE, lm, material).fit_documents
  assert fitted_on == drawn(SUITE.seed + 1) != drawn(SUITE.seed)


def test_without_a_fit_factor_no_scale_is_fitted(lm, material):
  rows, fits = _rows(dataclasses.replace(SUITE, fit_factor=None), lm, material)
  assert not fits and not any(cell[-1] for cell in rows)


def test_what_is_in_the_record_is_not_done_again(lm, material):
  whole, names = _run(SUITE, lambda *by: lm, material)
  # Two fits; for each method 1x, and 4x without and with its scale.
  assert len(names) == len(set(names)) == 2 + 2 * 3 * 2
  again, done_again = _run(SUITE, lambda *by: lm, material, whole)
  assert again is whole and not done_again

  rows = whole.rows
  half = Record(rows[:10], {"m": {"model": whole.fits["m"]["model"]}})
  resumed, rest = _run(SUITE, lambda *by: lm, material, half)
  # Both methods at 1x: perplexity has three metrics, passkey two.
  assert rest == [names[1], *names[2 + 4 :]]
  assert (resumed.rows, resumed.fits) == (rows, whole.fits)


class Reads:
  """Methods to a model each, which note every call; "crop" is "model" at 1x."""

  def __init__(self, fake_lm, best_scale):
    self.calls = []
    calls = self.calls

    class Noting(fake_lm):
      def with_logit_scale(self, scale):
        other = Noting(self.answer, self.loss, scale=scale)
        other.tokenizer = self.tokenizer
        return other

      def loglikelihood(self, sequences):
        calls.append((len(sequences[0]), self.scale))
        return super().loglikelihood(sequences)

    def loss(position, scale):
      return 3 + (scale - best_scale) ** 2 + 0 * position

    self.lms = {name: Noting(loss=loss) for name in ("model", "crop")}
    self.lms["crop"].tokenizer = self.lms["model"].tokenizer

  def __call__(self, method, factor):
    return self.lms["model" if factor == 1 else method]


def test_a_scale_by_each_texts_own_length_is_a_slope(fake_lm, material):
  asked = []

  class Noting(fake_lm):
    def with_logit_scale(self, scale):
      asked.append(("scale", scale))
      return self

    def with_logit_slope(self, c, *, by_query=False):
      asked.append(("slope", c))
      return self

  lm = Noting(loss=lambda position, scale: 1 + 0 * position)
  suite = dataclasses.replace(
    SUITE,
    evals=("perplexity",),
    methods=("model",),
    factors=(4.0,),
    samples=(1,),
    scale_by_own_length=True,
  )
  inputs = steps.Inputs(suite, lm, material)
  record = Record()
  fit, own, fitted = steps.steps(
    inputs, "m", ("model",), lambda *by: lm, record
  )
  fit.run()
  found = record.fits["m"]
  found["model"] = dataclasses.replace(found["model"], c=0.5)
  asked.clear()
  own.run()
  assert not asked, "the model's own scale, whatever the length"
  fitted.run()
  assert asked == [("slope", 0.5)]
  # The row has that of the tested length.
  assert record.rows[-1].logit_scale == 1 + 0.5 * np.log(4)


@pytest.mark.parametrize(("best", "passes"), [(0.0, 1), (0.3, 2)])
def test_a_scale_by_query_is_fitted_and_asked_as_such(
  fake_lm, material, best, passes
):
  asked, read = [], []

  class Noting(fake_lm):
    slope = 0.0

    def with_logit_scale(self, scale):
      asked.append(scale)
      return self

    def with_logit_slope(self, c, *, by_query=False):
      assert by_query
      other = Noting(context_tokens=self.context_tokens)
      other.tokenizer, other.slope = self.tokenizer, c
      return other

    def loglikelihood(self, sequences):
      read.append(self.slope)
      self.loss = lambda position, _: abs(self.slope - best) + 0 * position
      return super().loglikelihood(sequences)

  lm = Noting()
  # The model's own scale at 4x is that of the fitted slope, in another form.
  own = 1 + 0.3 * np.log(4)
  lm.logit_scale_at = lambda tokens: own if best and tokens > 64 else 1.0
  suite = dataclasses.replace(
    SUITE,
    evals=("perplexity",),
    methods=("model",),
    factors=(4.0,),
    samples=(1,),
    fit_needle_documents=0,
    fit_evaluations=20,
    scale_by_query=True,
  )
  record = Record()
  fit, *ahead = steps.steps(
    steps.Inputs(suite, lm, material), "m", ("model",), lambda *by: lm, record
  )
  fit.run()
  (found,) = record.fits["m"].values()
  assert found.c == pytest.approx(best, abs=1e-3) and min(read) == 0
  record.fits["m"]["model"] = dataclasses.replace(found, c=best)
  asked.clear()
  read.clear()
  for step in ahead:
    step.run()
  # A slope of 0 is no other form; nor is a scale set beside a slope.
  assert read == [0.0, best][:passes]
  assert asked == [own if best else 1.0]
  assert {row.scale_fitted for row in record.rows} == {False, True}


@pytest.mark.parametrize(("best", "scaled"), [(1.0, 0), (1.5, 2)])
def test_no_pass_is_run_twice(fake_lm, material, best, scaled):
  suite = dataclasses.replace(
    SUITE,
    evals=("perplexity",),
    methods=("model", "crop"),
    fit_needle_documents=0,
    fit_evaluations=3,
  )
  reads = Reads(fake_lm, best)
  record, _ = _run(suite, reads, material)
  # Two fits, once at 1x for both methods, and at 4x once for each, and once
  # more for each whose fitted scale is not 1.
  assert len(reads.calls) == 2 * 3 + 1 + 2 + scaled
  cells = {
    (row.metric, row.method, row.factor, row.scale_fitted): row
    for row in record.rows
  }
  assert len(cells) == len(record.rows) == 3 * (2 + 2 * 2)
  for (metric, method, factor, fitted), row in cells.items():
    own = cells[metric, method, factor, False]
    assert (row.value == own.value) == (not fitted or not scaled)
    if factor == 1:
      copied = dataclasses.replace(cells[metric, "model", 1.0, False])
      assert row == dataclasses.replace(copied, method=method)


@pytest.mark.parametrize("form", ["scale_by_own_length", "scale_by_query"])
def test_no_scale_by_length_is_fitted_where_no_text_is_longer(
  fake_lm, material, form
):
  lm = fake_lm(answer=lambda prompt: " whale", loss=lambda i, scale: 0 * i)
  suite = dataclasses.replace(SUITE, methods=("model", "crop"), **{form: True})

  def variant(method, factor):
    return cropped.Cropped(lm) if method == "crop" and factor > 1 else lm

  record, names = _run(suite, variant, material)
  assert record.fits["m"].keys() == {"model"}
  assert "m by model at 4x, scaled: perplexity" in names
  cropped_rows = [row for row in record.rows if row.method == "crop"]
  assert {row.factor for row in cropped_rows} == {1.0, 4.0}
  # Another form, one scale for a length, is applied to its windows too.
  assert not any(row.scale_fitted for row in cropped_rows)
  plain = dataclasses.replace(suite, **{form: False})
  assert _run(plain, variant, material)[0].fits["m"].keys() == {"model", "crop"}


def test_tasks_on_the_same_texts_share_a_pass(fake_lm, material):
  suite = dataclasses.replace(
    SUITE, evals=("perplexity", "recall"), methods=("model",), fit_factor=None
  )
  reads = Reads(fake_lm, best_scale=1.0)
  record, _ = _run(suite, reads, material)
  assert [length for length, _ in reads.calls] == [64, 256]
  assert {row.task for row in record.rows} == {"perplexity", "recall"}


def test_a_step_that_fails_leaves_nothing_behind(lm, material):
  class Fails(type(lm)):
    def generate(self, prompts, max_new_tokens, stop=()):
      raise KeyboardInterrupt

  broken = Fails(loss=lm.loss)
  broken.with_logit_scale = lambda scale: broken
  record = Record()
  with pytest.raises(KeyboardInterrupt):
    _run(SUITE, lambda *by: broken, material, record)
  assert {row.task for row in record.rows} == {"perplexity"}
  resumed, _ = _run(SUITE, lambda *by: lm, material, record)
  assert {row.task for row in resumed.rows} == {"perplexity", "passkey"}


def test_steps_weigh_what_they_read(lm, material):
  read = []

  class Counter(type(lm)):
    def with_logit_scale(self, scale):
      return self

    def loglikelihood(self, sequences):
      read.append(sum(map(len, sequences)))
      return super().loglikelihood(sequences)

    def generate(self, prompts, max_new_tokens, stop=()):
      read.append(sum(map(len, prompts)) + max_new_tokens * len(prompts))
      return [[self.eos_id] for _ in prompts]

  counter = Counter(loss=lm.loss)
  inputs = steps.Inputs(SUITE, counter, material)
  record = Record()
  fit, *ahead = steps.steps(
    inputs, "m", ("model",), lambda *by: counter, record
  )
  fit.run()
  # The counter has no best scale. With a slope of 0 nothing is read again.
  found = record.fits["m"]
  found["model"] = dataclasses.replace(found["model"], c=0.5)
  for step in ahead:
    read.clear()
    step.run()
    # A prompt may be short of its length by a word and its mark.
    assert step.tokens == pytest.approx(sum(read), abs=2 * 3)


def test_outcomes_of_two_methods_are_of_the_same_samples(fake_lm, material):
  def answers(prompt):
    return " " + prompt.split("word: ")[1].split()[1]

  lms = {"model": fake_lm(answer=answers), "yarn": fake_lm(answer=answers)}
  lms["yarn"].tokenizer = lms["model"].tokenizer
  suite = dataclasses.replace(
    SUITE, evals=("multi_key",), samples=(1, 20), fit_factor=None
  )
  record, _ = _run(suite, lambda method, _: lms[method], material)
  outcomes = {
    row.method: row.outcomes
    for row in record.rows
    if (row.metric, row.factor) == ("accuracy", 4.0)
  }
  # One key of four is asked for, and the first is said.
  assert 0 < sum(outcomes["model"]) < 20
  assert outcomes["model"] == outcomes["yarn"]


def test_begin_with_bos_puts_it_before_every_input(lm, material, fake_lm):
  begun = []

  class WithBos(fake_lm):
    bos_id = 0

    def with_logit_scale(self, scale):
      return self

    def loglikelihood(self, sequences):
      begun.extend((s[0], len(s)) for s in sequences)
      return super().loglikelihood(sequences)

    def generate(self, prompts, max_new_tokens, stop=()):
      begun.extend((p[0], 64) for p in prompts)
      return [[self.eos_id] for _ in prompts]

  suite = dataclasses.replace(
    SUITE, begin_with_bos=True, fit_needle_documents=0
  )
  model = WithBos(loss=lambda position, scale: position)
  _run(suite, lambda *by: model, material)
  assert {first for first, _ in begun} == {0}
  assert {length for _, length in begun} == {64, 256}
  with pytest.raises(ValueError, match="needs a tokenizer with BOS"):
    _run(suite, lambda *by: lm, material)


def test_a_method_that_cannot_be_read_is_refused_before_any_work(
  fake_lm, material
):
  class Untouched(fake_lm):
    def loglikelihood(self, sequences):
      pytest.fail("work began")

  def variant(method, factor):
    if method == "yarn":
      raise ValueError("no yarn")
    return Untouched()

  with pytest.raises(ValueError, match="no yarn"):
    _run(SUITE, variant, material)


@pytest.mark.parametrize(
  ("field", "split"), [("excerpts", "test"), ("fit_excerpts", "fit")]
)
def test_text_too_short_is_refused_by_the_name_of_its_field(
  lm, material, field, split
):
  short = dataclasses.replace(material, **{split: ["A word."]})
  with pytest.raises(ValueError, match=f"Suite.{field}: 2 excerpts of 256"):
    _run(SUITE, lambda *by: lm, short)


def test_shares_are_even_and_are_all_steps_with_the_fits_they_need(
  lm, material
):
  inputs = steps.Inputs(SUITE, lm, material)
  ahead = steps.steps(inputs, "m", SUITE.methods, lambda *by: lm, Record())
  shares = [steps.share(ahead, number, 3) for number in (1, 2, 3)]
  names = [[step.name for step in share] for share in shares]
  order = [step.name for step in ahead]
  fits = {name for name in order if "softmax" in name}
  for share, own in zip(shares, names, strict=True):
    assert own == [name for name in order if name in own]
    needed = {step.needs for step in share} - {None}
    assert needed == fits & {*own}
  evaluated = [n for own in names for n in own if n not in fits]
  assert sorted(evaluated) == sorted({*order} - fits)
  loads = [
    sum(step.tokens for step in share if step.name not in fits)
    for share in shares
  ]
  largest = max(step.tokens for step in ahead if step.name not in fits)
  assert max(loads) - min(loads) <= largest
