"""The revision comes from this project's own checkout, or is left out."""

import subprocess

from drope_jax import revision


def _git(folder, *arguments):
  identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
  subprocess.run(
    ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True
  )


def test_the_revision_names_the_commit_and_whether_files_changed(
  tmp_path, monkeypatch
):
  module = tmp_path / "drope_jax" / "revision.py"
  module.parent.mkdir(parents=True)
  module.write_text("")
  monkeypatch.setattr(revision, "__file__", str(module))
  assert "+git" not in revision.describe()

  _git(tmp_path, "init")
  _git(tmp_path, "add", ".")
  _git(tmp_path, "commit", "-m", "first")
  clean = revision.describe()
  assert len(clean.partition("+git.")[2]) == 12
  module.write_text("changed")
  assert revision.describe() == clean + "-dirty"
