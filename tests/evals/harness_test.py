"""Real tasks of lm-evaluation-harness, from local files, on a known model."""

import json
import pathlib
import random
import sys

import numpy as np
import pytest

from drope_jax.evals import harness, interface, needles, registry
from drope_jax.evals.harness import adapter, library
from drope_jax.evals.task import Order

pytest.importorskip("lm_eval", reason="needs the extra eval")

CONDITION = interface.Condition("known", "model")
CHOICE = {
  "output_type": "multiple_choice",
  "doc_to_text": "{{question}}",
  "doc_to_target": "{{answer}}",
  "doc_to_choice": "{{choices}}",
  "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
QUESTIONS = [
  {"question": "Q one", "choices": ["a", "bb bb", "c"], "answer": 1},
  {"question": "Q two", "choices": ["c", "a"], "answer": 1},
  {"question": "Q three", "choices": ["c", "d d d d"], "answer": 0},
]


class Known:
  """A model whose log p depends on the id and the number of ids before it.

  It continues a prompt by `answer`. `read` has what was scored or continued.
  """

  eos_id, bos_id, context_tokens = 0, None, 16

  def __init__(self, tokenizer, answer=""):
    self.encode, self.decode = tokenizer.encode, tokenizer.decode
    self.answer, self.read = answer, []

  def with_logit_scale(self, scale):
    return self

  def score(self, contexts, endings):
    assert all(contexts)
    self.read += [[*c, *e] for c, e in zip(contexts, endings, strict=True)]
    return [
      interface.Scored(
        np.array(
          [-self.nats(t, i) for i, t in enumerate(ending, len(context))],
          np.float32,
        ),
        np.array([t % 2 == 0 for t in ending]),
      )
      for context, ending in zip(contexts, endings, strict=True)
    ]

  def generate(self, prompts, max_new_tokens, stop=()):
    self.read += [list(ids) for ids in prompts]
    self.asked = max_new_tokens, stop
    return [[*self.encode(self.answer), self.eos_id] for _ in prompts]

  @staticmethod
  def nats(token, before):
    return 1.0 + (token % 5) / 8 + before / 64


@pytest.fixture
def lm(tokenizer):
  return Known(tokenizer)


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes a task with its questions, and returns the path of its file."""
  monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
  monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

  def write(name, rows, **config):
    data = tmp_path / f"{name}.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / f"{name}.yaml"
    files = {"data_files": {"test": str(data)}}
    task = {
      "task": name,
      "dataset_path": "json",
      "dataset_kwargs": files,
      "test_split": "test",
    }
    file.write_text(json.dumps(task | config))
    return str(file)

  return write


def _order(lm, length=16, count=100, prefix=()):
  return Order(
    encode=lm.encode,
    decode=lm.decode,
    documents=(),
    context_tokens=64,
    lengths=(length,),
    counts=(count,),
    excerpts=1,
    seed=0,
    prefix=prefix,
    needles=needles.Needles(),
    max_new_tokens=None,
  )


def _results(lm, file, *, shots=None, **order):
  (task,) = harness.Harness(tasks=(file,), num_fewshot=shots).expand()
  ((_, samples),) = task.draw(_order(lm, **order)).items()
  return {row.metric: row for row in task.evaluate(lm, samples, CONDITION)}


def _total(lm, context, continuation, prefix=()):
  before = [*prefix, *lm.encode(context)]
  return -sum(
    lm.nats(token, len(before) + i)
    for i, token in enumerate(lm.encode(continuation))
  )


@pytest.mark.parametrize("prefix", [(), (3,)])
def test_a_choice_is_right_where_its_log_likelihood_is_largest(
  lm, write, prefix
):
  found = _results(lm, write("choose", QUESTIONS, **CHOICE), prefix=prefix)
  assert list(found) == ["acc", "acc_norm"]
  for metric, by_length in (("acc", False), ("acc_norm", True)):
    want = []
    for row in QUESTIONS:
      totals = [
        _total(lm, row["question"], f" {choice}", prefix)
        / (len(choice) if by_length else 1)
        for choice in row["choices"]
      ]
      want.append(float(np.argmax(totals) == row["answer"]))
    assert found[metric].outcomes == tuple(want)
    assert found[metric].value == pytest.approx(np.mean(want))
    assert found[metric].low < found[metric].value < found[metric].high
  assert found["acc"].outcomes != found["acc_norm"].outcomes
  assert (found["acc"].task, found["acc"].count) == ("choose", 3)
  assert found["acc"].truncated == 0.0
  assert found["acc"].mean_tokens == np.mean([len(ids) for ids in lm.read])
  assert all(ids[: len(prefix)] == [*prefix] for ids in lm.read)


def test_a_suite_can_ask_for_the_first_questions_alone(lm, write):
  found = _results(lm, write("choose", QUESTIONS, **CHOICE), count=2)
  assert found["acc"].count == 2
  assert len(lm.read) == 5


def test_samples_are_told_apart_by_their_text(lm, write):
  file = write("choose", QUESTIONS, **CHOICE)
  (task,) = harness.Harness(tasks=(file,)).expand()
  once, again = (repr(task.draw(_order(lm))[16]) for _ in range(2))
  assert once == again and "Q three" in once


def test_a_task_that_shuffles_has_the_same_questions_in_every_run(
  lm, write, tmp_path
):
  (tmp_path / "mix.py").write_text(
    "import random\n"
    "import numpy as np\n"
    "def mix(dataset):\n"
    "  order = random.sample(range(len(dataset)), len(dataset))\n"
    "  return dataset.select(order).select(np.random.permutation(len(order)))\n"
  )
  rows = [{**QUESTIONS[0], "question": f"Q {i}"} for i in range(20)]
  file = pathlib.Path(write("mixed", rows, **CHOICE, process_docs="MIX"))
  file.write_text(file.read_text().replace('"MIX"', "!function mix.mix"))
  (task,) = harness.Harness(tasks=(str(file),)).expand()
  asked = []
  for seed in range(2):
    random.seed(seed)
    np.random.seed(seed)
    before = random.getstate(), repr(np.random.get_state())
    samples = task.draw(_order(lm))[16]
    lm.read.clear()
    task.evaluate(lm, samples, CONDITION)
    assert (random.getstate(), repr(np.random.get_state())) == before
    drawn = [json.loads(sample.document)["question"] for sample in samples]
    assert [lm.decode(ids) for ids in lm.read[::3]] == [f"{q} a" for q in drawn]
    asked.append(drawn)
  assert asked[0] == asked[1] != [row["question"] for row in rows]


def test_a_long_context_loses_its_beginning(lm, write):
  question = " ".join(f"w{i}" for i in range(20))
  row = {"question": question, "choices": ["a", "b b"], "answer": 0}
  found = _results(lm, write("long", [row], **CHOICE), length=8)
  assert found["acc"].truncated == 1.0
  # The last token is predicted and not read.
  assert [lm.decode(ids) for ids in lm.read] == [
    " w12 w13 w14 w15 w16 w17 w18 w19 a",
    " w13 w14 w15 w16 w17 w18 w19 b b",
  ]
  row["choices"] = ["a", " ".join("b" * 9)]
  with pytest.raises(ValueError, match="must fit 8 tokens, got one of 9"):
    _results(lm, write("longer", [row], **CHOICE), length=8)


def test_solved_questions_come_first(lm, write):
  file = write(
    "shots", QUESTIONS, **CHOICE, fewshot_split="test", target_delimiter=" = "
  )
  _results(lm, file, shots=1, length=64)
  texts = [lm.decode(ids) for ids in lm.read]
  assert all(text.count("Q ") == 2 and text.count(" = ") == 2 for text in texts)


@pytest.mark.parametrize(
  ("own", "asked", "shots"),
  [(None, None, 0), (None, 2, 2), (1, None, 1), (1, 2, 2), (0, 2, 0)],
)
def test_a_task_that_fixes_no_solved_questions_keeps_none(
  lm, write, own, asked, shots
):
  file = write(
    "shots", QUESTIONS, **CHOICE, fewshot_split="test", num_fewshot=own
  )
  _results(lm, file, shots=asked, length=64)
  texts = [lm.decode(ids) for ids in lm.read]
  assert {text.count("Q ") for text in texts} == {1 + shots}


def test_every_evaluation_has_the_same_solved_questions(lm, write):
  rows = [{**QUESTIONS[0], "question": f"Q {i}"} for i in range(20)]
  file = write("shots", rows, **CHOICE, fewshot_split="test")
  (task,) = harness.Harness(tasks=(file,), num_fewshot=2).expand()
  samples = task.draw(_order(lm, length=64))[64]
  reads = []
  for _ in range(2):
    lm.read.clear()
    task.evaluate(lm, samples, CONDITION)
    reads.append([lm.decode(ids) for ids in lm.read])
  assert reads[0] == reads[1]
  assert len({text.split(" bb bb")[0] for text in reads[0]}) > 2, "not drawn"


def test_a_greedy_continuation_is_told_from_others(lm, write):
  rows = [{"text": "Q", "target": f" {target}"} for target in "xyz"]
  file = write(
    "greedy",
    rows,
    output_type="loglikelihood",
    doc_to_text="{{text}}",
    doc_to_target="{{target}}",
    metric_list=[{"metric": "acc"}, {"metric": "perplexity"}],
  )
  found = _results(lm, file)
  want = [float(lm.encode(f" {t}")[0] % 2 == 0) for t in "xyz"]
  assert found["acc"].outcomes == tuple(want)
  assert 0 < sum(want) < 3, "all are alike"
  totals = [_total(lm, "Q", f" {t}") for t in "xyz"]
  perplexity = found["perplexity"]
  assert perplexity.value == pytest.approx(np.exp(-np.mean(totals)))
  assert (perplexity.outcomes, perplexity.low) == ((), None)


def test_a_continuation_without_a_token_of_its_own_is_refused(lm, write):
  # Without a space, the known tokenizer has one id for both.
  row = {"question": "Q", "choices": ["a", "b"], "answer": 0}
  file = write("joined", [row], **CHOICE, target_delimiter="")
  message = "a token of its own after its context, got 'a' after 'Q'"
  with pytest.raises(ValueError, match=message):
    _results(lm, file)


def test_a_long_text_is_scored_in_windows_each_token_once(lm, write):
  text = " ".join(f"w{i}" for i in range(10))
  file = write(
    "roll",
    [{"text": text}],
    output_type="loglikelihood_rolling",
    doc_to_target="{{text}}",
    doc_to_text="",
    metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
  )
  found = _results(lm, file, length=4)
  ids = lm.encode(text)
  # As lm_eval's documentation has it for a length of 4; EOS is before the text.
  assert lm.read == [[0, *ids[:4]], ids[3:8], ids[5:10]]
  total = sum(lm.nats(t, i + 1) for i, t in enumerate(ids[:4]))
  total += sum(lm.nats(t, i + 1) for i, t in enumerate(ids[4:8]))
  total += sum(lm.nats(t, i + 3) for i, t in enumerate(ids[8:]))
  perplexity = np.exp(total / 10)
  assert found["word_perplexity"].value == pytest.approx(perplexity)
  bits = total / len(text) / np.log(2)
  assert found["bits_per_byte"].value == pytest.approx(bits)


def _generate(write, rows, **options):
  return write(
    "say",
    rows,
    output_type="generate_until",
    doc_to_text="{{text}}",
    doc_to_target="{{target}}",
    generation_kwargs=options,
    metric_list=[{"metric": "exact_match"}],
  )


def test_an_answer_ends_at_a_stop_string(tokenizer, write):
  lm = Known(tokenizer, "forty two\nQ more")
  rows = [{"text": f"Q {i} is", "target": t} for i, t in enumerate("ab")]
  rows[1]["target"] = "forty two"
  file = _generate(write, rows, until=["\n", "END"], max_gen_toks=6)
  found = _results(lm, file, length=8)
  assert found["exact_match"].outcomes == (0.0, 1.0)
  assert lm.asked == (6, ("\n", "END"))
  # Of 3 ids, the last 8 - 6 are read.
  assert [lm.decode(ids) for ids in lm.read] == [" 0 is", " 1 is"]
  assert found["exact_match"].truncated == 1.0


@pytest.mark.parametrize(
  "options, message",
  [
    ({"do_sample": True, "temperature": 0.7}, "generates greedily, got a task"),
    ({"max_gen_toks": 16}, "generates 16 tokens .* got a length of 16"),
  ],
)
def test_what_cannot_be_generated_is_refused(lm, write, options, message):
  file = _generate(write, [{"text": "Q", "target": "a"}], **options)
  with pytest.raises(ValueError, match=message):
    _results(lm, file)


@pytest.fixture
def own_index(monkeypatch, tmp_path):
  """Puts an index of the tasks of a folder in the place of lm_eval's."""
  tasks = library.module("tasks")
  manager = tasks.TaskManager

  def index(include_defaults):
    return manager(include_defaults=False, include_path=str(tmp_path))

  monkeypatch.setattr(tasks, "TaskManager", index)


def test_several_tasks_under_one_name_are_refused(
  lm, write, tmp_path, own_index
):
  for name in "ab":
    write(name, QUESTIONS, **CHOICE)
  group = {"group": "both", "task": ["a", "b"]}
  (tmp_path / "both.yaml").write_text(json.dumps(group))
  assert _results(lm, "a")["acc"].task == "a"
  with pytest.raises(ValueError, match="got both, .* for a, b. Name some"):
    _results(lm, "both")


def test_a_task_without_its_data_is_refused(lm, write, tmp_path):
  file = write("choose", QUESTIONS, **CHOICE)
  (tmp_path / "choose.jsonl").unlink()
  with pytest.raises(ValueError, match="choose needs its data, got .* a .yaml"):
    _results(lm, file)


def test_an_unknown_task_is_refused(lm, own_index):
  with pytest.raises(ValueError, match="must be tasks of .* got arc_hard. `lm"):
    _results(lm, "arc_hard")


def test_a_missing_library_is_named(lm, monkeypatch):
  monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
  message = r"lm_eval.tasks, which is missing. .*pip install 'drope_jax\[eval\]"
  with pytest.raises(ValueError, match=message):
    _results(lm, "arc_easy")


def test_the_model_is_one_of_lm_evals(lm):
  model = adapter.model_class()(lm, 16)
  assert isinstance(model, library.module("api.model").LM)


def test_the_group_has_the_papers_six_and_takes_others():
  assert len(registry.tasks(["harness"])) == 6
  group = harness.Harness(tasks=("piqa", "mine/own.yaml"), num_fewshot=2)
  assert [task.name for task in group.expand()] == ["piqa", "own"]
  assert group.only(["own"]) == harness.Harness(("mine/own.yaml",), 2)
  assert group.only(["arc_easy"]) == harness.Harness(("arc_easy",), 2)
  assert group.only(["lambada_openai"]) is None
  with pytest.raises(ValueError, match="must name at least one task, got none"):
    harness.Harness(tasks=())
