"""The manifest of a checkpoint: its config, tokenizer and history.

It is JSON on disk and frozen dataclasses in memory. `artifacts` reads the
manifests of earlier versions.
"""

from collections.abc import Mapping
import dataclasses
import datetime
from typing import Any

from drope_jax import artifacts, positional, revision
from drope_jax.model.config import LayerGroup, ModelConfig

HELD_OUT_LOSS = "held_out_loss"
"""The argument of a training's entry that holds its final held-out loss."""

BEST_BY = "best_by"
"""The argument that holds the score by which a training's best is chosen."""

FITTED_SLOPE = "logit_scale_slope"
"""The operation that fits the slope of the softmax scale, and no weights."""


@dataclasses.dataclass(frozen=True)
class TokenizerRef:
  """The tokenizer that the model was trained with; its file is saved too.

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
    parent: path or fingerprint of the checkpoint that the operation started
      from; None if it started from random weights.
    tokens: trained on since the random weights, this operation included.
    steps: optimizer steps, counted in the same way.
    code: package version and git revision, see `revision.describe`.
    time: when the entry was written, ISO 8601.
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
        f"must be at least 0, got {self.tokens} and {self.steps}. Pass totals."
      )
    object.__setattr__(
      self, "arguments", artifacts.encode(dict(self.arguments))
    )


@dataclasses.dataclass(frozen=True)
class Manifest:
  """A checkpoint's config, tokenizer and history.

  Attributes:
    model: the config; the arrays match its `param_shapes`.
    tokenizer: None for a model without text, for example in tests.
    lineage: oldest first. `appended` adds entries; they are never changed.
  """

  model: ModelConfig
  tokenizer: TokenizerRef | None = None
  lineage: tuple[LineageEntry, ...] = ()

  def __post_init__(self):
    if self.tokenizer and self.tokenizer.vocab_size > self.model.vocab_size:
      raise ValueError(
        "A model needs an id for each of its tokenizer's pieces, got "
        f"ModelConfig.vocab_size={self.model.vocab_size} for "
        f"{self.tokenizer.vocab_size} pieces of {self.tokenizer.filename}. "
        "Use the tokenizer that the model was trained with."
      )
    for before, after in zip(self.lineage, self.lineage[1:], strict=False):
      if after.tokens < before.tokens or after.steps < before.steps:
        raise ValueError(
          "Lineage totals must not decrease, got "
          f"{before.tokens} tokens, {before.steps} steps at "
          f"{before.operation!r}, then {after.tokens}, {after.steps} at "
          f"{after.operation!r}. Pass totals, not one operation's share."
        )

  @property
  def unused_ids(self) -> int:
    """How many ids the model has beyond its tokenizer's; 0 without one."""
    if self.tokenizer is None:
      return 0
    return self.model.vocab_size - self.tokenizer.vocab_size

  @property
  def unfitted(self) -> "Manifest":
    """The manifest of the same weights before a slope was fitted to them."""
    return dataclasses.replace(
      self,
      model=dataclasses.replace(self.model, logit_scale_slope=None),
      lineage=tuple(e for e in self.lineage if e.operation != FITTED_SLOPE),
    )

  @property
  def held_out(self) -> tuple[str, float] | None:
    """The last operation on the weights, and what its best save has least of.

    That is the score of `BEST_BY`, less than 0 where more of it is better, or
    else the held-out loss. None: it is not known.
    """
    changes = self.unfitted.lineage
    if not changes:
      return None
    last = changes[-1]
    value = last.arguments.get(HELD_OUT_LOSS)
    if (best := last.arguments.get(BEST_BY)) is not None:
      value = best["value"]
      if value is not None and best["higher_is_better"]:
        value = -value
    return None if value is None else (last.operation, value)

  def appended(
    self, entry: LineageEntry, model: ModelConfig | None = None
  ) -> "Manifest":
    """Returns a manifest with one more entry and, if given, a new config."""
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
    """Returns a manifest to which an operation of the running code is added.

    Args:
      operation, arguments, parent: as in `LineageEntry`.
      model: the new config, if the operation changed it.
      steps, tokens: trained in this operation alone.
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
      "schema_version": artifacts.VERSION,
      "model": artifacts.encode(self.model),
      "tokenizer": self.tokenizer and dataclasses.asdict(self.tokenizer),
      "lineage": [dataclasses.asdict(entry) for entry in self.lineage],
    }

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> "Manifest":
    """Returns the manifest from `to_json` of this or an earlier version.

    Raises:
      ValueError: a field is missing, or of another type.
      artifacts.UnknownVersionError: a later version wrote it; the message names
        that version.
    """
    fields, writer = artifacts.migrate(cls.__name__, data, _last_code(data))
    fields = artifacts.fill_defaults(cls, fields, writer)
    classes: dict[str, type] = dict(positional.CATALOGUE)
    classes |= {cls.__name__: cls for cls in (LayerGroup, ModelConfig)}
    tokenizer = fields["tokenizer"]
    return cls(
      model=artifacts.decode(fields["model"], classes, writer),
      tokenizer=tokenizer and artifacts.build(TokenizerRef, tokenizer, writer),
      lineage=tuple(
        artifacts.build(LineageEntry, entry, writer)
        for entry in fields["lineage"]
      ),
    )


def _last_code(data: Any) -> str | None:
  """Returns the code version of the last lineage entry, if there is one."""
  match data:
    case {"lineage": [*_, {"code": code}]}:
      return code
  return None
