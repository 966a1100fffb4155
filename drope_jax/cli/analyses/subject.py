"""The model that `drope analyse` looks at, and the text that it reads."""

import argparse
from collections.abc import Sequence
import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from drope_jax.analysis.studies import pairs
from drope_jax.axes import Array
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import model as models
from drope_jax.checkpoint import store
from drope_jax.cli import configure, text_inputs
from drope_jax.data import corpus, paths, sources
from drope_jax.data import tokenizer as tokenizers
from drope_jax.evals import needles, niah, perplexity, retrieval
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import (
  Alibi,
  Nope,
  PartialRope,
  Pattern,
  Rope,
  Scheme,
  log_scaled,
  partial,
)
from drope_jax.positional import pattern as patterns
from drope_jax.surgery import drop_positional

_TEXT = ("packaged:test",)

NEEDLES = needles.Needles()
MULTI_KEY = niah.Niah("multi_key", num_keys=4, needles=NEEDLES)


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model to be analysed.

  Attributes:
    config, params: float32.
    tokenizer: of its text.
    about: what the json says of it.
    trained_tokens: None for random weights.
    begin: ids that every text begins with.
  """

  config: ModelConfig
  params: transformer.Params
  tokenizer: tokenizers.Tokenizer
  about: dict[str, Any]
  trained_tokens: int | None = None
  begin: tuple[int, ...] = ()


def is_config(args: argparse.Namespace) -> bool:
  """Returns whether MODEL is a config, whose weights are random."""
  return args.model.endswith(".gin")


def load(args: argparse.Namespace, seed: int = 0) -> Subject:
  """Returns the model that the command line names.

  Args:
    args: with `model`, `overrides` and `begin_with_bos`.
    seed: of random weights.

  Raises:
    FileNotFoundError, ValueError: there is no such model; or --set is given
      with a checkpoint; or the tokenizer has no BOS to begin with.
  """
  if is_config(args):
    return _random(args, seed)
  if args.overrides:
    raise ValueError(
      "--set changes a CONFIG.gin, got a checkpoint, which has its own config. "
      "Leave it out."
    )
  return of_checkpoint(paths.resolve(args.model), args.begin_with_bos)


def of_checkpoint(path: os.PathLike, begin_with_bos: bool) -> Subject:
  """Returns a checkpoint's model.

  Raises:
    FileNotFoundError, ValueError: there is none, or none with a tokenizer; or
      that has no BOS to begin with.
  """
  file = store.tokenizer_path(path)
  model = models.load(path, dtype=jnp.float32)
  lineage = model.manifest.lineage
  about = {
    "checkpoint": os.fspath(model.path or path),
    "fingerprint": store.fingerprint(path),
    "manifest": model.manifest.to_json(),
    "begin_with_bos": begin_with_bos,
  }
  tokenizer = tokenizers.load(os.fspath(file))
  return Subject(
    model.config,
    model.params,
    tokenizer,
    about,
    lineage[-1].tokens if lineage else None,
    _begin(tokenizer, begin_with_bos),
  )


def _random(args: argparse.Namespace, seed: int) -> Subject:
  config = configure.build(args.model, ModelConfig, args.overrides)
  tokenizer = tokenizers.load(os.fspath(corpus.tokenizer_path()))
  # Random weights know no token, and a larger table changes no other weight's
  # distribution.
  config = dataclasses.replace(
    config, vocab_size=max(config.vocab_size, tokenizer.vocab_size)
  )
  about = {
    "config": args.model,
    "overrides": args.overrides,
    "manifest": manifests.Manifest(config).to_json(),
    "begin_with_bos": args.begin_with_bos,
  }
  params = transformer.init(config, jax.random.key(seed))
  begin = _begin(tokenizer, args.begin_with_bos)
  return Subject(config, params, tokenizer, about, begin=begin)


def _begin(tokenizer: tokenizers.Tokenizer, with_bos: bool) -> tuple[int, ...]:
  """Returns the ids that texts begin with."""
  if not with_bos:
    return ()
  if tokenizer.bos_id is None:
    raise ValueError(
      "--begin-with-bos needs a tokenizer with BOS, got one without. Leave it "
      "out."
    )
  return (tokenizer.bos_id,)


def without_positions(subject: Subject) -> Subject:
  """Returns the model without positions, and without training."""
  config = subject.config
  schemes = patterns.layer_schemes(config.positional, config.num_layers)
  if all(log_scaled.unscaled(scheme) == Nope() for scheme in schemes):
    return subject
  config, params = drop_positional.drop_positional(config, subject.params)
  return dataclasses.replace(subject, config=config, params=params)


def positions(config: ModelConfig, names: str) -> dict[str, Scheme | Pattern]:
  """Returns positions to put in place of a model's, by name.

  Two names of the same positions are one, the first.

  Args:
    config: the model's.
    names: joined by commas; see `drope analyse MODEL bias --help`.

  Raises:
    ValueError: a name is unknown or fits no such model.
  """
  own = config.positional
  rope = own if isinstance(own, Rope) else Rope()
  complete = partial.complete_pairs(
    rope, config.head_dim, config.context_tokens
  )
  known: dict[str, Scheme | Pattern] = {
    "model": own,
    "rope": rope,
    "partial": PartialRope(rope, max(complete, 1)),
    "alibi": Alibi(),
    "nope": Nope(),
  }
  found: dict[str, Scheme | Pattern] = {}
  for name in names.split(","):
    if name not in known:
      raise ValueError(
        f"--positions takes {', '.join(known)}, got {name!r}. Name some of "
        "these, joined by commas."
      )
    if known[name] not in found.values():
      found[name] = known[name]
  plan = patterns.layer_plan(own, config.num_layers)
  learned = plan.learner or plan.embedder
  if learned is not None and [*found] != ["model"]:
    raise ValueError(
      f"Positions that learn, {learned}, have weights of the model, and "
      f"cannot be replaced here, got --positions {names}. Use --positions "
      "model."
    )
  return found


def excerpts(
  subject: Subject,
  text: Sequence[str] | None,
  count: int,
  tokens: int,
  seed: int,
) -> Array:
  """Returns int32 tokens_BS of held-out text.

  Args:
    subject: whose tokenizer is used.
    text: --text; None: the packaged test split.
    count: B.
    tokens: S.
    seed: of the draw.

  Raises:
    FileNotFoundError, ValueError: the text cannot be read or is too short.
  """
  if count < 1:
    raise ValueError(f"--sequences must be at least 1, got {count}. Raise it.")
  documents = map(subject.tokenizer.encode, documents_of(text))
  begin = subject.begin
  found = perplexity.excerpts(documents, tokens - len(begin), count, seed)
  return jnp.asarray([[*begin, *excerpt] for excerpt in found], jnp.int32)


def for_pairs(
  subject: Subject, args: argparse.Namespace
) -> tuple[Array, pairs.Questions]:
  """Returns excerpts and questions, as `pairs` takes them.

  Both are of the trained context. Args and errors are those of `excerpts` and
  `prompts`.
  """
  tokens = subject.config.context_tokens
  tokens_BS = excerpts(subject, args.text, args.sequences, tokens, seed=0)
  samples = prompts(subject, documents_of(args.text), args.prompts, tokens)
  return tokens_BS, pairs.questions(samples, subject.tokenizer.encode)


def documents_of(text: Sequence[str] | None) -> list[str]:
  """Returns the documents of --text; by default of the packaged test split."""
  return list(sources.texts(text_inputs.expand(text or _TEXT)))


def prompts(
  subject: Subject, documents: Sequence[str], count: int, tokens: int
) -> list[retrieval.Sample]:
  """Returns questions that fill `tokens` with their answers.

  Each asks for one of four needles in held-out text.

  Raises:
    ValueError: there are none, or their needles do not fit.
  """
  if count < 1:
    raise ValueError(f"--prompts must be at least 1, got {count}. Raise it.")
  return niah.samples(
    MULTI_KEY,
    subject.tokenizer.encode,
    documents,
    tokens,
    count,
    seed=0,
    prefix=subject.begin,
  )


def factors(text: str) -> tuple[float, ...]:
  """Returns the numbers of --factors, rising.

  Raises:
    ValueError: one is not a number of at least 1.
  """
  try:
    found = sorted({float(number) for number in text.split(",")})
  except ValueError:
    found = []
  if not found or not all(1 <= factor < math.inf for factor in found):
    raise ValueError(
      f"--factors takes numbers of at least 1 such as 1,2,4, got {text!r}. "
      "Separate them by commas only."
    )
  return tuple(found)
