"""A checkpoint as a language model gives the results of `forward`."""

import dataclasses
import functools
import inspect
import itertools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import positional, sharding, trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.data import tokenizer as tokenizers
from drope_jax.evals import interface
from drope_jax.inference import batching, choice, decode, scoring, weights
from drope_jax.inference import lm as lms
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

TEXT = "the whale and the sea, a ship of gold. " * 40
CONFIG = ModelConfig(
  vocab_size=288,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=8,
  positional=positional.Rope(100.0),
  logit_scale=1.5,
)
ROPE = CONFIG.positional
PI = positional.PositionInterpolation(100.0, 4.0)
NTK = positional.NtkAware(100.0, 4.0)
YARN = positional.Yarn(100.0, 4.0, trained_tokens=8, beta_fast=2.0)
DYNAMIC = positional.Dynamic(
  positional.PositionInterpolation(100.0), trained_tokens=4
)
LONG = positional.LongRope(
  100.0, (1.0, 1.0, 1.5, 2.0), (1.0, 1.0, 40.0, 1e30), 10, 1.1
)
PATTERN = positional.Pattern((ROPE, positional.Nope()), (3, None))
# Lengths of two padded shapes, not sorted, and more rows than a batch has.
SEQUENCES = [
  np.random.default_rng(i).integers(3, 288, length).tolist()
  for i, length in enumerate([5, 13, 1, 8, 7, 3, 6, 2])
]
PROMPTS = [SEQUENCES[i] for i in (0, 3, 5)]
NEW = 5


def _weights():
  """Weights so large that each position and layer affects the logits."""
  shapes = transformer.param_shapes(CONFIG)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype),
    shapes,
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("lm")
  path = str(folder / "t.model")
  tokenizer = tokenizers.train_sentencepiece([TEXT], 280, path)
  ref = manifests.TokenizerRef("t.model", tokenizer.fingerprint, 280)
  manifest = manifests.Manifest(CONFIG, ref)
  store.save_model(folder / "model", _weights(), manifest, path)
  return folder


@pytest.fixture(scope="module")
def loaded(folder):
  return lms.CheckpointLM.load(folder / "model")


@pytest.fixture
def lm(loaded, monkeypatch):
  """Small batches; the tests share their compiled programs."""
  monkeypatch.setattr(batching, "LENGTH_MULTIPLE", 8)
  monkeypatch.setattr(lms, "BATCH_TOKENS", 24)
  return loaded


@functools.cache
def _forward():
  return jax.jit(transformer.forward, static_argnums=0)


def _logits(config, params, ids, padded=None):
  """Returns float64 logits_SV of the reference, for `ids` alone."""
  tokens = np.zeros((1, padded or len(ids)), np.int32)
  tokens[0, : len(ids)] = ids
  logits_BSV = _forward()(config, params, tokens)
  return np.asarray(logits_BSV[0, : len(ids)], np.float64)


def _log_p(config, params, ids):
  logits_SV = _logits(config, params, ids)
  norm_S1 = np.log(np.exp(logits_SV).sum(-1, keepdims=True))
  return (logits_SV - norm_S1)[np.arange(len(ids) - 1), ids[1:]]


def _greedy(config, params, ids, count):
  ids = list(ids)
  for _ in range(count):
    # One padded shape and program; later tokens have no effect.
    ids.append(int(_logits(config, params, ids, 16)[-1].argmax()))
  return ids[-count:]


