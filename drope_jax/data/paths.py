"""Where a path of a recipe or a command line leads."""

import importlib.resources

from etils import epath

PACKAGED = "packaged:"


def resolve(path: str, base_dir: str | None = None) -> epath.Path:
  """Returns `path`, a relative one from `base_dir` on.

  "packaged:NAME" is a file or folder that comes with the project, such as
  packaged:checkpoints/demo_base; it must lie in a real folder, as an installed
  package's files do.
  """
  if path.startswith(PACKAGED):
    assets = importlib.resources.files("drope_jax") / "assets"
    return epath.Path(str(assets / path.removeprefix(PACKAGED)))
  if base_dir is None or "://" in path:
    return epath.Path(path)
  return epath.Path(base_dir) / path
