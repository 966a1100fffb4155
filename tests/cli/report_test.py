import json

import pytest

from drope_jax.cli import main


@pytest.fixture
def run_folder(tmp_path):
  folder = tmp_path / "first"
  folder.mkdir()
  lines = [
    {"step": i, "phase": "pretrain", "tokens": 100 * i, "loss": 5.0 / i}
    for i in range(1, 9)
  ]
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
  return folder


def test_writes_a_page_on_the_runs(run_folder, tmp_path, capsys):
  out = tmp_path / "pages" / "report.html"
  assert main.main(["report", str(run_folder), "--out", str(out)]) == 0
  page = out.read_text("utf-8")
  assert "first" in page and "<svg" in page and "drope report" in page
  assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
  ("mistake", "message"),
  [
    (lambda run, tmp: [str(tmp / "none")], "metrics.jsonl"),
    (lambda run, tmp: [str(run), str(run)], "first, first"),
    (lambda run, tmp: [str(run), "--out", str(tmp)], "must be a file"),
    (lambda run, tmp: ["gs://bucket/run"], "local, got gs://bucket/run"),
  ],
  ids=["no such run", "the same name twice", "a folder as page", "a bucket"],
)
def test_a_mistake_is_one_line_and_status_two(
  run_folder, tmp_path, capsys, mistake, message
):
  assert main.main(["report", *mistake(run_folder, tmp_path)]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