def test_a_loaded_checkpoint_implements_the_lm_protocol(lm):
  assert lm.config == CONFIG and lm.context_tokens == 8
  assert (lm.bos_id, lm.eos_id, lm.logit_scale_at(8)) == (1, 2, 1.5)
  assert lm.decode(lm.encode("a ship of gold")) == "a ship of gold"
  assert not {1, 2} & set(lm.encode("a ship"))
  members = {n for n in dir(interface.LM) if not n.startswith("_")}
  assert {"eos_id", "generate", "with_logit_scale"} <= members
  for name in members:
    want, got = getattr(interface.LM, name), getattr(lm, name)
    if isinstance(want, property):
      continue
    _, *wanted = inspect.signature(want).parameters.values()
    have = inspect.signature(got).parameters
    assert {parameter.name for parameter in wanted} <= {*have}, name
    in_order = [p.name for p in wanted if p.kind is not p.KEYWORD_ONLY]
    assert list(have)[: len(in_order)] == in_order, name
    for extra in list(have)[len(in_order) :]:
      assert have[extra].default is not inspect.Parameter.empty, name


def test_results_on_a_mesh_equal_one_device(lm, folder):
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=2, context=2))
  split = lms.CheckpointLM.load(folder / "model", mesh=mesh)
  kernel = split.params["layers"]["mlp"]["up"]["kernel"]
  assert kernel.addressable_shards[0].data.size < kernel.size
  for got, want in zip(
    split.loglikelihood(SEQUENCES), lm.loglikelihood(SEQUENCES), strict=True
  ):
    # Float32 logits of some tens, summed in parts.
    np.testing.assert_allclose(got, want, atol=1e-3)
  assert split.generate(PROMPTS, NEW) == lm.generate(PROMPTS, NEW)


def test_a_mesh_computes_in_the_given_dtype(folder):
  mesh = sharding.make_mesh(sharding.MeshConfig(tensor=2))
  half = lms.CheckpointLM.load(folder / "model", dtype="bfloat16", mesh=mesh)
  assert {x.dtype for x in jax.tree.leaves(half.params)} == {
    jnp.dtype("bfloat16")
  }
  with pytest.raises(ValueError, match="a mesh must be .* got int8. Choose"):
    lms.CheckpointLM.load(folder / "model", dtype="int8", mesh=mesh)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_cpu_computes_in_float32_with_weights_of_few_bits(folder, lm, dtype):
  few = lms.CheckpointLM.load(folder / "model", dtype=dtype)
  held, whole = (
    sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for params in (few.params, _weights())
  )
  assert held < 0.7 * whole, "the weights take more memory than they need"

  def rounded(path, leaf):
    if not path.endswith(("kernel", "table")):
      return leaf
    if dtype == "bfloat16":
      return leaf.astype(jnp.bfloat16).astype(jnp.float32)
    axis = -1 if path.endswith("table") else -2
    step = jnp.abs(leaf).max(axis=axis, keepdims=True) / 127
    return jnp.round(leaf / step) * step

  want = dataclasses.replace(
    lm, params=trees.map_with_path(rounded, _weights())
  )
  for got, expected, exact in zip(
    few.loglikelihood(SEQUENCES),
    want.loglikelihood(SEQUENCES),
    lm.loglikelihood(SEQUENCES),
    strict=True,
  ):
    np.testing.assert_allclose(got, expected, atol=1e-3)  # As on a mesh.
    assert not len(got) or np.abs(got - exact).max() > 2e-3, "nothing rounded"
  assert few.generate(PROMPTS, NEW) == want.generate(PROMPTS, NEW)


def test_scores_are_log_softmax_of_forward_in_the_order_given(lm):
  got = lm.loglikelihood(SEQUENCES)
  for i in (0, 1, 3):
    want = _log_p(CONFIG, lm.params, SEQUENCES[i])
    # Float32 rounding of logits of about 10, over 2 layers.
    np.testing.assert_allclose(got[i], want, atol=1e-4)
  assert [len(scores) for scores in got] == [len(s) - 1 for s in SEQUENCES]
  assert {scores.dtype for scores in got} == {np.dtype(np.float32)}
  alone = [lm.loglikelihood([s])[0] for s in SEQUENCES[4:6]]
  np.testing.assert_allclose(alone[0], got[4], atol=1e-4)
  np.testing.assert_allclose(alone[1], got[5], atol=1e-4)


