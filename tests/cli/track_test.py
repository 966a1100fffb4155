"""Trackers: what they log, how they resume, and what they need."""

import struct
import sys
import types

import jax
import pytest

from drope_jax.cli import configure, track
from drope_jax.train.recipe import Recipe

LINES = [
  {"step": 2, "phase": "pretrain", "loss": 3.5, "mfu_causal": None},
  {"step": 4, "phase": "pretrain", "loss": 3.25, "mfu_causal": None},
]


@pytest.fixture(scope="module")
def recipe():
  return configure.build("recipes/tiny.gin", Recipe)


def _track(name, folder, recipe, lines):
  with track.listeners([name], str(folder), recipe) as listeners:
    for line in lines:
      for listener in listeners:
        listener(line)


def _scalars(folder):
  """Returns (step, name, value) from TensorBoard's record files."""
  event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
  found = []
  for file in sorted(folder.glob("tensorboard/events.*")):
    data = file.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      values = event.summary.value
      found += [(event.step, v.tag, v.simple_value) for v in values]
  return found


def test_tensorboard_has_the_metrics(tmp_path, recipe):
  pytest.importorskip("tensorboardX")
  _track("tensorboard", tmp_path, recipe, LINES)
  assert _scalars(tmp_path) == [(2, "loss", 3.5), (4, "loss", 3.25)]


@pytest.fixture
def wandb(monkeypatch):
  calls = []

  class Run:
    def log(self, numbers, step):
      calls.append(("log", step, numbers))

    def finish(self):
      calls.append(("finish",))

  def init(**arguments):
    calls.append(("init", arguments["id"], arguments["resume"]))
    assert arguments["config"]["phases"][0]["name"] == "pretrain"
    return Run()

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
  return calls


def test_a_resumed_run_continues_in_wandb(tmp_path, recipe, wandb):
  (tmp_path / "run").mkdir()
  for line in LINES:
    _track("wandb", tmp_path / "run", recipe, [line])
  name = wandb[0][1]
  assert wandb == [
    ("init", name, "allow"),
    ("log", 2, {"loss": 3.5}),
    ("finish",),
    ("init", name, "allow"),
    ("log", 4, {"loss": 3.25}),
    ("finish",),
  ]
  (tmp_path / "other").mkdir()
  _track("wandb", tmp_path / "other", recipe, LINES)
  assert wandb[6][1] != name


def test_only_the_first_process_tracks(tmp_path, recipe, wandb, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  _track("wandb", tmp_path, recipe, LINES)
  assert wandb == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name,library", [("tensorboard", "tensorboardX"), ("wandb", "wandb")]
)
def test_a_missing_library_is_named_before_training(
  drope, tmp_path, monkeypatch, name, library
):
  monkeypatch.setitem(sys.modules, library, None)
  ran = drope("train", "recipes/tiny.gin", "--track", name)
  assert ran.status == 2
  want = f"--track {name} needs the library {library}, which is missing. "
  assert want in ran.err and len(ran.err.splitlines()) == 1
