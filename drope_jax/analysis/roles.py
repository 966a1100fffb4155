"""The roles of the evaluated models, and what each name means."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from drope_jax.analysis import methods, palette, runs

COLUMNS = ("name", "what it is", "softmax scale")
"""Column titles of `explain`."""

_BASES = ("base", "rope")
_CONTINUED = ("continued",)
_DROPPED = ("live", "partial", "full", "drope", "dropped")
_PARTLY = ("Nope", "PartialRope", "Pattern")


class Roles(NamedTuple):
  """Names of models in a comparison.

  Attributes:
    base: the RoPE model that the others started from; None if there is none.
    continued: the base after more training with RoPE; None if there is none.
    dropped: models that started from the base, with fewer positions or none.
  """

  base: str | None
  continued: str | None
  dropped: tuple[str, ...]

  @property
  def reference(self) -> str | None:
    """The model that a dropped one should equal within the trained context."""
    return self.continued or self.base


def find(run: runs.Run) -> Roles:
  """Returns the roles of a run's models.

  Known names decide first. Then manifests do: a plain Rope is a base, Rope
  trained from there is continued, and a surgery on positions makes it dropped.
  """
  names = list(dict.fromkeys(row["model"] for row in run.rows))
  manifests = {n: run.manifest(n) for n in names if run.manifest(n)}
  was_cut = {
    name: any(e["operation"] == "surgery" for e in manifest["lineage"])
    for name, manifest in manifests.items()
  }
  plain = [
    n for n in manifests if _scheme(manifests[n]) == "Rope" and not was_cut[n]
  ]
  bases = [n for n in _BASES if n in names]
  bases += sorted(plain, key=lambda n: _tokens(manifests[n]))
  base = next(iter(bases), None)
  continued = [n for n in _CONTINUED if n in names]
  continued += [n for n in plain if base and _is_from(run, n, base)]
  dropped = [n for n in _DROPPED if n in names]
  dropped += [
    n for n in manifests if was_cut[n] and _scheme(manifests[n]) in _PARTLY
  ]
  return Roles(base, next(iter(continued), None), tuple(dict.fromkeys(dropped)))


def explain(run: runs.Run) -> list[tuple[str, str, str]]:
  """Returns rows for a table with `COLUMNS`: each name and its meaning.

  Models without a manifest are left out.
  """
  base = find(run).base
  rows = []
  for model, method in dict.fromkeys(
    (row["model"], row["method"]) for row in run.rows
  ):
    manifest = run.manifest(model)
    if not manifest:
      continue
    if method == "model":
      what = _what(run, model, base)
    else:
      known = methods.METHODS.get(method)
      words = known.what if known else "{model}, evaluated with {method}"
      what = words.format(model=model, method=method)
    slope = manifest["model"].get("logit_scale_slope")
    scale = "none" if slope is None else f"1 + {slope:.2g} ln s"
    rows.append((palette.label(model, method), what, scale))
  return rows


def tokens_since(run: runs.Run, model: str, base: str) -> tuple[int, int]:
  """Returns the training tokens of `base`, and of `model` since then.

  Both are 0 if the manifests do not say that the model started from the base.
  """
  if not _is_from(run, model, base):
    return 0, 0
  before = _tokens(run.manifest(base))
  return before, _tokens(run.manifest(model)) - before


def count(tokens: int) -> str:
  """Returns a number of tokens with few digits."""
  return f"{tokens / 1e6:,.3g}M" if tokens >= 1e6 else f"{tokens:,}"


def _what(run, model, base):
  manifest = run.manifest(model)
  positions = _positions(manifest["model"])
  _, more = tokens_since(run, model, base) if base else (0, 0)
  if more:
    text = f"{base}, trained for {count(more)} more tokens with {positions}"
    return f"{text}, with {base} as teacher" if _taught(manifest) else text
  total = _tokens(manifest)
  trained = f"trained on {count(total)} tokens" if total else "as imported"
  return f"a model with {positions}, {trained}"


def _positions(model: Mapping[str, Any]) -> str:
  scheme = model["positional"]
  match scheme["__class__"]:
    case "Nope":
      return "no positions"
    case "Rope":
      return "RoPE"
    case "PartialRope":
      of = model["head_dim"] // 2
      return f"RoPE in the {scheme['pairs']} fastest of {of} channel pairs"
    case "Pattern":
      return "positions that differ by layer"
  return f"{scheme['__class__']} positions"


def _scheme(manifest):
  return manifest["model"]["positional"]["__class__"]


def _taught(manifest):
  """Returns whether its last training had a teacher."""
  phase = manifest["lineage"][-1].get("arguments", {}).get("phase", {})
  return phase.get("teacher") is not None


def _tokens(manifest):
  lineage = manifest["lineage"]
  return lineage[-1]["tokens"] if lineage else 0


def _is_from(run, model, base):
  """Returns whether the model's lineage continues the base's."""
  start, whole = (run.manifest(n).get("lineage") for n in (base, model))
  if not start or not whole:
    return False
  return whole[: len(start)] == start and len(whole) > len(start)
