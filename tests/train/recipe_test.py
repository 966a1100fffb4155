"""Recipes: what cannot be run is refused when it is written down."""

import dataclasses

import pytest

from drope_jax import sharding
from drope_jax.data.pipeline import DataConfig
from drope_jax.model.config import ModelConfig
from drope_jax.surgery.compose import Surgery
from drope_jax.train import optimizer
from drope_jax.train.phases import HeldOut, SurgeryPhase, TrainPhase
from drope_jax.train.recipe import Recipe
from drope_jax.train.teacher import Teacher

MODEL = ModelConfig(
  vocab_size=32,
  num_layers=1,
  width=8,
  num_heads=1,
  num_kv_heads=1,
  head_dim=8,
  mlp_width=8,
  context_tokens=16,
)
PHASE = TrainPhase(
  name="pretrain",
  data=DataConfig(("store",)),
  batch_size=4,
  context_tokens=16,
  optimizer=optimizer.AdamW(),
  schedule=optimizer.Cosine(1e-3, warmup_steps=2),
  steps=10,
)
RECOVERING = dataclasses.replace(
  PHASE,
  name="recalibrate",
  held_out=HeldOut(DataConfig(("held",))),
  until_recovered=0.99,
)
TAUGHT = dataclasses.replace(PHASE, name="recalibrate", teacher=Teacher())
RECIPE = Recipe(
  (PHASE,), model=MODEL, tokenizer="t.model", mesh=sharding.MeshConfig()
)


def test_tokens_are_rounded_down_to_whole_steps():
  phase = dataclasses.replace(PHASE, steps=None, tokens=64 * 7 + 63)
  assert PHASE.step_tokens == 64
  assert (PHASE.num_steps, phase.num_steps) == (10, 7)


def test_phases_end_where_their_steps_add_up():
  recipe = dataclasses.replace(
    RECIPE,
    phases=(
      SurgeryPhase(Surgery(drop=(0,)), "first"),
      PHASE,
      SurgeryPhase(Surgery()),
      dataclasses.replace(PHASE, name="recalibrate", steps=3),
    ),
  )
  assert recipe.end_steps() == (0, 10, 10, 13)


@pytest.mark.parametrize(
  "changes,message",
  [
    (
      {"steps": 0},
      "pretrain: TrainPhase must take at least 1 step.*got steps=0",
    ),
    ({"steps": -3}, "at least 1 step of 64 tokens, got steps=-3"),
    ({"steps": None, "tokens": 63}, "got steps=None, tokens=63"),
    ({"steps": None}, "either steps or tokens, got steps=None and tokens=None"),
    ({"tokens": 640}, "either steps or tokens, got steps=10 and tokens=640"),
    ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ({"context_tokens": 0}, "context_tokens must be at least 1, got 0"),
    ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
    ({"loss_chunk_tokens": 0}, "loss_chunk_tokens must be at least 1, got 0"),
    ({"z_loss": -1e-4}, "z_loss must be at least 0, got -0.0001"),
    ({"accumulation": 3}, "accumulation must divide batch_size, got 3 and 4"),
    ({"compute_dtype": "float16"}, "float32, bfloat16, got 'float16'"),
    ({"remat": "half"}, "remat must be one of none, full, .*, got 'half'"),
    (
      {"held_out": HeldOut(DataConfig(("a", "store")))},
      "held-out text must not be trained on, got store as both",
    ),
    ({"until_recovered": 0.9}, "needs held_out text, got 0.9 and None"),
    (
      {"until_recovered": 1.1, "held_out": HeldOut(DataConfig(("held",)))},
      "a share of at most 1 and needs held_out text, got 1.1",
    ),
    ({"optimizer_start": "warm"}, "must be one of fresh, kept, got 'warm'"),
  ],
)
def test_impossible_phases_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(PHASE, **changes)


