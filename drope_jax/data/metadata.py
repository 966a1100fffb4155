"""`metadata.json` of a token store, with its checksum."""

import dataclasses
import hashlib
import json
import typing
from typing import Any

import numpy as np

from drope_jax import artifacts

FILE = "metadata.json"
_MAX_VOCAB_SIZE = 1 << 31  # Ids are read as int32.


@dataclasses.dataclass(frozen=True)
class Metadata:
  """The content of `metadata.json`, without its version and checksum.

  Attributes:
    num_tokens: including the EOS that ends each document.
    num_documents: at least 1.
    vocab_size: of the tokenizer.
    eos_id: of the tokenizer.
    tokenizer_fingerprint: sha256 of the tokenizer file, in hex.
    fingerprint: sha256 of the tokens (little-endian, as stored), then of the
      boundaries, in hex.
    plan: sha256 of the inputs: the tokenizer and the identities of the sources.
    file_bytes: the size of each file of the arrays, by its path in the store.
    skipped: how many documents were left out: "null" text, "bad" ones that
      could not be read, "empty" ones without a token.
    provenance: which model sampled the documents, and how; empty if they were
      not sampled.
  """

  num_tokens: int
  num_documents: int
  vocab_size: int
  eos_id: int
  tokenizer_fingerprint: str
  fingerprint: str
  plan: str
  file_bytes: dict[str, int]
  skipped: dict[str, int] = dataclasses.field(default_factory=dict)
  provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      kind = typing.get_origin(field.type) or field.type
      counts = field.type == dict[str, int]
      if type(value) is not kind or (
        counts and any(type(count) is not int for count in value.values())
      ):
        raise TypeError(f"{field.name} of {value!r}")
    if not 0 < self.num_documents <= self.num_tokens:
      raise ValueError(
        f"{self.num_tokens} tokens in {self.num_documents} documents"
      )
    if not 0 <= self.eos_id < self.vocab_size <= _MAX_VOCAB_SIZE:
      raise ValueError(
        f"eos_id {self.eos_id} in a vocabulary of {self.vocab_size}"
      )


def token_dtype(vocab_size: int) -> np.dtype:
  """Returns the dtype in which token ids below `vocab_size` are stored."""
  return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def encode(metadata: Metadata) -> bytes:
  """Returns the content of `metadata.json`."""
  fields = artifacts.stamp(dataclasses.asdict(metadata))
  return json.dumps(fields | {"checksum": _checksum(fields)}).encode()


def decode(data: bytes) -> Metadata:
  """Returns what `encode` was given; reads earlier versions too.

  Raises:
    ValueError, TypeError: the data are incomplete, or were changed.
    artifacts.UnknownVersionError: a later version wrote them.
  """
  try:
    fields = dict(json.loads(data))
  except RecursionError as error:
    raise ValueError("JSON nested too deep") from error
  checksum = fields.pop("checksum", None)
  migrated, writer = artifacts.migrate(Metadata.__name__, fields)
  # The first version had no checksum.
  if writer.version > 1 and checksum != _checksum(fields):
    raise ValueError("values that do not match its checksum")
  return Metadata(**artifacts.fill_defaults(Metadata, migrated, writer))


def _checksum(fields: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
