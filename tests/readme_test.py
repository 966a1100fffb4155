"""The README's commands, recipe, scheme and code map are correct."""

import pathlib
import re
import shlex
import sys
import tomllib
import types

import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention, positional
from drope_jax.checkpoint import manifest as manifests
from drope_jax.cli import configure, main
from drope_jax.evals import suite
from drope_jax.model import config as model_config
from drope_jax.positional import scaling
from drope_jax.train import recipe

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M)


def _blocks(language: str) -> list[str]:
  """Returns the contents of the fenced blocks of a language."""
  return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


def _parse(words: list[str]):
  """Parses arguments with the command's own parser."""
  return main.parser(words[0]).parse_args(words[1:])


def _command_lines() -> list[list[str]]:
  """Returns every `drope COMMAND ...` as its words after "drope"."""
  lines = re.findall(r"(?<![\w-])drope (.+)", "\n".join(_blocks("bash")))
  lines += re.findall(r"`drope ([^`]+)`", PROSE)
  # The part after > belongs to the shell.
  return [shlex.split(line.partition(" > ")[0]) for line in lines]


COMMAND_LINES = [w for w in _command_lines() if w[0] != "COMMAND"]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_command_line_parses(words):
  assert words[0] in main.COMMANDS
  if words[1:] or words == ["demo"]:
    _parse(words)


def test_every_command_is_in_the_table():
  rows = re.findall(r"^\| `drope (\w+)", README, re.M)
  assert rows == list(main.COMMANDS)


@pytest.fixture
def recipe_file(tmp_path, monkeypatch) -> pathlib.Path:
  """The README's recipe, in the working directory, under the README's name."""
  monkeypatch.chdir(tmp_path)
  (text,) = _blocks("gin")
  file = tmp_path / "mine.gin"
  file.write_text(text)
  return file


def test_the_recipe_matches_the_commands_around_it(recipe_file):
  trains = [_parse(w) for w in COMMAND_LINES if w[0] == "train" and w[1:]]
  plain, changed = (
    configure.build(args.config, recipe.Recipe, args.overrides)
    for args in trains
    if args.config == recipe_file.name
  )
  stages = {phase.name for phase in plain.phases}
  evaluated = {
    pathlib.Path(checkpoint).name
    for words in COMMAND_LINES
    if words[0] == "evaluate" and "CKPT" not in words
    for checkpoint in _parse(words).checkpoints
  }
  assert evaluated and evaluated <= {*stages, "smollm_360m"}
  pretrain, _, recalibrate = plain.phases
  assert 8 * recalibrate.num_steps == pretrain.num_steps + recalibrate.num_steps
  assert pretrain.schedule != recalibrate.schedule
  assert changed.phases[2].num_steps == 2 * recalibrate.num_steps
  assert changed.phases[1].surgery.qk_norm == "qk"


def test_the_evaluations_use_known_methods_and_factors():
  known = {"model", "crop", *scaling.METHODS}
  evaluations = [_parse(w) for w in COMMAND_LINES if w[0] == "evaluate"]
  assert any(args.positions for args in evaluations)
  for args in evaluations:
    assert set((args.positions or "model").split(",")) <= known
    built = configure.build(args.suite or "evals/standard.gin", suite.Suite)
    assert max(built.factors) == 8, "the README speaks of 1 to 8 times"


@pytest.fixture
def resonance(monkeypatch):
  """The README's module, installed, with its line in the catalogue."""
  code, _ = _blocks("python")[-2:]
  module = types.ModuleType("drope_jax.positional.resonance")
  monkeypatch.setitem(sys.modules, module.__name__, module)
  exec(code, vars(module))
  source = pathlib.Path(positional.__file__).read_text()
  (diff,) = _blocks("diff")
  for hunk in diff.split("@@\n"):
    lines = hunk.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    assert source.count(before) == 1, f"the catalogue has no {before!r}"
    source = source.replace(before, "".join(line[1:] for line in lines))
  catalogue = types.ModuleType("catalogue")
  exec(source, vars(catalogue))
  monkeypatch.setattr(positional, "CATALOGUE", catalogue.CATALOGUE)
  return module


def test_the_schemes_own_test_passes(resonance):
  tests = {}
  exec(_blocks("python")[-1], tests)
  (run,) = (test for name, test in tests.items() if name.startswith("test_"))
  run()


