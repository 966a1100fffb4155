from drope_jax.analysis import roles, runs


def _manifest(scheme, *operations, slope=None):
  positional = {"__class__": scheme, "pairs": 6, "theta": 1e4}
  model = {
    "head_dim": 16,
    "positional": positional,
    "logit_scale_slope": slope,
  }
  lineage = [
    {
      "operation": name,
      "tokens": n,
      "arguments": {"phase": {"teacher": rest[0] if rest else None}},
    }
    for name, n, *rest in operations
  ]
  return {"manifest": {"model": model, "lineage": lineage}}


BASE = ("pretrain", 2_000_000)
CUT = ("surgery", 2_000_000)
LATER = ("recalibrate", 2_500_000)
MODELS = {
  "none": _manifest("Nope", BASE, CUT, LATER, slope=0.25),
  "further": _manifest("Rope", BASE, LATER),
  "start": _manifest("Rope", BASE),
  "some": _manifest("PartialRope", BASE, CUT, (*LATER, {"weight": 1.0})),
  "never": _manifest("Nope", BASE),
  "hidden": {},
}


def _run(*names, methods=("model",)):
  rows = [{"model": n, "method": m} for n in names for m in methods]
  models = {name: MODELS.get(name, {}) for name in names}
  return runs.Run("r", results={"rows": rows, "models": models})


def test_roles_are_found_from_manifests():
  found = roles.find(_run(*MODELS))
  assert found == roles.Roles("start", "further", ("none", "some"))
  assert found.reference == "further"


def test_a_base_is_no_continuation_of_itself():
  found = roles.find(_run("start", "none"))
  assert found == roles.Roles("start", None, ("none",))


def test_known_names_come_first_and_need_no_manifest():
  found = roles.find(_run("some", "full", "live", "base", "start"))
  assert found == roles.Roles("base", None, ("live", "full", "some"))
  assert found.reference == "base"


def test_a_comparison_without_a_base_has_no_roles():
  assert roles.find(_run("hidden")) == roles.Roles(None, None, ())


def test_rows_are_explained_from_manifests():
  explained = {name: rest for name, *rest in roles.explain(_run(*MODELS))}
  assert list(explained) == [name for name in MODELS if name != "hidden"]
  assert explained["start"] == [
    "a model with RoPE, trained on 2M tokens",
    "none",
  ]
  assert explained["some"][0] == (
    "start, trained for 500,000 more tokens with RoPE in the 6 fastest of 8 "
    "channel pairs, with start as teacher"
  )
  assert explained["none"] == [
    "start, trained for 500,000 more tokens with no positions",
    "1 + 0.25 ln s",
  ]
  assert (
    explained["never"][0] == "a model with no positions, trained on 2M tokens"
  )


def test_each_method_is_explained():
  methods = ("model", "rope", "pi", "ntk", "yarn", "crop")
  explained = roles.explain(_run("start", methods=methods))
  assert [row[0] for row in explained] == [
    "start",
    *(
      f"start · {method}" for method in ("RoPE", "PI", "NTK", "YaRN", "cropped")
    ),
  ]
  assert len({what for _, what, _ in explained}) == len(methods)
