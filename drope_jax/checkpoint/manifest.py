"""The manifest of a checkpoint: what the arrays are, and how they came to be.

JSON on disk, frozen dataclasses in memory. Keys match exactly, both ways: one
that is missing or unknown is an error that names it, so that a field is never
silently dropped or defaulted.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import math
from typing import Any

from drope_jax import positional
from drope_jax.checkpoint import revision
from drope_jax.model.config import ModelConfig

SCHEMA_VERSION = 1
"""Raise it when the manifest or `transformer.SCHEMA_VERSION` changes."""

HELD_OUT_LOSS = "held_out_loss"
"""The argument under which a training's entry has the loss that it left."""

_CLASS = "__class__"

_GAINED = {
  "ModelConfig": {"logit_scale_slope": None},
  "Yarn": {"length_factor": None, "truncate": True},
}
"""Fields that a class has gained, and what a manifest without them means."""


@dataclasses.dataclass(frozen=True)
class TokenizerRef:
  """Which tokenizer the model was trained with; the file lies beside.

  Attributes:
    filename: of the copy in the checkpoint's `tokenizer` folder.
    fingerprint: SHA-256 of the file's bytes, in hex.
    vocab_size: number of pieces.
  """

  filename: str
  fingerprint: str
  vocab_size: int


@dataclasses.dataclass(frozen=True)
class LineageEntry:
  """One operation in a checkpoint's history.

  Attributes:
    operation: "pretrain", "surgery", "recalibrate", "convert", ...
    arguments: JSON values, or frozen dataclasses, which are encoded here.
    parent: path or fingerprint of the checkpoint it started from; None for
      one that started from random weights.
    tokens: trained on in the whole history, up to and with this operation.
    steps: optimizer steps, counted likewise.
    code: package version and git revision, see `revision.describe`.
    time: ISO 8601, when the entry was written.
  """

  operation: str
  arguments: Mapping[str, Any]
  parent: str | None
  tokens: int
  steps: int
  code: str
  time: str

  def __post_init__(self):
    if self.tokens < 0 or self.steps < 0:
      raise ValueError(
        "LineageEntry counts from the start of training, so tokens and steps "
        f"must be 0 or more, got {self.tokens} and {self.steps}. Pass totals."
      )
    object.__setattr__(self, "arguments", encode(dict(self.arguments)))