def test_a_token_is_top_where_it_is_the_argmax_of_forward(lm):
  (greedy,) = lm.generate(PROMPTS[:1], NEW)
  sequence = [*PROMPTS[0], *greedy]
  (scored,) = lm.score([sequence[:1]], [sequence[1:]])
  assert scored.is_top[len(PROMPTS[0]) - 1 :].all()
  best = _logits(CONFIG, lm.params, sequence).argmax(-1)
  want = best[:-1] == np.asarray(sequence[1:])
  np.testing.assert_array_equal(scored.is_top, want)
  assert not want.all(), "every token is the likeliest"


# Several endings of a context, one without any token, one alone, and a context
# of one token, which leaves nothing to read first.
CONTEXTS = [SEQUENCES[i] for i in (1, 0, 1, 2, 1, 0, 3)]
ENDINGS = [SEQUENCES[i] for i in (5, 7, 3, 4, 2, 3, 6)]
ENDINGS[2] = []


@pytest.mark.parametrize(
  "scheme", [ROPE, YARN, positional.Nope(), PATTERN, DYNAMIC], ids=repr
)
def test_endings_are_scored_as_in_the_whole_sequence(lm, scheme):
  lm = lm.with_positions(scheme).with_logit_slope(0.3)
  whole = [[*c, *e] for c, e in zip(CONTEXTS, ENDINGS, strict=True)]
  want = lm.score([ids[:1] for ids in whole], [ids[1:] for ids in whole])
  for got, expected, ending in zip(
    lm.score(CONTEXTS, ENDINGS), want, ENDINGS, strict=True
  ):
    own = slice(len(expected.log_p) - len(ending), None)
    np.testing.assert_allclose(got.log_p, expected.log_p[own], atol=1e-4)
    np.testing.assert_array_equal(got.is_top, expected.is_top[own])


def test_a_last_token_beyond_the_positions_is_only_predicted(lm):
  learned = positional.LearnedAbsolute(tokens=13)
  table_PM = np.random.default_rng(1).normal(size=(13, CONFIG.width))
  embed = lm.params["embed"] | {"positions": jnp.asarray(table_PM, jnp.float32)}
  lm = dataclasses.replace(
    lm.with_positions(learned), params=lm.params | {"embed": embed}
  )
  whole = [*SEQUENCES[1], 7]  # Of 14 tokens.
  (got,) = lm.score([whole[:5]], [whole[5:]])
  np.testing.assert_allclose(
    got.log_p[:-1], lm.loglikelihood([whole[:-1]])[0][4:], atol=1e-4
  )
  logits_V = _logits(lm.config, lm.params, whole[:-1])[-1]
  want = logits_V[7] - np.log(np.exp(logits_V).sum())
  assert got.log_p[-1] == pytest.approx(want, abs=1e-4)
  with pytest.raises(ValueError, match="reach 13 tokens, got a sequence of 14"):
    lm.score([whole[:5]], [[*whole[5:], 8]])


def test_a_context_is_read_once_for_all_its_endings(lm, monkeypatch):
  monkeypatch.setattr(lms, "BATCH_TOKENS", 64)
  read = []
  prefill = decode.prefill

  def counted(config, params, tokens_BS, *args, **options):
    read.append(tokens_BS.shape)
    return prefill(config, params, tokens_BS, *args, **options)

  monkeypatch.setattr(decode, "prefill", counted)
  scoring.score.clear_cache()
  lm.score([SEQUENCES[1]] * 3, [[5], [6, 7], [8]])
  assert read == [(1, 12)]
  lm.score(SEQUENCES[:3], [[5]] * 3)  # The third has nothing to be read first.
  assert read[1:] == [(2, 12)]


def test_an_accelerator_pads_more_to_compile_less(lm, monkeypatch):
  asked = []

  def noted(contexts, endings, *, batch_tokens, join_tokens, **options):
    asked.append(join_tokens / batch_tokens)
    return ()

  monkeypatch.setattr(batching, "of_endings", noted)
  for platform in ("cpu", "tpu"):
    device = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(weights, "device", lambda mesh, device=device: device)
    assert lm.score([], []) == []
  assert asked == [0.25, 4]


