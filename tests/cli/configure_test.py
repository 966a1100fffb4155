import dataclasses
import pathlib
import subprocess
import sys
import typing
from typing import Literal, Protocol

import pytest

from drope_jax.cli import configure, field_types


class Curve(Protocol):
  def at(self, step: int) -> float: ...


@dataclasses.dataclass(frozen=True)
class Constant:
  peak: float = 1.0

  def at(self, step: int) -> float:
    return self.peak


@dataclasses.dataclass(frozen=True)
class Phase:
  steps: int
  curve: Curve = Constant()
  kind: Literal["pretrain", "recalibrate"] = "pretrain"
  layers: tuple[int, ...] = ()
  note: str | None = None
  masked: bool = False

  def __post_init__(self):
    if self.steps < 1:
      raise ValueError(f"Phase needs at least 1 step, got {self.steps}.")


@dataclasses.dataclass(frozen=True)
class Plan:
  phases: tuple[Phase, ...]
  seed: int = 0


CLASSES = (Plan, Phase, Constant)

PHASES = """
STEPS = 100
Plan.phases = [@Phase(), @recalibrate/Phase(), @drop/Phase()]
Phase.steps = %STEPS
Phase.curve = @Constant()
Constant.peak = 3
recalibrate/Phase.steps = 10
recalibrate/Constant.peak = 0.5
drop/Phase.steps = 1
drop/Phase.curve = @slow/Constant()
slow/Constant.peak = 0.1
"""


@pytest.fixture
def build(tmp_path):
  def build_text(text, overrides=(), root=Plan):
    file = tmp_path / "plan.gin"
    file.write_text(text)
    return configure.build(str(file), root, overrides, classes=CLASSES)

  return build_text


def test_scopes_macros_and_references_mean_the_same_as_in_gin(tmp_path):
  """The reference is gin itself, in its own process for its registry."""
  file = tmp_path / "plan.gin"
  file.write_text(PHASES)
  source = """
import dataclasses, sys, typing
import gin
@gin.configurable
@dataclasses.dataclass(frozen=True)
class Constant:
  peak: float = 1.0
@gin.configurable
@dataclasses.dataclass(frozen=True)
class Phase:
  steps: int
  curve: typing.Any = None
@gin.configurable
@dataclasses.dataclass(frozen=True)
class Plan:
  phases: typing.Any
gin.parse_config_file(sys.argv[1])
print([(phase.steps, phase.curve.peak) for phase in Plan().phases])
"""
  ran = subprocess.run(
    [sys.executable, "-c", source, str(file)],
    capture_output=True,
    text=True,
    check=True,
  )
  plan = configure.build(str(file), Plan, classes=CLASSES)
  got = [(phase.steps, phase.curve.peak) for phase in plan.phases]
  assert got == [(100, 3.0), (10, 0.5), (1, 0.1)]
  assert ran.stdout.strip() == str(got).replace("3.0", "3")


def test_an_int_becomes_a_float_for_a_float_field(build):
  plan = build(PHASES)
  assert type(plan.phases[0].curve.peak) is float
  assert type(plan.phases[0]) is Phase
  assert type(plan.phases) is tuple


def test_two_configs_in_one_process_are_independent(build):
  first = build("Plan.phases = [@Phase()]\nPhase.steps = 1\nPhase.note = 'a'")
  second = build("Plan.phases = [@Phase()]\nPhase.steps = 2")
  assert first.phases == (Phase(steps=1, note="a"),)
  assert second.phases == (Phase(steps=2),)


def test_an_override_replaces_the_files_binding(build):
  plan = build(PHASES, ["STEPS = 7", "recalibrate/Phase.note = 'x'"])
  assert [phase.steps for phase in plan.phases] == [7, 10, 1]
  assert [phase.note for phase in plan.phases] == [None, "x", None]