def test_a_surgery_is_measured_on_some_text():
  with pytest.raises(ValueError, match="calibration_sequences must be at leas"):
    SurgeryPhase(Surgery(), calibration_sequences=0)


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"phases": ()}, "at least one phase, got none"),
    ({"init_from": "there"}, "either a model to initialize or a checkpoint"),
    ({"model": None}, "either a model to initialize or a checkpoint"),
    ({"tokenizer": None}, "names a tokenizer with a model"),
    ({"model": None, "init_from": "there"}, "takes a checkpoint's own"),
    ({"phases": (PHASE, PHASE)}, "names that differ.*got pretrain, pretrain"),
    ({"save_every_steps": 0}, "save_every_steps must be at least 1, got 0"),
    ({"save_every_minutes": 0.0}, "save_every_minutes must be more than 0"),
    ({"stall_minutes": 0.0}, "stall_minutes must be more than 0"),
    (
      {"profile_steps": (0, 3)},
      "the first and last of the run's steps to trace",
    ),
    ({"profile_steps": (4, 3)}, r"from 1, got \(4, 3\)"),
    ({"keep_saves": 0}, "keep_saves must be at least 1, got 0"),
    (
      {"keep_every_steps": 750},
      "multiple of save_every_steps, got 750 and 500",
    ),
    ({"log_every_steps": 0}, "log_every_steps must be at least 1, got 0"),
    ({"read_workers": -1}, "read_workers must be at least 0, got -1"),
    ({"prefetch_batches": 0}, "prefetch_batches must be at least 1, got 0"),
    ({"attention": "flush"}, "auto or one of reference, .*, got 'flush'"),
    ({"mesh": "fsdq"}, "MeshConfig or one of single, .*, got 'fsdq'. Name one"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    (
      {"phases": (dataclasses.replace(PHASE, steps=2),)},
      "Cosine needs 3 steps.*got a phase of 2",
    ),
    (
      {"phases": (dataclasses.replace(PHASE, optimizer_start="kept"),)},
      "in the run with the same optimizer, trainable and lora, got None",
    ),
    (
      {
        "phases": (
          PHASE,
          dataclasses.replace(
            PHASE, name="b", batch_size=8, schedule_start="kept"
          ),
        )
      },
      "with the same schedule and step_tokens, got pretrain",
    ),
    (
      {"phases": (SurgeryPhase(Surgery(drop=(0,))), RECOVERING)},
      "needs a trained model and a surgery on it before, got none",
    ),
    (
      {"phases": (PHASE, RECOVERING)},
      "TrainPhase.until_recovered needs a trained model and a surgery on it",
    ),
    (
      {"phases": (SurgeryPhase(Surgery(drop=(0,))), TAUGHT)},
      "recalibrate: TrainPhase.teacher needs a trained model and a surgery on "
      "it before, got none. Leave it out.",
    ),
    (
      {"phases": (PHASE, TAUGHT)},
      "TrainPhase.teacher needs a trained model and a surgery on it before",
    ),
  ],
)
def test_impossible_recipes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(RECIPE, **changes)


def test_a_schedule_kept_is_one_over_all_phases():
  kept = dataclasses.replace(PHASE, name="kept", steps=5, schedule_start="kept")
  fresh = dataclasses.replace(PHASE, name="fresh")
  phases = (PHASE, SurgeryPhase(Surgery()), kept, fresh)
  recipe = dataclasses.replace(RECIPE, phases=phases)
  whole = PHASE.schedule.over(15, PHASE.step_tokens)
  for phase, step in ((PHASE, 3), (PHASE, 9), (kept, 10), (kept, 14)):
    assert recipe.learning_rate(phase)(step) == whole(step)
  alone = PHASE.schedule.over(10, PHASE.step_tokens)
  assert recipe.learning_rate(fresh)(18) == alone(3) != whole(3)


@pytest.mark.parametrize(
  "name", ["1000", "", "..", "a/b", "metrics.jsonl", "best", "heartbeats"]
)
def test_a_phase_whose_name_makes_no_folder_of_its_own_is_refused(name):
  with pytest.raises(ValueError, match="phases need names"):
    dataclasses.replace(
      RECIPE, phases=(PHASE, dataclasses.replace(PHASE, name=name))
    )


def test_the_base_is_what_was_before_the_first_surgery():
  phases = (PHASE, SurgeryPhase(Surgery(drop=(0,))), RECOVERING)
  assert dataclasses.replace(RECIPE, phases=phases).base is PHASE
  imported = dataclasses.replace(
    RECIPE, phases=phases[1:], model=None, tokenizer=None, init_from="there"
  )
  assert imported.base is None


def test_equal_recipes_are_equal_and_hashable():
  again = dataclasses.replace(RECIPE, mesh=sharding.MeshConfig())
  assert hash(again) == hash(RECIPE) and again == RECIPE