def test_short_sequences_are_padded_to_few_lengths():
  lengths = (1, 8, 9, 64, 65, 80, 81, 128, 129)
  padded = [8, 8, 16, 64, 80, 80, 96, 128, 160]
  assert [batching.bucket(n, 8) for n in lengths] == padded
  assert [batching.bucket(n) for n in lengths] == [128] * 8 + [256]


def test_one_token_has_no_score_and_an_empty_sequence_is_refused(lm):
  assert lm.loglikelihood([]) == []
  assert lm.generate([], 3) == []
  with pytest.raises(ValueError, match="at least one token, got an empty one"):
    lm.loglikelihood([[3], []])


@pytest.mark.parametrize("chunk", [1, 21])
def test_scores_do_not_depend_on_the_chunk_size(lm, monkeypatch, chunk):
  want = lm.loglikelihood(SEQUENCES[:2])
  scoring.score.clear_cache()
  monkeypatch.setattr(scoring, "SCORE_CHUNK", chunk)
  got = lm.loglikelihood(SEQUENCES[:2])
  scoring.score.clear_cache()
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
  "scheme", [ROPE, YARN, positional.Nope(), PATTERN], ids=repr
)
def test_decoding_is_argmax_of_the_full_forward(lm, scheme):
  lm = lm.with_positions(scheme)
  got = lm.generate(PROMPTS, NEW)
  # Each prompt alone, without a cache, gives the same as all three at once.
  want = [_greedy(lm.config, lm.params, prompt, NEW) for prompt in PROMPTS]
  assert got == want
  assert len(set(itertools.chain(*got))) > 3, "it says the same throughout"
  if scheme != ROPE:
    rope = _greedy(CONFIG, lm.params, PROMPTS[0], NEW)
    assert got[0] != rope, "the scheme had no effect"


@pytest.mark.parametrize(
  ("tokens", "rows", "alike"),
  [
    (128, 64, 128),
    (2048, 4, 16),
    (8192, 1, 4),
    (10_240, 4, 6),
    (16_384, 4, 4),
    (32_768, 2, 2),
    (65_536, 1, 1),
    (131_072, 1, 1),
  ],
)
def test_rows_share_a_cache_of_limited_tokens(loaded, tokens, rows, alike):
  assert loaded.batch_size(tokens) == rows
  # Of prompts that begin alike, little is read: more rows at once.
  shared = tokens - batching.LENGTH_MULTIPLE // 2
  assert loaded._prompts_at_once(tokens, shared) == alike


@pytest.mark.parametrize("tokens", [256, 7168, 57_344, 131_072])
def test_a_mesh_holds_as_many_tokens_on_each_device(loaded, tokens):
  mesh = sharding.make_mesh(sharding.MeshConfig())
  assert sharding.row_shards(mesh) == mesh.size > 1
  rows = dataclasses.replace(loaded, mesh=mesh).batch_size(tokens)
  each, rest = divmod(rows, mesh.size)
  assert not rest and each == loaded.batch_size(tokens)


def test_eos_ends_a_row_and_is_returned(lm):
  free = lm.generate(PROMPTS, NEW)
  eos_id = free[1][2]

  class Ending:
    def __getattr__(self, name):
      return eos_id if name == "eos_id" else getattr(lm.tokenizer, name)

  got = dataclasses.replace(lm, tokenizer=Ending()).generate(PROMPTS, NEW)
  want = [
    row[: row.index(eos_id) + 1] if eos_id in row else row for row in free
  ]
  assert got == want
  assert len(got[1]) < NEW and max(map(len, got)) == NEW