def test_include_is_relative_to_its_own_file(tmp_path, monkeypatch):
  (tmp_path / "models").mkdir()
  (tmp_path / "recipes").mkdir()
  (tmp_path / "models/base.gin").write_text("include 'more.gin'")
  (tmp_path / "models/more.gin").write_text("Phase.steps = 3")
  recipe = tmp_path / "recipes/plan.gin"
  recipe.write_text(
    "include '../models/base.gin'\nPlan.phases = (@Phase(),)\nPlan.seed = 5"
  )
  monkeypatch.chdir("/")
  plan = configure.build(str(recipe), Plan, classes=CLASSES)
  assert plan == Plan((Phase(steps=3),), seed=5)


def test_a_block_binds_each_of_its_lines(build):
  plan = build("Plan.phases = [@Phase()]\nPhase:\n  steps = 4\n  masked = True")
  assert plan.phases == (Phase(steps=4, masked=True),)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Phse.steps = 1", r":3: no class 'Phse' .* did you mean 'Phase'\?"),
    ("Phase.step = 1", r":3: Phase has no field 'step'; .* 'steps'\?"),
    ("Plan.seed = @Phases()", r"no class 'Phases' .* mean 'Phase'\?"),
    ("Plan.seed = @Phase", r"needs an instance.* Write @Phase\(\)"),
    ("Plan.seed = @Phase()", r":3: Plan.seed must be int, got Phase\("),
    ("Plan.seed = @Plan()", r":3: @Plan is a part of itself"),
    ("Plan.seed = %SED\nSEED = 1", r":3: .* %SED .* mean 'SEED'\?"),
    ("A = %B\nB = %A\nPlan.seed = %A", r":4: %A is a part of itself"),
    ("Plan.seed = '5'", r":3: Plan.seed must be int, got '5'"),
    ("Plan.seed = True", r"Plan.seed must be int, got True"),
    ("Plan.seed = 1e6", r"must be int, got 1000000.0. Write 1000000"),
    ("Plan.seed = None", r"Plan.seed must be int, got None"),
    ("Phase.masked = 1", r"Phase.masked must be bool, got 1"),
    ("Phase.note = 1", r"Phase.note must be str or None, got 1"),
    ("Phase.layers = (1, 'a')", r"Phase.layers must be int, got 'a'"),
    ("Phase.layers = 1", r"must be a tuple of int, got 1. Write \(1,\)$"),
    ("Phase.layers = ('a')", r"must be a tuple of int, got 'a'$"),
    ("Phase.kind = 'train'", r"one of 'pretrain', 'recalibrate', got 'train'"),
    ("Phase.curve = @Plan()", r"is a part of itself"),
    ("Phase.curve = 3", r"Phase.curve must be Curve, got 3"),
    ("Phase.steps = 0", r"plan.gin: Phase needs at least 1 step, got 0"),
    ("Phase.note = text", r":3: cannot read 'Phase.note = text'"),
    ("Plan.seed 3", r":3: cannot read 'Plan.seed 3'"),
    ("Phase.layers = (1,", r"plan.gin:\d: .* Close the bracket"),
    ("import os", r":3: a config cannot import os"),
    ("include 'none.gin'", r":3: the included file .*none.gin does not exist"),
    ("include 'plan.gin'", r":3: .*plan.gin includes itself"),
    ("other/Phase.steps = 3", r":3: other/Phase.steps changes nothing"),
    ("Constant.peak = 3.0", r":3: Constant.peak changes nothing"),
    ("PEAK = 3.0", r":3: %PEAK changes nothing"),
  ],
)
def test_a_mistake_is_located_and_explained(build, text, expected):
  base = "Plan.phases = [@Phase()]\nPhase.steps = 1\n"
  assert build(base).phases[0].steps == 1, "the base must be right"
  with pytest.raises((ValueError, FileNotFoundError), match=expected):
    build(base + text)