@dataclasses.dataclass(frozen=True)
class Manifest:
  """All of a checkpoint but its arrays.

  Attributes:
    model: the config whose `param_shapes` the arrays match.
    tokenizer: None for a model without text, as in tests.
    lineage: oldest first. Grows by `appended`; entries are never rewritten.
    schema_version: see `SCHEMA_VERSION`.
  """

  model: ModelConfig
  tokenizer: TokenizerRef | None = None
  lineage: tuple[LineageEntry, ...] = ()
  schema_version: int = SCHEMA_VERSION

  def __post_init__(self):
    if self.tokenizer and self.tokenizer.vocab_size > self.model.vocab_size:
      raise ValueError(
        "A model needs a row for each of its tokenizer's pieces, got "
        f"ModelConfig.vocab_size={self.model.vocab_size} for "
        f"{self.tokenizer.vocab_size} pieces of {self.tokenizer.filename}. "
        "Use the tokenizer that the model was trained with."
      )
    for before, after in zip(self.lineage, self.lineage[1:], strict=False):
      if after.tokens < before.tokens or after.steps < before.steps:
        raise ValueError(
          "Lineage totals must not fall, got "
          f"{before.tokens} tokens, {before.steps} steps at "
          f"{before.operation!r}, then {after.tokens}, {after.steps} at "
          f"{after.operation!r}. Pass totals, not one operation's share."
        )

  @property
  def unused_ids(self) -> int:
    """How many of the model's ids are beyond its tokenizer's, if it has one."""
    if self.tokenizer is None:
      return 0
    return self.model.vocab_size - self.tokenizer.vocab_size

  @property
  def held_out(self) -> tuple[str, float] | None:
    """The last operation and the held-out loss that it left, if it is known."""
    if not self.lineage or HELD_OUT_LOSS not in self.lineage[-1].arguments:
      return None
    last = self.lineage[-1]
    return last.operation, last.arguments[HELD_OUT_LOSS]

  def appended(
    self, entry: LineageEntry, model: ModelConfig | None = None
  ) -> "Manifest":
    """Returns a manifest with one entry more and, if given, a new config."""
    return dataclasses.replace(
      self, model=model or self.model, lineage=(*self.lineage, entry)
    )

  def after(
    self,
    operation: str,
    arguments: Mapping[str, Any],
    parent: str | None,
    *,
    model: ModelConfig | None = None,
    steps: int = 0,
    tokens: int = 0,
  ) -> "Manifest":
    """Returns the manifest of what an operation of this code has just made.

    Args:
      operation, arguments, parent: as in `LineageEntry`.
      model: its config, where the operation changed it.
      steps, tokens: of training, in the operation alone.
    """
    last = self.lineage[-1] if self.lineage else None
    entry = LineageEntry(
      operation=operation,
      arguments=arguments,
      parent=parent,
      tokens=tokens + (last.tokens if last else 0),
      steps=steps + (last.steps if last else 0),
      code=revision.describe(),
      time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return self.appended(entry, model)

  def to_json(self) -> dict[str, Any]:
    """Returns dicts, lists and scalars; floats survive `json` bit for bit."""
    return {
      "schema_version": self.schema_version,
      "model": encode(self.model),
      "tokenizer": self.tokenizer and dataclasses.asdict(self.tokenizer),
      "lineage": [dataclasses.asdict(entry) for entry in self.lineage],
    }

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
    """Returns the manifest that `to_json` turned into `data`.

    Raises:
      ValueError: a newer schema version; missing or unknown keys or classes.
    """
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
      raise ValueError(
        f"This drope_jax reads manifests of schema_version {SCHEMA_VERSION}, "
        f"got {version!r}. Install the drope_jax that wrote the checkpoint, "
        "named last in its lineage, or a newer one."
      )
    _check_keys(cls, data)
    tokenizer = data["tokenizer"]
    return cls(
      model=decode(data["model"]),
      tokenizer=tokenizer and _build(TokenizerRef, tokenizer),
      lineage=tuple(_build(LineageEntry, entry) for entry in data["lineage"]),
      schema_version=version,
    )


def encode(value: Any) -> Any:
  """Returns `value` in JSON types; dataclasses carry their class's name.

  Raises:
    ValueError: a float that JSON cannot hold, or a type other than scalars,
      lists, tuples, dicts with string keys, and dataclasses of these.
  """
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    data = {f.name: encode(getattr(value, f.name)) for f in fields}
    return {_CLASS: type(value).__name__} | data
  if isinstance(value, (list, tuple)):
    return [encode(item) for item in value]
  if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
    return {key: encode(item) for key, item in value.items()}
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float) and math.isfinite(value):
    return value
  raise ValueError(
    "A manifest holds finite scalars, tuples, string-keyed dicts and "
    f"dataclasses of them, got {value!r}. Convert it first."
  )


def decode(data: Any) -> Any:
  """Returns what `encode` was given; lists come back as tuples.

  Raises:
    ValueError: a class that is neither `ModelConfig` nor in
      `positional.CATALOGUE`; missing or unknown fields.
  """
  if isinstance(data, list):
    return tuple(decode(item) for item in data)
  if not isinstance(data, dict):
    return data
  classes = {**positional.CATALOGUE, ModelConfig.__name__: ModelConfig}
  name = data.get(_CLASS)
  if name not in classes:
    raise ValueError(
      f"A manifest's {_CLASS} must be one of {', '.join(sorted(classes))}, "
      f"got {name!r}. Install the drope_jax that wrote the checkpoint."
    )
  fields = {key: decode(item) for key, item in data.items() if key != _CLASS}
  return _build(classes[name], _GAINED.get(name, {}) | fields)


def _build(cls, fields):
  _check_keys(cls, fields)
  try:
    return cls(**fields)
  except (AttributeError, TypeError) as error:
    raise ValueError(
      f"{cls.__name__} in a manifest needs values of its fields' types, got "
      f"{fields} ({error}). Copy the checkpoint again."
    ) from error


def _check_keys(cls, fields):
  expected = {field.name for field in dataclasses.fields(cls)}
  missing = sorted(expected - set(fields))
  unknown = sorted(set(fields) - expected)
  if missing or unknown:
    raise ValueError(
      f"{cls.__name__} in a manifest needs its exact keys, got "
      f"missing: {', '.join(missing) or 'none'}; "
      f"unknown: {', '.join(unknown) or 'none'}. "
      "Install the drope_jax that wrote the checkpoint."
    )
