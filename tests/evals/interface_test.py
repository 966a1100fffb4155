import json
import math

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
  low=math.nan,
  high=math.nan,
  count=1,
  seed=0,
  mean_tokens=1024.0,
  series=((32, 2.75), (96, 2.25)),
)


def test_a_result_is_strict_json_and_an_unknown_interval_is_null():
  row = json.loads(json.dumps(RESULT.to_dict(), allow_nan=False))
  assert row["low"] is None and row["high"] is None
  assert row["value"] == 2.5 and row["seed"] == 0
  assert row["scale_fitted"] is False
  assert row["series"] == [[32, 2.75], [96, 2.25]]
  assert set(row) == set(vars(RESULT))