def test_a_mistake_in_an_override_names_it(build):
  with pytest.raises(ValueError, match=r"--set 'Phase.step=1': Phase has no"):
    build(PHASES, ["Phase.step=1"])
  with pytest.raises(ValueError, match="--set .* got an include. Put it"):
    build(PHASES, ["include 'more.gin'"])
  with pytest.raises(ValueError, match="cannot read .* text in quotes"):
    build(PHASES, ["Phase.note=hello"])


def test_an_override_hidden_by_an_inner_scope_is_refused(build):
  text = "Plan.phases = [@a/Phase()]\na/Phase.steps = 1"
  with pytest.raises(ValueError, match="--set 'Phase.steps=9': .* inner scope"):
    build(text, ["Phase.steps=9"])


def test_bindings_of_a_replaced_part_are_allowed(build):
  (phase,) = build(PHASES, ["Plan.phases = [@drop/Phase()]"]).phases
  assert phase == Phase(steps=1, curve=Constant(0.1))
  text = f"{PHASES}\nLATER = @later/Phase()\nPlan.phases = [%LATER]\n"
  curve = "later/Phase.curve = @fast/Constant()\nfast/Constant.peak = 9.0\n"
  assert build(text + curve).phases[0].curve == Constant(9.0)
  assert build(text + curve + "Plan.phases = [@drop/Phase()]").phases == (
    phase,
  )


def test_bindings_that_a_replaced_part_did_not_use_are_refused(build):
  with pytest.raises(ValueError, match=r"--set 'fast/Constant.peak = 9.0': "):
    build(PHASES, ["Plan.phases = [@Phase()]", "fast/Constant.peak = 9.0"])


def test_a_required_field_without_a_value_is_named(build):
  with pytest.raises(ValueError, match=r"a/Phase needs a value for steps"):
    build("Plan.phases = [@a/Phase()]")


def test_a_config_of_another_class_is_refused(build):
  message = r"plan.gin: a config of a Plan is required, got .* binds Phase, Con"
  with pytest.raises(ValueError, match=message) as refused:
    build("Phase.steps = 1\nPhase.curve = @Constant()\nConstant.peak = 1.0")
  assert "Phase.steps" not in str(refused.value), "it lists every line"


def test_a_file_without_bindings_gives_the_defaults(build):
  assert build("", root=Constant) == Constant()


def test_text_that_is_not_utf_8_is_located(build, tmp_path):
  text = b"\nPlan.phases = [@Phase()]  # caf\xe9\nPhase.steps = 1\n"
  (tmp_path / "more.gin").write_bytes(text)
  message = (
    r"more.gin:2: a config must be UTF-8 text, got the byte 0xe9\. Save it"
  )
  with pytest.raises(ValueError, match=message):
    build("include 'more.gin'")
  (tmp_path / "more.gin").write_text(text.decode("latin-1"), encoding="utf-8")
  assert build("include 'more.gin'").phases[0].steps == 1


def test_a_shipped_config_is_found_by_name_from_any_folder(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert configure.locate("models/tiny.gin").is_file()


def test_a_users_file_comes_before_a_shipped_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "models").mkdir()
  (tmp_path / "models/tiny.gin").write_text("")
  assert configure.locate("models/tiny.gin") == pathlib.Path("models/tiny.gin")


def test_a_path_that_does_not_exist_is_refused():
  with pytest.raises(FileNotFoundError, match="none.gin is neither a file"):
    configure.locate("models/none.gin")


def test_no_two_classes_share_a_name():
  names = [cls.__name__ for cls in configure.CLASSES]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize("cls", configure.CLASSES)
def test_a_class_is_frozen_and_its_defaults_have_its_types(cls):
  assert cls.__dataclass_params__.frozen
  hints = typing.get_type_hints(cls)
  for field in dataclasses.fields(cls):
    if field.default is not dataclasses.MISSING:
      checked = field_types.check(field.default, hints[field.name])
      assert checked == field.default
