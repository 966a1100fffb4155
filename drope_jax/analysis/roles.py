"""Which of the evaluated models is which, and what each name stands for."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from drope_jax.analysis import palette, runs

COLUMNS = ("name", "what it is", "softmax scale")
"""Of `explain`."""

_BASES = ("base", "rope")
_CONTINUED = ("continued",)
_DROPPED = ("live", "partial", "full", "drope", "dropped")
_PARTLY = ("Nope", "PartialRope", "Pattern")
_WAYS = {
  "rope": "{model}, its RoPE as it is",
  "pi": "{model}, every frequency of its RoPE divided by the length factor "
  "(position interpolation)",
  "ntk": "{model}, its RoPE's theta raised with the length, so that slow "
  "frequencies give way more than fast ones (NTK-aware)",
  "yarn": "{model}, only the slow frequencies of its RoPE divided, and its "
  "logits sharpened (YaRN)",
  "crop": "{model}, of each text only the end that the context has room for",
}


class Roles(NamedTuple):
  """Names of models in a comparison.

  Attributes:
    base: the RoPE model that the others came from; None where there is none.
    continued: it, trained on with RoPE; None where there is none.
    dropped: those that came from it with fewer positions, or none.
  """

  base: str | None
  continued: str | None
  dropped: tuple[str, ...]

  @property
  def reference(self) -> str | None:
    """What a dropped model is to equal within the trained context."""
    return self.continued or self.base


def find(run: runs.Run) -> Roles:
  """Returns the roles of a run's models.

  Known names decide, then manifests: plain Rope, Rope trained on from there,
  and positions that a surgery took.
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
  base = (bases or [None])[0]
  continued = [n for n in _CONTINUED if n in names]
  continued += [n for n in plain if base and _is_from(run, n, base)]
  dropped = [n for n in _DROPPED if n in names]
  dropped += [
    n for n in manifests if was_cut[n] and _scheme(manifests[n]) in _PARTLY
  ]
  return Roles(base, (continued or [None])[0], tuple(dict.fromkeys(dropped)))


def explain(run: runs.Run) -> list[tuple[str, str, str]]:
  """Returns a table's rows under `COLUMNS`: each name, and what it is.

  A model without a manifest is left out.
  """
  base = find(run).base
  found = []
  for model, method in dict.fromkeys(
    (row["model"], row["method"]) for row in run.rows
  ):
    manifest = run.manifest(model)
    if not manifest:
      continue
    if method == "model":
      what = _what(run, model, base)
    else:
      what = _WAYS.get(method, "{model}, read by {method}").format(
        model=model, method=method
      )
    slope = manifest["model"].get("logit_scale_slope")
    scale = "none" if slope is None else f"1 + {slope:.2g} ln s"
    found.append((palette.label(model, method), what, scale))
  return found


def tokens_since(run: runs.Run, model: str, base: str) -> tuple[int, int]:
  """Returns the tokens that trained `base`, and then `model` from there.

  Both are 0 where the manifests do not say that the model came from the base.
  """
  if not _is_from(run, model, base):
    return 0, 0
  before = _tokens(run.manifest(base))
  return before, _tokens(run.manifest(model)) - before


def count(tokens: int) -> str:
  """Returns a number of tokens in few digits."""
  return f"{tokens / 1e6:,.3g}M" if tokens >= 1e6 else f"{tokens:,}"


def _what(run, model, base):
  manifest = run.manifest(model)
  positions = _positions(manifest["model"])
  _, more = tokens_since(run, model, base) if base else (0, 0)
  if more:
    said = f"{base}, trained on for {count(more)} tokens with {positions}"
    return f"{said}, taught by {base}" if _taught(manifest) else said
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
  """Whether its last training had a teacher."""
  phase = manifest["lineage"][-1].get("arguments", {}).get("phase", {})
  return phase.get("teacher") is not None


def _tokens(manifest):
  lineage = manifest["lineage"]
  return lineage[-1]["tokens"] if lineage else 0


def _is_from(run, model, base):
  """Whether the model's lineage goes on where the base's ends."""
  start, whole = (run.manifest(n).get("lineage") for n in (base, model))
  return (
    bool(start) and whole[: len(start)] == start and len(whole) > len(start)
  )