def test_any_of_several_ends_a_row(lm):
  free = lm.generate(PROMPTS, NEW)
  ends = free[0][1], free[1][3]
  ending = dataclasses.replace(lm, end_ids=ends)
  want = [
    row[: next((n for n, i in enumerate(row, 1) if i in ends), None)]
    for row in free
  ]
  assert ending.generate(PROMPTS, NEW) == want
  assert len({row[-1] for row in want} & {*ends}) == 2, "one would do"


@pytest.mark.parametrize("scheme", [YARN, positional.Nope(), PATTERN], ids=repr)
def test_a_prompt_read_in_chunks_is_the_prompt_read_at_once(
  lm, monkeypatch, scheme
):
  """Rows end in different chunks, and the last chunk is nobody's."""
  lm = lm.with_positions(scheme).with_logit_scale(1.0)
  monkeypatch.setattr(batching, "LENGTH_MULTIPLE", 32)
  prompts = [*PROMPTS, SEQUENCES[1]]
  want = lm.generate(prompts, NEW)
  monkeypatch.setattr(lms, "BATCH_TOKENS", 4)
  monkeypatch.setattr(lms, "CHUNK_TOKENS", 8)
  assert lm.generate(prompts, NEW) == want
  assert len(set(itertools.chain(*want))) > 3, "it says the same throughout"


@pytest.mark.parametrize(("at_once", "rows"), [(96, 4), (24, 3)])
def test_a_shared_beginning_is_read_once_and_changes_nothing(
  lm, monkeypatch, at_once, rows
):
  lm = lm.with_logit_scale(lm.logit_scale_at(8))
  begin = [*SEQUENCES[1], *SEQUENCES[3]]  # 21 tokens: two whole chunks.
  prompts = [[*begin, *SEQUENCES[i]] for i in (0, 3, 4)]
  want = [lm.generate([prompt], NEW)[0] for prompt in prompts]
  monkeypatch.setattr(lms, "BATCH_TOKENS", at_once)
  monkeypatch.setattr(lms, "CHUNK_TOKENS", 8)
  read = []
  prefill_chunks = decode.prefill_chunks
  monkeypatch.setattr(
    decode,
    "prefill_chunks",
    lambda *args, first, **options: (
      read.append((args[2].shape, first))
      or prefill_chunks(*args, first=first, **options)
    ),
  )
  decode.start.clear_cache()
  assert lm.generate(prompts, NEW) == want
  assert read[-1] == ((rows, 32), 16), "the shared tokens were read in each row"


def test_prefixes_of_any_length_take_few_programs(lm, monkeypatch):
  monkeypatch.setattr(batching, "LENGTH_MULTIPLE", 2)
  monkeypatch.setattr(lms, "BATCH_TOKENS", 64)
  lm = lm.with_logit_scale(1.0)
  decode.start.clear_cache()
  tokens = [*SEQUENCES[1], *SEQUENCES[1], 5, 6]  # 28 fill a padded length.
  for shared in range(2, 28, 3):
    other = [9 if n >= shared else token for n, token in enumerate(tokens)]
    lm.generate([tokens, other], 1)
  assert 2 <= decode.start._cache_size() <= 4


def test_a_stop_string_ends_a_row_with_the_token_that_completes_it(lm):
  class Letters:
    """An id is a letter."""

    def __getattr__(self, name):
      return getattr(lm.tokenizer, name)

    def decode(self, ids):
      return "".join(chr(0x4E00 + i) for i in ids)

  spelt = dataclasses.replace(lm, tokenizer=Letters())
  free = spelt.generate(PROMPTS, NEW)
  stop = spelt.decode(free[1][2:4])
  want = []
  for new in free:
    found = spelt.decode(new).find(stop)
    want.append(new if found < 0 else new[: found + 2])
  assert len(want[1]) == 4 and max(map(len, want)) == NEW
  assert spelt.generate(PROMPTS, NEW, stop=["nothing says this", stop]) == want
  with pytest.raises(ValueError, match="must not be empty"):
    spelt.generate(PROMPTS, NEW, stop=[""])


