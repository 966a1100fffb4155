import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_every_import_obeys_the_layers():
  ran = subprocess.run(
    [pathlib.Path(sys.executable).parent / "lint-imports", "--no-cache"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert ran.returncode == 0, ran.stdout + ran.stderr