def _scores_ST(scheme, pos_S) -> np.ndarray:
  """One head's attention logits, from fixed q and k, at some positions."""
  S, D = len(pos_S), 16
  q_D, k_D = np.random.default_rng(0).normal(size=(2, D)).astype(np.float32)
  q_BSHD, k_BSKD = (
    jnp.broadcast_to(jnp.asarray(x_D), (1, S, 1, D)) for x_D in (q_D, k_D)
  )
  table_2SD = scheme.rotation(jnp.asarray(pos_S)[None], D)[0]
  q_BSHD, k_BSKD = (
    attention.rotate(x_BSHD, *table_2SD[:, :, None])
    for x_BSHD in (q_BSHD, k_BSKD)
  )
  return np.einsum("bshd,bthd->st", q_BSHD, k_BSKD)


def test_the_schemes_scores_depend_only_on_distance(resonance):
  scheme = resonance.ResonanceRope()
  near_ST = _scores_ST(scheme, np.arange(8))
  far_ST = _scores_ST(scheme, np.arange(8) + 1000)
  # Float32 rounding of angles of a thousand radians.
  np.testing.assert_allclose(near_ST, far_ST, atol=1e-3)
  assert np.ptp(near_ST) > 0.1, "positions had no effect"


def test_the_schemes_wavelengths_are_whole_tokens(resonance):
  omega_F = resonance.ResonanceRope(10_000.0).frequencies(16)
  # 2 pi 10^(m / 2), rounded.
  tokens_F = [6, 20, 63, 199, 628, 1987, 6283, 19869]
  np.testing.assert_allclose(2 * np.pi / omega_F, tokens_F, rtol=1e-6)
  with pytest.raises(ValueError, match="at least 1 token, got 0"):
    resonance.ResonanceRope(least_tokens=0)


def test_the_catalogue_line_registers_the_scheme_for_gin_and_checkpoints(
  resonance, tmp_path
):
  shape = (ROOT / "configs/models/tiny.gin").read_text()
  line = "ModelConfig.positional = @ResonanceRope()"
  assert line in PROSE
  file = tmp_path / "resonance.gin"
  file.write_text(
    f"{shape.replace('Rope.theta', 'ResonanceRope.theta')}\n{line}"
  )
  classes = (model_config.ModelConfig, *positional.CATALOGUE.values())
  built = configure.build(str(file), model_config.ModelConfig, classes=classes)
  assert built.positional == resonance.ResonanceRope()
  written = manifests.Manifest(model=built).to_json()
  assert manifests.Manifest.from_json(written).model == built


def test_every_path_exists():
  links = re.findall(r"\]\(([^)]+)\)", PROSE)
  named = re.findall(
    r"`((?:drope_jax|launch|configs|docs|tests|tools|\.ci)/[^`]*)`", PROSE
  )
  paths = {p for p in [*links, *named] if "://" not in p}
  assert len(paths) > 20, "the README names few paths; the search has failed"
  # The example's own files do not exist.
  new = {
    "drope_jax/positional/resonance.py",
    "tests/positional/resonance_test.py",
  }
  assert new < paths
  assert [p for p in sorted(paths - new) if not (ROOT / p).exists()] == []


def test_the_code_map_has_the_layers_of_the_linter():
  tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
  contract = tools["importlinter"]["contracts"][0]
  assert contract["exhaustive"], "a package may be missing from the layers"
  layers = [
    {name.strip() for name in layer.split("|")} for layer in contract["layers"]
  ]
  rows = re.findall(r"^\| (\d) \| \[`(\w+)`\]\((\S+)\) \|", README, re.M)
  mapped = [
    {name for number, name, _ in rows if int(number) == layer}
    for layer in range(len(layers))
  ]
  assert mapped == layers[::-1]
  for _, name, path in rows:
    assert path.rstrip("/").removesuffix(".py") == f"drope_jax/{name}"


def test_the_lists_in_the_table_exist():
  rows = re.findall(r"^\| an? .+`[A-Z]+`.+$", PROSE, re.M)
  assert len(rows) == 6, "the table names a list for six of its rows"
  for row in rows:
    name, of = re.search(r"`([A-Z]+)` (?:there|of `([^`]+)`)", row).groups()
    path = of or re.search(r"`(drope_jax/\w+/)`", row)[1] + "__init__.py"
    assert re.search(rf"^{name}\b.* = ", (ROOT / path).read_text(), re.M), path