def test_a_stop_string_may_begin_with_the_space_before_the_first_token(lm):
  class Words:
    """An id is a word. As with sentencepiece, no text begins with a space."""

    def __getattr__(self, name):
      return getattr(lm.tokenizer, name)

    def decode(self, ids):
      return "".join(f" {i}" for i in ids).removeprefix(" ")

  spelt = dataclasses.replace(lm, tokenizer=Words())
  for prompt in PROMPTS:
    (free,) = spelt.generate([prompt], NEW)
    assert len(free) == NEW
    assert spelt.generate([prompt], NEW, stop=[f" {free[0]}"]) == [free[:1]]
    # The prompt's own words end nothing.
    (new,) = spelt.generate([prompt], NEW, stop=[f"{prompt[-1]} {free[0]}"])
    assert new == free


def test_a_stream_is_what_is_generated_piece_by_piece(lm, monkeypatch):
  want = lm.generate(PROMPTS, NEW)
  monkeypatch.setattr(lms, "_STEPS", 2)
  pieces = [*lm.stream(PROMPTS, NEW)]
  for row, ids in enumerate(want):
    found = [new for place, new in pieces if place == row]
    assert [len(new) for new in found] == [2, 2, 1]
    assert [*itertools.chain(*found)] == ids


def test_a_repetition_penalty_reads_prompts_and_new_tokens(lm):
  """Against each step's full forward."""
  sampling = choice.Sampling(repetition_penalty=1.7)
  got = lm.generate(PROMPTS, NEW, sampling)
  for prompt, new in zip(PROMPTS, got, strict=True):
    for n, token in enumerate(new):
      held = [*prompt, *new[:n]]
      logits_V = _logits(CONFIG, lm.params, held, 16)[-1]
      for i in set(held):
        logits_V[i] *= 1 / 1.7 if logits_V[i] > 0 else 1.7
      assert token == logits_V.argmax()
  assert got != lm.generate(PROMPTS, NEW), "the penalty had no effect"


def test_lengths_fall_in_four_buckets_a_doubling():
  lengths = np.arange(1, 20_000)
  buckets = np.array([batching.bucket(int(n)) for n in lengths])
  assert (buckets >= lengths).all() and (np.diff(buckets) >= 0).all()
  assert (buckets <= np.maximum(lengths * 1.25, lengths + 127)).all()
  for octave in (1024, 4096, 8192):
    inside = (lengths > octave) & (lengths <= 2 * octave)
    assert len(set(buckets[inside])) == 4


def test_a_sample_is_a_function_of_seed_and_place(lm):
  greedy = lm.generate(PROMPTS, NEW)
  first = lm.generate(PROMPTS, NEW, choice.Sampling(3.0, seed=1))
  assert first == lm.generate(PROMPTS, NEW, choice.Sampling(3.0, seed=1))
  assert first != lm.generate(PROMPTS, NEW, choice.Sampling(3.0, seed=2))
  assert first != greedy
  assert lm.generate(PROMPTS, NEW, choice.Sampling(1e-6, seed=1)) == greedy
  # Its neighbors and their number change nothing.
  swapped = [PROMPTS[0], PROMPTS[2], PROMPTS[2]]
  assert lm.generate(swapped, NEW, choice.Sampling(3.0, seed=1))[0] == first[0]


def test_samples_follow_the_softmax_and_batches_are_independent(
  lm, monkeypatch
):
  monkeypatch.setattr(lms, "BATCH_TOKENS", 8 * 256)
  draws, temperature = 1024, 8.0
  sampled = lm.generate(
    [PROMPTS[0]] * draws, 1, choice.Sampling(temperature, seed=3)
  )
  ids = np.concatenate(sampled)
  logits_V = _logits(CONFIG, lm.params, PROMPTS[0])[-1] / temperature
  p_V = np.exp(logits_V) / np.exp(logits_V).sum()
  # Ten groups of ids of about equal probability.
  group_V = np.minimum((10 * (np.cumsum(p_V) - p_V / 2)).astype(int), 9)
  want = draws * np.bincount(group_V, p_V, 10)
  got = np.bincount(group_V[ids], minlength=10)
  # The 99.9% quantile of chi squared with 9 degrees of freedom.
  assert np.sum((got - want) ** 2 / want) < 27.9
  passes = ids.reshape(4, 256)
  assert len(np.unique(passes, axis=0)) == 4, "each pass draws the same"


