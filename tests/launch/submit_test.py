"""`run` orders once, however many are started."""

import dataclasses
import json
import types

import pytest

from launch import bundle, order, slice, submit
from launch.commands import Failed

RENTED = slice.Slice(
  name="mine",
  slice="v4-16",
  way="queued",
  capacity="spot",
  zone="us-central2-b",
  project="p",
  bucket="gs://b",
  service_account="s",
)
ARGS = types.SimpleNamespace(
  recipe="recipes/tiny.gin",
  data=None,
  out=None,
  overrides=[],
  dry_run=False,
  report_every_s=10.0,
  config="mine.toml",
)


class Bucket:
  """Runs commands: objects with generations; all else succeeds."""

  def __init__(self):
    self.objects: dict[str, tuple[int, str]] = {}
    self.created = 0

  def __call__(self, command) -> str:
    words = command.args
    if words[1] != "storage":
      self.created += words[4] == "create"
      return ""
    url = words[-2] if words[2] == "objects" else words[-1]
    generation, text = self.objects.get(url, (0, ""))
    if words[2] == "cp":
      guard = [word for word in words if word.startswith("--if-generation")]
      if guard and guard != [f"--if-generation-match={generation}"]:
        raise Failed(command, "HTTPError 412: conditionNotMet")
      self.objects[url] = generation + 1, command.stdin
      return ""
    if not generation:
      raise Failed(command, "matched no objects")
    if words[2] == "objects":
      return json.dumps({"generation": generation})
    return text


def test_a_slash_at_the_end_of_a_folder_names_no_other(monkeypatch, tmp_path):
  (tmp_path / "w.whl").write_bytes(b"")
  monkeypatch.setattr(bundle, "build_wheel", lambda _: tmp_path / "w.whl")
  named = vars(ARGS) | {"data": "gs://b/text/", "out": "gs://b/runs/x/"}
  bucket = Bucket()
  submit.submit(RENTED, types.SimpleNamespace(**named), bucket)
  made = order.require(RENTED, bucket)
  assert made.out == "gs://b/runs/x"
  assert made.arguments[:4] == ["--data", "gs://b/text", "--out", made.out]


def test_what_is_rented_is_not_described_anew(monkeypatch, tmp_path):
  (tmp_path / "w.whl").write_bytes(b"")
  monkeypatch.setattr(bundle, "build_wheel", lambda _: tmp_path / "w.whl")
  bucket = Bucket()
  submit.submit(RENTED, ARGS, bucket)
  done = dataclasses.replace(order.require(RENTED, bucket), stop=True)
  bucket(order.write(RENTED, done))
  changed = dataclasses.replace(RENTED, slice="v4-32", zone="us-central2-a")
  with pytest.raises(
    ValueError, match="slice = 'v4-16', zone = 'us-central2-b"
  ):
    submit.submit(changed, ARGS, bucket)
  assert (order.require(RENTED, bucket), bucket.created) == (done, 1)
  asked = []

  def gone(command):
    if "describe" in command.args and command.args[1] != "storage":
      asked.append(command)
      raise Failed(command, "NOT_FOUND")
    return bucket(command)

  submit.submit(changed, ARGS, gone)
  assert order.require(RENTED, bucket).rented == changed
  assert ["--zone=us-central2-b" in command.args for command in asked] == [True]


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_runs_at_once_one_orders(monkeypatch, tmp_path, is_first):
  bucket = Bucket()
  wheel = tmp_path / "w.whl"
  wheel.write_bytes(b"")
  monkeypatch.setattr(bundle, "build_wheel", lambda folder: wheel)
  if not is_first:
    submit.submit(RENTED, ARGS, bucket)
    done = dataclasses.replace(order.require(RENTED, bucket), stop=True)
    bucket(order.write(RENTED, done))
  before, created = order.read(RENTED, bucket), bucket.created

  def meanwhile(folder):  # A second `run`, while the first builds its wheel.
    monkeypatch.setattr(bundle, "build_wheel", lambda folder: wheel)
    submit.submit(RENTED, ARGS, bucket)
    return wheel

  monkeypatch.setattr(bundle, "build_wheel", meanwhile)
  with pytest.raises(Failed, match="at the same moment"):
    submit.submit(RENTED, ARGS, bucket)
  given = order.require(RENTED, bucket)
  assert given != before and given.attempt == (1 if is_first else 2)
  assert bucket.created == created + 1
