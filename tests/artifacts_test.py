"""Each version reads the files of earlier ones, and names later ones."""

import dataclasses

import pytest

import drope_jax
from drope_jax import artifacts
from drope_jax.artifacts import Writer


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int
  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str
  inner: Inner
  others: tuple[Inner, ...] = ()
  sizes: tuple[int, ...] = dataclasses.field(default_factory=lambda: (1, 2))
  default: Inner = Inner(7)


OUTER = Outer("a", Inner(1), (Inner(2, 0.1),), (3,))
CLASSES = {"Outer": Outer, "Inner": Inner}
EARLIER = Writer(1, "0.0.1")


def _written_at(version, fields):
  return fields | {"schema_version": version, "code": "0.0.1"}


def test_a_written_file_is_read_with_its_writer():
  data = artifacts.stamp(artifacts.encode(OUTER))
  fields, writer = artifacts.migrate("Outer", data)
  assert artifacts.decode(fields, CLASSES, writer) == OUTER
  assert writer.version == artifacts.VERSION == data["schema_version"]
  assert writer.code.startswith(drope_jax.__version__)


def test_a_missing_field_has_its_default_at_any_depth():
  data = artifacts.encode(OUTER)
  del data["sizes"], data["default"], data["others"][0]["scale"]
  want = Outer("a", Inner(1), (Inner(2),))
  assert artifacts.decode(data, CLASSES, EARLIER) == want
  assert artifacts.fill_nested_defaults(
    data, OUTER, EARLIER
  ) == artifacts.encode(want)


def test_filling_defaults_keeps_class_tags():
  plain = artifacts.encode(OUTER, tagged=False)
  assert "__class__" not in str(plain)
  want = dict(plain)
  del plain["default"]
  assert artifacts.fill_nested_defaults(plain, OUTER, EARLIER) == want


def test_parts_of_another_class_or_length_are_unchanged():
  data = artifacts.encode(OUTER)
  other = {"__class__": "Sphere", "radius": 2.0}
  data |= {"inner": other, "others": [other, other]}
  found = artifacts.fill_nested_defaults(data, OUTER, EARLIER)
  assert (found["inner"], found["others"]) == (other, [other, other])


def test_a_missing_field_without_default_is_refused():
  with pytest.raises(ValueError, match="Inner needs size, got .* 0.0.1 "):
    artifacts.build(Inner, {"scale": 2.0}, EARLIER)


@pytest.mark.parametrize(
  "read",
  [
    lambda data: artifacts.decode(data, CLASSES, EARLIER),
    lambda data: artifacts.fill_nested_defaults(data, OUTER, EARLIER),
  ],
)
def test_the_error_for_an_unknown_field_names_the_writer(read):
  data = artifacts.encode(OUTER)
  data["others"][0]["shade"] = 1
  says = "Inner has no field shade, got a file of 0.0.1 "
  with pytest.raises(artifacts.UnknownVersionError, match=says):
    read(data)


def test_the_error_for_a_later_version_names_the_writer():
  data = _written_at(artifacts.VERSION + 1, {"code": "x"}) | {"code": "9.9"}
  says = r"a Outer file of 9.9 \(schema_version \d+\)\. Install"
  with pytest.raises(artifacts.UnknownVersionError, match=says):
    artifacts.migrate("Outer", data)


@pytest.mark.parametrize("data", [None, [], "text"])
def test_a_file_without_fields_is_refused(data):
  with pytest.raises(ValueError, match="Outer file must hold fields"):
    artifacts.migrate("Outer", data)
  with pytest.raises(ValueError, match="Inner must have fields"):
    artifacts.build(Inner, data, EARLIER)


@pytest.fixture
def migrations(monkeypatch):
  """Three versions: a rename, a move into a class, and a rename in it."""

  def renamed(old, new):
    def migrate(fields):
      return {new if key == old else key: v for key, v in fields.items()}

    return migrate

  def moved(fields):
    scale = fields.pop("scale")
    return fields | {"inner": fields["inner"] | {"factor": scale}}

  steps = {
    11: {"Outer": renamed("title", "name")},
    12: {"Outer": moved},
    13: {"Inner": renamed("factor", "scale")},
  }
  monkeypatch.setattr(artifacts, "VERSION", 13)
  monkeypatch.setattr(artifacts, "MIGRATIONS", steps)


INNER = {"__class__": "Inner", "size": 1}


@pytest.mark.parametrize(
  ("version", "fields"),
  [
    (10, {"title": "a", "scale": 2.0, "inner": INNER}),
    (11, {"name": "a", "scale": 2.0, "inner": INNER}),
    (12, {"name": "a", "inner": INNER | {"factor": 2.0}}),
    (13, {"name": "a", "inner": INNER | {"scale": 2.0}}),
  ],
)
@pytest.mark.parametrize("tag", [{}, {"__class__": "Outer"}])
def test_renamed_and_moved_fields_are_migrated(
  migrations, version, fields, tag
):
  data = _written_at(version, fields | tag)
  found, writer = artifacts.migrate("Outer", data)
  assert (writer.version, writer.code) == (version, "0.0.1")
  outer = artifacts.decode(found | {"__class__": "Outer"}, CLASSES, writer)
  assert outer == Outer("a", Inner(1, 2.0))


def test_a_file_within_a_file_has_its_own_version(migrations):
  within = {"schema_version": 12, "inner": INNER | {"factor": 2.0}}
  data = _written_at(10, {"files": [within], "inner": INNER | {"factor": 3.0}})
  found, _ = artifacts.migrate("Folder", data)
  assert found["files"] == [within]
  assert found["inner"]["scale"] == 3.0


def test_a_boolean_remat_becomes_a_policy_name():
  for was, name in ((False, "none"), (True, "full"), ("minimal", "minimal")):
    phase = {"__class__": "TrainPhase", "remat": was}
    fields, _ = artifacts.migrate("Recipe", {"phases": [phase, {}]})
    assert fields["phases"] == [phase | {"remat": name}, {}]