def test_positions_and_scale_replace_earlier_ones(lm):
  ids = SEQUENCES[:1]
  want = lm.loglikelihood(ids)[0]
  np.testing.assert_array_equal(
    lm.with_positions(YARN).with_positions(ROPE).loglikelihood(ids)[0], want
  )
  twice = lm.with_logit_scale(3.0).with_logit_scale(0.5)
  scaled = dataclasses.replace(CONFIG, logit_scale=0.5)
  np.testing.assert_allclose(
    twice.loglikelihood(ids)[0], _log_p(scaled, lm.params, ids[0]), atol=1e-4
  )
  # The scale stays when positions change, and vice versa.
  kept = twice.with_positions(YARN)
  assert (kept.logit_scale, kept.config.positional) == (0.5, YARN)
  assert kept.with_logit_scale(1.0).config.positional == YARN
  assert np.abs(twice.loglikelihood(ids)[0] - want).max() > 0.01


def test_the_scale_beyond_the_context_follows_each_rows_length(lm):
  sloped = dataclasses.replace(CONFIG, logit_scale_slope=4.0)
  lm = lm.with_logit_scale(9.0).with_logit_slope(4.0)
  longer, shorter = SEQUENCES[1], SEQUENCES[4]  # Of 13 and 7; the context is 8.
  for ids, got in zip(
    (longer, shorter), lm.loglikelihood([longer, shorter]), strict=True
  ):
    scale = 1.5 * (1 + 4.0 * math.log(max(len(ids) / 8, 1)))
    at = dataclasses.replace(CONFIG, logit_scale=scale)
    np.testing.assert_allclose(got, _log_p(at, lm.params, ids), atol=1e-4)
    assert lm.logit_scale_at(len(ids)) == pytest.approx(scale)
  fixed = lm.with_logit_scale(sloped.logit_scale_at(8 + NEW))
  (new,) = lm.generate([PROMPTS[1]], NEW)
  assert new == fixed.generate([PROMPTS[1]], NEW)[0]
  assert new != lm.with_logit_scale(1.5).generate([PROMPTS[1]], NEW)[0]


def test_a_slope_of_an_evaluation_may_be_below_0(lm):
  own = dataclasses.replace(CONFIG, logit_scale_slope=4.0)
  lm = dataclasses.replace(lm, config=own).with_logit_slope(-0.2)
  scale = 1.5 * (1 - 0.2 * math.log(13 / 8))
  assert [lm.logit_scale_at(n) for n in (7, 13)] == pytest.approx([1.5, scale])
  want = lm.with_logit_scale(scale).loglikelihood([SEQUENCES[1]])[0]
  np.testing.assert_allclose(lm.loglikelihood([SEQUENCES[1]])[0], want)
  with pytest.raises(ValueError, match="must be positive, got c = -0.2 and"):
    lm.logit_scale_at(8 * 200)


def test_each_query_beyond_the_context_has_its_own_scale(lm):
  ids = SEQUENCES[1]  # 13 tokens; the context is 8.
  one_layer = dataclasses.replace(CONFIG, num_layers=1)
  params = lm.params | {
    "layers": jax.tree.map(lambda leaf_N: leaf_N[:1], lm.params["layers"])
  }
  shallow = dataclasses.replace(lm, config=one_layer, params=params)
  sloped = shallow.with_logit_scale(9.0).with_logit_slope(4.0, by_query=True)
  (got,) = sloped.loglikelihood([ids])
  # With one layer, a prediction depends on the scale of its own query alone.
  for i, log_p in enumerate(got, 1):
    scale = 1.5 * (1 + 4.0 * math.log(max(i / 8, 1)))
    (want,) = shallow.with_logit_scale(scale).loglikelihood([ids])
    assert log_p == pytest.approx(want[i - 1], abs=1e-4)
  (plain,) = shallow.loglikelihood([ids])
  assert np.abs(got - plain)[8:].max() > 0.01


