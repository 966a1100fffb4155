"""The progress of a run, by its heartbeats and metrics in the bucket."""

from collections.abc import Mapping
import json
from typing import Any

from drope_jax.analysis import records
from drope_jax.train import heartbeat
from launch import bucket
from launch.commands import Run

_END_BYTES = 1 << 14


def first_heartbeat(out: str, do: Run) -> heartbeat.Heartbeat | None:
  """Returns the newest heartbeat of process 0; None: it has written none.

  Raises:
    ValueError: it is no heartbeat of this version.
  """
  url = f"{out}/{heartbeat.FOLDER}/0.json"
  text = bucket.read(url, do)
  return None if text is None else heartbeat.parse(text, url)


def last_metrics(out: str, do: Run) -> Mapping[str, Any] | None:
  """Returns the newest whole line of metrics.jsonl; None: there is none."""
  text = bucket.read_end(f"{out}/{records.METRICS}", _END_BYTES, do) or ""
  whole = [line for line in text.splitlines() if line.endswith("}")]
  # The first piece may be only the end of a line.
  return json.loads(whole[-1]) if whole and whole[-1][0] == "{" else None


def duration(seconds: float) -> str:
  """Returns a duration in words: 3 d 4 h, 5 h 6 min, 7 min, 8 s."""
  minutes = int(max(0, seconds)) // 60
  if minutes < 1:
    return f"{int(max(0, seconds))} s"
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  if days:
    return f"{days} d {hours} h"
  return f"{hours} h {minutes} min" if hours else f"{minutes} min"
