"""A plan is what the TPU's compiler says of the very step."""

import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

from drope_jax.cli import main
from drope_jax.perf import compiler

MODEL = pathlib.Path(__file__).parents[2] / "configs/models/tiny.gin"
ONE_CHIP = (
  "Recipe.mesh = 'single'",
  "TrainPhase.lora = @Lora()",
  "Lora.projections = ('layers/attention/[qk]',)",
  "TrainPhase.frozen_dtype = 'bfloat16'",
  "TrainPhase.batch_size = 16",
  "TrainPhase.accumulation = 16",
  "TrainPhase.remat = 'full'",
)
RECIPE = f"""
include '{MODEL}'
Recipe:
  model = @ModelConfig()
  tokenizer = 'any.model'
  phases = (@pretrain/TrainPhase(), @SurgeryPhase(), @recalibrate/TrainPhase())
SurgeryPhase.surgery = @Surgery()
Surgery.drop = 'all'
TrainPhase:
  data = @DataConfig()
  batch_size = 16
  context_tokens = 256
  compute_dtype = 'bfloat16'
  optimizer = @AdamW()
  schedule = @Constant()
  steps = 10
DataConfig.stores = ('text',)
Constant.peak = 1e-3
pretrain/TrainPhase.name = 'pretrain'
recalibrate/TrainPhase.name = 'recalibrate'
recalibrate/TrainPhase.accumulation = 2
recalibrate/TrainPhase.teacher = @Teacher()
"""


@pytest.fixture
def recipe(tmp_path):
  file = tmp_path / "recipe.gin"
  file.write_text(RECIPE)
  return file


needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the TPU's compiler: pip install libtpu",
)


def _run(*arguments):
  """Returns what Python prints in a process that may have libtpu's setting."""
  environment = dict(os.environ)
  for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
    environment.pop(name, None)
  return subprocess.run(
    [sys.executable, *arguments],
    stdout=subprocess.PIPE,
    env=environment,
    check=True,
  ).stdout


def _plan(recipe, topology, *more):
  command = ["-m", "drope_jax.cli.main", "plan", recipe, "--json"]
  return json.loads(_run(*command, "--topology", topology, *more))


@needs_libtpu
def test_a_small_recipe_fits_eight_chips(recipe, tmp_path):
  more = ["--eval", "1024", "--save", tmp_path / "saved"]
  found = _plan(recipe, "v5e-8", *more)
  names = [plan["phase"] for plan in found["training"]]
  assert names == ["pretrain", "recalibrate"]
  for plan in found["training"]:
    assert plan["fits"] and plan["temporaries"] > 0
    # AdamW holds two moments of each parameter, and a few counters.
    assert 2 * plan["params"] <= plan["optimizer"] < 2.1 * plan["params"]
    four_chips_a_host = 4 * (plan["params"] + plan["optimizer"])
    # All are sharded but the norms' gains, whose copies are written once.
    assert 0.95 * four_chips_a_host < plan["save"] < four_chips_a_host
    assert plan["collectives"]["all-reduce"]
    assert "between slices" not in plan["collectives"]
    assert plan["tokens"] == 10 * 16 * 256
    texts_at_once = 2 // plan["accumulation"]
    models = {"pretrain": 1, "recalibrate": 2}[plan["phase"]]
    assert plan["logits"] == models * texts_at_once * 256 * 512 * 4
    # The teacher, in bfloat16, takes a forward pass of the model's three.
    assert plan["teacher"] == (models - 1) * plan["params"] // 2
  plain, taught = (plan["flops"][0] for plan in found["training"])
  assert taught == pytest.approx(plain * 4 / 3)
  for plan in found["evaluation"]:
    assert plan["fits"] and plan["texts"] == 8
  programs = [plan["program"] for plan in found["evaluation"]]
  saved = {file.stem for file in (tmp_path / "saved").iterdir()}
  assert saved == {*names, *programs} == {*names, "prefill", "decode"}
  for file in (tmp_path / "saved").iterdir():
    payload, arguments, results = pickle.loads(file.read_bytes())
    assert len(payload) > 2**20
    assert min(arguments.num_leaves, results.num_leaves) > 2


