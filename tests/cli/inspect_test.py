"""`drope inspect` shows the content of a checkpoint or a run."""

import json
import math

import jax
import jax.numpy as jnp
import pytest

from drope_jax import trees
from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import runs, store
from drope_jax.cli import inspect as command
from drope_jax.cli import main
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Pattern, Rope

CONFIG = ModelConfig(
  vocab_size=32,
  num_layers=2,
  width=16,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=32,
  context_tokens=16,
  positional=Pattern((Rope(123.5), Nope()), (8, None)),
)


@pytest.fixture
def params():
  shapes = transformer.param_shapes(CONFIG)
  params = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  table = params["embed"]["table"].astype(jnp.bfloat16)
  return params | {"embed": {"table": table}}


@pytest.fixture
def run(tmp_path, params):
  entry = manifests.LineageEntry(
    "pretrain",
    {"rate": 0.25},
    "/a[b]/c",
    12345,
    10,
    "0.1+git.abc",
    "2026-01-01",
  )
  manifest = manifests.Manifest(CONFIG, lineage=(entry,))
  with runs.RunStore(tmp_path / "run") as run:
    run.save(10, {"params": params, "moments": params}, manifest)
  return tmp_path / "run"


def _output(capsys, *arguments):
  parser = main.parser("inspect")
  command.run(parser.parse_args([str(argument) for argument in arguments]))
  return capsys.readouterr().out


def test_json_holds_the_manifest_and_every_parameter(run, params, capsys):
  shown = json.loads(_output(capsys, run, "--json"))
  assert shown["checkpoint"] == str(run / "10")
  manifest = store.describe(run)[0].to_json()
  assert {key: shown[key] for key in manifest} == manifest
  flat = trees.flatten(params)
  assert {row["name"]: tuple(row["shape"]) for row in shown["parameters"]} == {
    name: leaf.shape for name, leaf in flat.items()
  }
  assert shown["total"] == {
    "count": sum(leaf.size for leaf in flat.values()),
    "bytes": sum(leaf.nbytes for leaf in flat.values()),
  }
  dtypes = {row["name"]: row["dtype"] for row in shown["parameters"]}
  assert dtypes["embed/table"] == "bfloat16"
  assert dtypes["final_norm/gain"] == "float32"


def test_tables_show_config_lineage_and_parameters(run, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  shown = [" ".join(line.split()) for line in _output(capsys, run).splitlines()]
  for line in (
    str(run / "10"),
    "positional Pattern",
    "positional.schemes (Rope(theta=123.5), Nope())",
    "positional.windows (8, None)",
    "1. pretrain",
    "parent /a[b]/c",
    "total tokens 12,345 in 10 steps",
    "code 0.1+git.abc",
    "rate 0.25",
    "layers/attention/q/kernel [2, 16, 16] float32 512 2,048",
  ):
    assert line in shown


@pytest.mark.parametrize("columns", [60, 80])
def test_tables_fit_the_terminal(columns, run, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", str(columns))
  path, *lines = _output(capsys, run).splitlines()
  assert path == str(run / "10")
  assert max(map(len, lines)) <= columns
  assert "2,048" in " ".join(lines)


def test_a_missing_checkpoint_is_named(tmp_path, capsys):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    _output(capsys, tmp_path / "nowhere")


def test_sharding_shows_each_devices_part(run, tmp_path, capsys):
  for source in (str(run), "recipes/tiny.gin"):
    status = main.main(
      ["inspect", "--sharding", source, "--topology", "v5e-8", "--json"]
    )
    assert status == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mesh"]["fsdp"] == 8
    for row in found["parameters"]:
      ways = [
        whole // part
        for whole, part in zip(row["shape"], row["part"], strict=True)
      ]
      assert sorted(ways)[-1] == (1 if "norm" in row["name"] else 8)
    assert found["total"] == sum(row["bytes"] for row in found["parameters"])


def test_sharding_works_with_a_model_config_instead_of_a_checkpoint(capsys):
  recipe = ["recipes/llama2_7b_drope.gin", "--model", "models/llama2_7b.gin"]
  command = ["inspect", "--sharding", *recipe, "--topology", "v5p-128"]
  assert main.main([*command, "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  parameters = sum(math.prod(row["shape"]) for row in found["parameters"])
  assert parameters == 6_738_415_616


@pytest.mark.parametrize(
  "arguments,message",
  [
    (["--sharding"], "--sharding and --topology must be given"),
    (["--topology", "v5e-8"], "--sharding and --topology must be given"),
    (["--sharding", "--topology", "v5e-9"], "got 'v5e-9'"),
    (["--model", "models/tiny.gin"], "--model needs a recipe with --sharding"),
  ],
)
def test_sharding_names_a_missing_argument(arguments, message, run, capsys):
  assert main.main(["inspect", str(run), *arguments]) == 2
  assert message in capsys.readouterr().err