def test_a_fitted_slope_replaces_a_models_own(lm):
  own = lm.with_positions(positional.LogScaled(positional.Nope(), 8, 0.1))
  sloped = own.with_logit_slope(0.5, by_query=True)
  assert sloped.config.positional == positional.LogScaled(
    positional.Nope(), 8, 0.5
  )


def test_a_pattern_keeps_its_windows_with_a_scale_for_each_query(lm):
  sloped = lm.with_positions(PATTERN).with_logit_slope(0.5, by_query=True)
  assert sloped.config.positional == positional.Pattern(
    tuple(positional.LogScaled(s, 8, 0.5) for s in PATTERN.schemes),
    PATTERN.windows,
  )


def test_a_dynamic_scheme_is_fixed_at_the_length_that_is_read(lm):
  dynamic = positional.Dynamic(positional.NtkAware(100.0), trained_tokens=4)
  for length, run in (
    (12, lambda lm: lm.loglikelihood([SEQUENCES[1]])[0].tolist()),
    (8 + NEW, lambda lm: lm.generate([PROMPTS[1]], NEW)[0]),
  ):
    fixed = positional.NtkAware(100.0, length / 4)
    got = run(lm.with_positions(dynamic))
    assert got == run(lm.with_positions(fixed))
    assert got != run(lm.with_positions(ROPE))


@pytest.mark.parametrize(
  "scheme",
  [
    DYNAMIC,
    LONG,
    pytest.param(
      positional.Pattern((DYNAMIC, positional.Nope())), marks=pytest.mark.slow
    ),
  ],
  ids=repr,
)
def test_dynamic_positions_do_not_depend_on_other_rows(lm, scheme):
  lm = lm.with_positions(scheme)
  prompts = PROMPTS[:2]
  for ids, got in zip(prompts, lm.loglikelihood(prompts), strict=True):
    read = lm.with_positions(scheme.at(len(ids) - 1))
    want = _log_p(read.config, lm.params, ids)
    np.testing.assert_allclose(got, want, atol=1e-4)
  alone = [lm.generate([prompt], NEW)[0] for prompt in prompts]
  assert lm.generate(prompts, NEW) == alone
  longest = scheme.at(8 + NEW)
  together = lm.with_positions(longest).generate(prompts, NEW)
  assert together[1] == alone[1]
  assert together != alone, "the length had no effect"


def test_one_program_scores_every_rotary_scheme_and_scale(lm):
  base = lm.loglikelihood(SEQUENCES[:2])[1]
  programs = scoring.score._cache_size()
  assert programs > 0
  for scheme in (PI, NTK, YARN, positional.Nope()):
    scaled = lm.with_positions(scheme).with_logit_scale(1.25)
    got = scaled.loglikelihood(SEQUENCES[:2])[1]
    assert np.abs(got - base).max() > 0.01, f"{scheme} had no effect"
  assert scoring.score._cache_size() == programs
  lm.with_positions(PATTERN).loglikelihood(SEQUENCES[:2])
  assert scoring.score._cache_size() > programs, "programs are not counted"


@pytest.mark.parametrize("scheme", [PI, NTK, YARN, positional.Nope()], ids=repr)
def test_frequencies_as_arrays_equal_the_scheme(lm, scheme):
  lm = lm.with_positions(scheme)
  got = lm.loglikelihood(SEQUENCES[1:2])[0]
  want = _log_p(lm.config, lm.params, SEQUENCES[1])
  np.testing.assert_allclose(got, want, atol=1e-4)
