"""A fake Google Cloud: gcloud and kubectl on PATH, a project on disk."""

import contextlib
import functools
import http.server
import json
import pathlib
import sys
import threading

import pytest

from launch import cli
from tests.launch.fakes import cloud

FAKES = pathlib.Path(__file__).parent / "fakes"


class _Web(http.server.SimpleHTTPRequestHandler):
  """Serves and writes hosts' metadata, and takes log entries.

  Under /denied it is a bucket that the host has no right to read.
  """

  def do_GET(self):
    if self.path.startswith("/denied/"):
      self.send_error(http.HTTPStatus.FORBIDDEN)
    else:
      super().do_GET()

  def do_PUT(self):
    assert "/instance/guest-attributes/" in self.path
    file = pathlib.Path(self.directory + self.path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
    self.send_response(200)
    self.end_headers()

  def do_POST(self):
    length = int(self.headers["Content-Length"])
    self.server.entries.append(json.loads(self.rfile.read(length)))
    self.send_response(200)
    self.end_headers()

  def log_message(self, *args):
    pass


class Google(cloud.Cloud):
  """The project, with what a test asks of it.

  Attributes:
    entries: what was written to Cloud Logging.
  """

  entries: list[dict]

  def commands(self) -> list[list[str]]:
    """Returns every command that was run."""
    file = self.folder / "commands.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def _program(folder: pathlib.Path, name: str, *words: object) -> None:
  file = folder / name
  arguments = " ".join(map(str, words))
  file.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
  file.chmod(0o755)


@pytest.fixture
def google(tmp_path, monkeypatch):
  """A project without resources; whatever still runs in it is ended."""
  project = Google(tmp_path / "google")
  for name in ("bin", "host-bin", "hosts"):
    (project.folder / name).mkdir(parents=True)
  for name in ("gcloud", "kubectl"):
    _program(project.folder / "bin", name, FAKES / "google.py", name)
  for name in ("systemctl", "uv"):
    _program(project.folder / "host-bin", name, FAKES / "host.py", name)
  handler = functools.partial(_Web, directory=str(project.folder))
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
  project.entries = server.entries = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv("FAKE_CLOUD", str(project.folder))
  monkeypatch.setenv("FAKE_METADATA", f"127.0.0.1:{server.server_port}")
  monkeypatch.setenv("PATH", str(project.folder / "bin"), prepend=":")
  monkeypatch.setenv("DROPE_LAUNCH_PROJECT", "my-project")
  monkeypatch.setenv("DROPE_LAUNCH_BUCKET", "gs://bucket/drope")
  yield project
  for host in project.hosts():
    with contextlib.suppress(OSError):
      cloud._kill(host)
  server.shutdown()


@pytest.fixture
def launch(capsys):
  """Runs a verb, and returns its status and what it said."""

  def run(*words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
      status = cli.main([str(word) for word in words])
    except SystemExit as ended:
      status = ended.code
    out, err = capsys.readouterr()
    return status, out, err

  return run