@needs_libtpu
def test_a_quick_plan_has_the_same_memory_but_for_the_code(recipe):
  more = ["--set", "Recipe.phases = (@pretrain/TrainPhase(),)"]
  (whole,) = _plan(recipe, "v5e-8", *more)["training"]
  (quick,) = _plan(recipe, "v5e-8", *more, "--quick")["training"]
  # The compiler says that the code of this step takes 3,330,048 bytes, and
  # constants, which the quick plan counts, 7,168.
  code = whole.pop("temporaries") - quick.pop("temporaries")
  assert 0 <= code < 4 * 2**20
  assert whole.pop("collectives").keys() == quick.pop("collectives").keys()
  assert whole == quick


def test_a_quick_plan_has_no_program_to_save(recipe, capsys):
  command = ["plan", str(recipe), "--topology", "v5e-8", "--quick"]
  assert main.main([*command, "--save", "out"]) == 2
  assert "so there is no program to write, got --save out" in (
    capsys.readouterr().err
  )


@needs_libtpu
def test_replicas_on_two_slices_send_their_gradients_between_them(recipe):
  more = ["--set", "Recipe.mesh = @MeshConfig()\nMeshConfig.slices = 2"]
  more += ["--set", "Recipe.phases = (@pretrain/TrainPhase(),)"]
  (plan,) = _plan(recipe, "2xv4-8", *more)["training"]
  # Each of a slice's 4 chips holds a quarter, and sends its gradient: most of
  # it as it is added up, in float32 or in bfloat16.
  sent = plan["collectives"]["between slices"][1]
  assert plan["params"] / 2 <= sent < 2 * plan["params"]
  # A v4 is one chip of 275 TFLOP/s, whose two cores its name counts.
  seconds = plan["flops"][0] * 10 / (0.5 * 275e12 * 2 * 4)
  assert plan["hours"] == pytest.approx(seconds / 3600)


@pytest.mark.slow
@needs_libtpu
def test_adapters_of_a_7b_train_on_one_v5e():
  more = ["--model", "models/llama2_7b.gin"]
  more += [word for binding in ONE_CHIP for word in ("--set", binding)]
  (plan,) = _plan("recipes/llama2_7b_drope.gin", "v5e-1", *more)["training"]
  assert plan["fits"]
  # A copy of the frozen kernels of q alone is a GiB.
  assert 1 << 30 < plan["temporaries"] < 2 << 30


def test_without_the_compiler_it_says_what_to_install(
  recipe, monkeypatch, capsys
):
  monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
  status = main.main(["plan", str(recipe), "--topology", "v5e-8"])
  assert status == 2
  assert "pip install 'drope_jax[tpu]'" in capsys.readouterr().err


@pytest.mark.parametrize("mfu", ["0", "-1", "nan", "50"])
def test_an_impossible_mfu_is_one_line(mfu, recipe, capsys):
  arguments = ["plan", str(recipe), "--topology", "v5e-8", "--mfu", mfu]
  assert main.main(arguments) == 2
  assert "--mfu must be above 0" in capsys.readouterr().err


def test_an_unknown_topology_is_one_line(recipe, capsys):
  status = main.main(["plan", str(recipe), "--topology", "v5e-7"])
  assert status == 2
  assert "got 'v5e-7'" in capsys.readouterr().err


def test_a_model_given_to_a_recipe_that_has_its_own_is_one_line(
  recipe, monkeypatch, capsys
):
  monkeypatch.setattr(compiler, "prepare", lambda: None)
  arguments = ["plan", str(recipe), "--model", str(MODEL)]
  assert main.main([*arguments, "--topology", "v5e-8"]) == 2
  assert "got one that has its own" in capsys.readouterr().err
