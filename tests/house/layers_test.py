import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def _imports(path: pathlib.Path) -> set[str]:
  """Returns the top-level packages that a file imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module.split(".")[0])
  return names


def test_every_import_obeys_the_layers():
  ran = subprocess.run(
    [pathlib.Path(sys.executable).parent / "lint-imports", "--no-cache"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert ran.returncode == 0, ran.stdout + ran.stderr


def test_gin_is_imported_in_one_module():
  files = sorted((ROOT / "drope_jax").rglob("*.py"))
  importing = [path for path in files if "gin" in _imports(path)]
  assert importing == [ROOT / "drope_jax/cli/configure.py"]
