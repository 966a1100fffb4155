import dataclasses
import json
import math
import types

from drope_jax.evals import interface

RESULT = interface.Result(
  task="perplexity",
  metric="loss",
  model="base",
  method="rope",
  factor=2.0,
  context_tokens=512,
  logit_scale=1.0,
  scale_fitted=False,
  value=2.5,
  low=None,
  high=None,
  count=1,
  seed=0,
  mean_tokens=1024.0,
  outcomes=(2.5,),
  series=((32, 2.75), (96, 2.25)),
)


def _json(result):
  return json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_a_result_is_strict_json_and_an_unknown_interval_is_null():
  row = _json(RESULT)
  assert row["low"] is None and row["high"] is None
  assert row["value"] == 2.5 and row["seed"] == 0
  assert row["scale_fitted"] is False
  assert row["series"] == [[32, 2.75], [96, 2.25]]
  assert set(row) == set(vars(RESULT))
  assert interface.Result.from_dict(row) == RESULT


def test_a_loss_that_is_no_number_survives_json_too():
  result = dataclasses.replace(
    RESULT, value=math.nan, outcomes=(math.nan, 1.0), series=((32, math.nan),)
  )
  row = _json(result)
  assert row["value"] is None and row["outcomes"] == [None, 1.0]
  # NaN is not equal to itself.
  assert repr(interface.Result.from_dict(row)) == repr(result)


def test_generated_text_is_without_eos_wherever_it_stands():
  lm = types.SimpleNamespace(eos_id=3, decode=lambda ids: str([*ids]))
  assert interface.text(lm, [1, 3, 2, 3]) == "[1, 2]"
