import dataclasses

from drope_jax.analysis import outline


@dataclasses.dataclass(frozen=True)
class Adam:
  b2: float = 0.999
  decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Phase:
  steps: int
  stores: tuple[str, ...] = ("text",)
  optimizer: Adam = Adam()
  name: str = "pretrain"
  limits: tuple[float, ...] = dataclasses.field(default_factory=tuple)


def _phase(**changes):
  return {
    "__class__": "Phase",
    "steps": 3,
    "stores": ["text"],
    "optimizer": {"__class__": "Adam", "b2": 0.999, "decay": 0.0},
    "name": "pretrain",
    "limits": [],
  } | changes


def test_each_field_is_a_line():
  fields = {"seed": 0, "phase": _phase(), "stores": {"text": "ab"}}
  assert outline.rows(fields) == [
    ("seed", "0"),
    ("phase", "Phase"),
    ("phase.steps", "3"),
    ("phase.stores", "('text',)"),
    ("phase.optimizer", "Adam(b2=0.999, decay=0.0)"),
    ("phase.name", "pretrain"),
    ("phase.limits", "()"),
    ("stores.text", "ab"),
  ]


def test_defaults_are_left_out():
  classes = (Phase, Adam)
  assert outline.rows({"phase": _phase()}, classes) == [
    ("phase", "Phase"),
    ("phase.steps", "3"),
  ]
  other = {"__class__": "Adam", "b2": 0.95, "decay": 0.0}
  changed = _phase(optimizer=other, stores=["text", "more"], limits=[1.0])
  assert outline.rows({"phase": changed}, classes)[2:] == [
    ("phase.stores", "('text', 'more')"),
    ("phase.optimizer", "Adam(b2=0.95)"),
    ("phase.limits", "(1.0,)"),
  ]


def test_a_field_that_the_class_does_not_have_is_shown():
  found = outline.rows({"phase": _phase(was="here")}, (Phase,))
  assert ("phase.was", "here") in found


def test_values_are_as_python_writes_them():
  value = [{"__class__": "Nope"}, None, "a", {"k": [1, True]}]
  assert outline.spell(value) == "(Nope(), None, 'a', {'k': (1, True)})"


def test_what_a_class_does_not_have_by_default_is_told():
  optimizer = {"b2": 0.999, "decay": 0.0}  # As dataclasses.asdict has it.
  fields = {"steps": 3, "stores": ["text"], "optimizer": optimizer}
  assert outline.changed(fields, Phase) == [("steps", "3")]
