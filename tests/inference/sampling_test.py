"""A model's own documents are the same wherever sampling begins."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import positional, sharding
from drope_jax.inference import choice, sampling
from drope_jax.inference import lm as lms
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig

CONFIG = ModelConfig(
  vocab_size=24,
  num_layers=2,
  width=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_width=32,
  context_tokens=12,
  positional=positional.Rope(100.0),
  logit_scale=1.5,
)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """Has fewer ids than the model."""

  vocab_size: int = 20
  bos_id: int | None = 1
  eos_id: int = 2


def _lm(config=CONFIG, **fields):
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
    transformer.param_shapes(config),
  )
  fields = {"end_ids": (2, 7)} | fields
  return lms.CheckpointLM(config, params, Tokenizer(), **fields)


def _text(lm=None, **fields):
  fields = {"begin_with_bos": True, "batch_size": 4, "seed": 3} | fields
  return sampling.ModelText(lm or _lm(), "sha", **fields)


def _some(text, first=0, count=40):
  found = itertools.islice(text.documents(first), count)
  return [list(map(int, ids)) for ids in found]


@pytest.fixture(scope="module")
def lm():
  return _lm()


@pytest.fixture(scope="module")
def documents(lm):
  return _some(_text(lm))


def _expected(lm, number, begin_id, seed=3, temperature=1.0):
  """Returns a document's tokens, by forward passes over it alone."""
  C = lm.context_tokens
  ids, key = [begin_id], jax.random.fold_in(jax.random.key(seed), number)
  while len(ids) < C:
    padded_BS = np.zeros((1, C), np.int32)
    padded_BS[0, : len(ids)] = ids
    logits_BSV = transformer.forward(lm.config, lm.params, padded_BS)
    logits_BV = logits_BSV[:, len(ids) - 1, : lm.tokenizer.vocab_size]
    keys_B = jax.random.fold_in(key, len(ids))[None]
    logits_BV = choice.apply_temperature(logits_BV, temperature)
    (new,) = choice.draw(logits_BV, keys_B).tolist()
    ids.append(new)
    if new in (2, 7):
      break
  return [*ids[1:-1], 2]


@pytest.mark.parametrize("with_bos", [True, False])
def test_a_document_does_not_depend_on_other_rows(lm, documents, with_bos):
  found = (
    documents if with_bos else _some(_text(lm, begin_with_bos=False), 0, 9)
  )
  for number in (0, 3, 8):
    want = _expected(lm, number, 1 if with_bos else 2)
    want = [1] * with_bos + want if want != [2] else []
    assert found[number] == want


def test_documents_end_with_eos_within_the_context(documents):
  written = [ids for ids in documents if ids]
  assert {ids[0] for ids in written} == {1}
  assert {ids[-1] for ids in written} == {2}
  inside = [i for ids in written for i in ids[:-1]]
  assert not {2, 7} & set(inside) and max(inside) < 20
  lengths = {len(ids) for ids in written}
  assert max(lengths) == 12 and min(lengths) > 2 and len(lengths) > 5
  assert [] in documents, "none ended at once"


@pytest.mark.parametrize("first", [1, 6, 23])
def test_sampling_resumes_at_any_document(lm, documents, first):
  assert _some(_text(lm), first, 10) == documents[first : first + 10]


def test_documents_do_not_depend_on_batch_size_or_mesh(lm, documents):
  assert _some(_text(lm, batch_size=3), 0, 20) == documents[:20]
  mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=2, tensor=2))
  params = jax.device_put(
    lm.params, sharding.param_shardings(mesh, transformer.param_shapes(CONFIG))
  )
  split = _text(dataclasses.replace(lm, params=params, mesh=mesh))
  programs = sampling.advance._cache_size()
  assert _some(split, 0, 20) == documents[:20]
  assert sampling.advance._cache_size() == programs + 1


def test_sampling_compiles_one_program(lm):
  sampling.advance.clear_cache()
  for seed, first in ((3, 0), (4, 50)):
    _some(_text(lm, seed=seed), first, 40)
  assert sampling.advance._cache_size() == 1


def test_seed_and_temperature_change_documents(lm, documents):
  assert _some(_text(lm, seed=4), 0, 5) != documents[:5]
  cold = _text(lm, temperature=0.25)
  (got,) = _some(cold, 0, 1)
  assert got == [1, *_expected(lm, 0, 1, temperature=0.25)] != documents[0]


def test_identities_differ_where_documents_do(lm):
  variants = [
    _text(lm),
    _text(lm, seed=4),
    _text(lm, temperature=0.5),
    _text(lm, begin_with_bos=False),
    dataclasses.replace(_text(lm), fingerprint="other"),
  ]
  assert len({text.identity() for text in variants}) == len(variants)
  assert _text(lm, batch_size=8).identity() == variants[0].identity()


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda x: x * jnp.nan, "needs finite logits, got NaN"),
    (lambda x: x * 0, "got 10 empty documents in a row.*with EOS"),
  ],
)
def test_a_model_of_only_empty_documents_is_refused(
  lm, monkeypatch, change, says
):
  monkeypatch.setattr(sampling, "_MOST_EMPTY", 10)
  params = dict(lm.params)
  params["head"] = jax.tree.map(change, params["head"])
  # With equal logits every id ends a document.
  broken = dataclasses.replace(lm, params=params, end_ids=(*range(20),))
  with pytest.raises(ValueError, match=says):
    _some(_text(broken))


@pytest.mark.parametrize(
  ("make", "says"),
  [
    (lambda: _text(batch_size=0), "multiple of 1, .*got 0"),
    (
      lambda: _text(_lm(dataclasses.replace(CONFIG, context_tokens=2))),
      "at least 3 tokens, .*got 2",
    ),
    (
      lambda: _text(
        dataclasses.replace(_lm(), tokenizer=Tokenizer(bos_id=None))
      ),
      "tokenizer with BOS, got one without",
    ),
    (
      lambda: _text(
        _lm(mesh=sharding.make_mesh(sharding.MeshConfig())), batch_size=12
      ),
      "multiple of 8, .*got 12",
    ),
  ],
)
def test_invalid_sampling_settings_are_refused(make, says):
  with pytest.raises(ValueError, match=says):
    make()
