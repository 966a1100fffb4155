"""docs/tpu.md: its commands run, on a fake Google Cloud, and its facts hold."""

import dataclasses
import functools
import json
import pathlib
import re
import shlex

import pytest

from drope_jax.cli import configure
from drope_jax.cli import main as drope
from drope_jax.train import heartbeat
from launch import (
  access,
  cli,
  machine,
  order,
  prices,
  slice,
  states,
  status,
)
from launch import watch as watching
from launch.hosts import flags
from launch.ways.way import Standing
from tests.launch.fakes import documented

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs/tpu.md").read_text()
COMMANDS = [
  shlex.split(line)
  for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.S | re.M)
  for line in block.splitlines()
]


def _of(*program: str) -> list[list[str]]:
  count = len(program)
  found = [c[count:] for c in COMMANDS if c[:count] == list(program)]
  assert found, f"no command of {' '.join(program)}"
  return found


@pytest.mark.parametrize("words", _of("drope"), ids=" ".join)
def test_a_drope_command_parses(words):
  args = drope.parser(words[0]).parse_args(words[1:])
  if words[0] == "plan":
    configure.locate(args.config)
    configure.locate(args.model)


@pytest.mark.parametrize("words", _of("gcloud"), ids=" ".join)
def test_a_gcloud_command_is_documented(words):
  documented.parse(["gcloud", *words])


def test_the_setup_is_what_render_prints():
  rented = slice.read(
    ROOT / "launch/slices/v5e-16-spot.toml",
    {
      "DROPE_LAUNCH_PROJECT": "my-project",
      "DROPE_LAUNCH_BUCKET": "gs://my-bucket/drope",
    },
  )
  printed = [list(c.args[1:]) for c in access.prepare(rented)]
  assert printed == _of("gcloud")


def test_its_launcher_commands_run_on_a_fake_google_cloud(
  bucket, google, launch, monkeypatch
):
  monkeypatch.chdir(ROOT)
  for variable in (c[0] for c in _of("export")):
    monkeypatch.setenv(*variable.split("=", 1))
  monkeypatch.setenv("DROPE_LAUNCH_BUCKET", "gs://bucket/drope")
  verbs = set()
  google.write_script(creates=[["waiting"] * 99] * 9)
  for words in _of("python", "-m", "launch"):
    verbs.add(words[0])
    more = {
      "watch": ["--dry-run"],
      "logs": ["--dry-run"],
      "ssh": ["--dry-run"],
      "delete": ["--yes"],
    }.get(words[0], [])
    status, out, err = launch(*words, *more)
    assert (status, err) == (0, ""), words
    assert out
  assert verbs == cli._VERBS.keys() - {"create"}
  assert google.names() == []


def test_its_tables_have_every_verb_role_and_flag_file():
  rows = re.findall(r"^\| ((?:`[\w .-]+`(?:, )?)+) \| ", TEXT, re.M)
  named = {
    word.split()[0] for row in rows for word in re.findall(r"`(.+?)`", row)
  }
  assert cli._VERBS.keys() <= named
  rows = {
    who: {*re.findall(r"`(roles/[\w.]+)`", roles)}
    for who, roles in re.findall(r"^\| (.+?) \| (.*`roles/.*) \|$", TEXT, re.M)
  }
  assert rows == {
    "the hosts' service account": {*access.HOSTS, *access.BUCKET},
    **{f"you, `{way}`": {*roles} for way, roles in access.USER.items()},
    "you, `jobset` with several TPU7x hosts a slice": {access.POLICY},
  }
  assert f"`--retries` {states.Policy.retries} in all" in TEXT
  assert str(flags.PORT) == "8476"


def test_its_costs_are_the_tables():
  rented = slice.read(
    ROOT / "launch/slices/v5e-16-spot.toml", {}, placeholders=True
  )
  price = prices.find(rented)
  assert not price.exact, "the table has spot prices: say them in the guide"
  assert f"${14.2 * 16 * price.dollars:,.0f} on demand" in TEXT
  assert f"read on {price.read}" in TEXT
  pod = slice.read(ROOT / "launch/slices/v5p-128.toml", {}, placeholders=True)
  assert "16.2 hours at an MFU of 50%, 1,038 chip-hours" in TEXT
  assert prices.find(pod).of(1_038).partition(" (")[0] in TEXT


def test_its_links_lead_somewhere():
  for path in re.findall(r"\]\(([^)#]+)\)", TEXT):
    if "://" not in path:
      assert (ROOT / "docs" / path).exists(), path


def test_what_watch_says_is_what_it_says():
  state = states.State(states.Phase.WAITING, since=0.0)
  seen = states.Seen(Standing.WAITING, "WAITING_FOR_RESOURCES")
  sight = states.Sight(seen, (), None, 0.0)
  state, _ = machine.step(state, sight, states.Policy(hosts=4))
  assert watching.describe(state, sight) in TEXT


def _amid_the_run(rented, command) -> str:
  """Answers as Google Cloud would after three hours, and one preemption."""
  hours, step_s = 3600.0, 1.7
  given = {field.name: None for field in dataclasses.fields(order.Order)}
  given |= {"out": "gs://my-bucket/drope/runs/smollm_360m_drope", "stop": False}
  given["rented"] = dataclasses.asdict(rented)
  state = states.State(
    states.Phase.RUNNING,
    since=hours,
    reason="training",
    attempt=2,
    active_since=hours,
    preemptions=1,
    active_s=3 * hours,
    now=3 * hours,
  )
  beat = heartbeat.Heartbeat(
    process=0,
    processes=4,
    host="t1v-n-0-w-0",
    pid=1,
    begun=0.0,
    started=hours,
    time=3 * hours,
    doing=heartbeat.Doing.STEPPING,
    phase="recalibrate",
    step=6_070,
    stepped=3 * hours,
    last_step=30_000,
    saved_step=6_000,
    saved=3 * hours - 70 * step_s,
  )
  record = {"said": "", "code": None, "state": "running", "updated": 3 * hours}
  records = [
    json.dumps(record | {"slice": 0, "worker": n, "host": f"t1v-n-0-w-{n}"})
    for n in range(4)
  ]
  metrics = {
    "loss": 2.853,
    "tokens_per_s_per_chip": 38_550,
    "mfu_causal": 0.501,
    "goodput": 0.962,
  }
  answers = {
    "run.json": json.dumps(given),
    "watch.json": json.dumps(dataclasses.asdict(state)),
    "0.json": json.dumps(dataclasses.asdict(beat)),
    "metrics.jsonl": json.dumps(metrics),
  }
  words = command.args
  if "queued-resources" in words:
    return json.dumps({"state": {"state": "ACTIVE"}})
  if "objects" in words:
    return json.dumps({"generation": "1"})
  if "cp" in words:  # The records of the hosts, into a folder.
    for n, text in enumerate(records):
      (pathlib.Path(words[-1]) / f"0-{n}.json").write_text(text)
    return ""
  return answers[words[-1].rpartition("/")[2]]


def test_what_status_prints_is_its_example():
  rented = slice.read(
    ROOT / "launch/slices/v5e-16-spot.toml", {}, placeholders=True
  )
  printed = status.report(
    rented, functools.partial(_amid_the_run, rented), 3 * 3600.0
  )
  assert f"```\n{printed}\n```" in TEXT, printed
