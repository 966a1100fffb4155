"""Where the paths of recipes and command lines start."""

import pathlib

from drope_jax.data import paths


def test_a_relative_path_starts_at_the_base_and_a_home_at_itself(monkeypatch):
  monkeypatch.setenv("HOME", "/home/ada")
  found = {
    name: str(paths.resolve(name, "/base"))
    for name in ("store", "/store", "~/store", "gs://bucket/store")
  }
  assert found == {
    "store": "/base/store",
    "/store": "/store",
    "~/store": "/home/ada/store",
    "gs://bucket/store": "gs://bucket/store",
  }
  assert pathlib.Path(paths.resolve("~/store")) == pathlib.Path(
    "/home/ada/store"
  )
  assert str(paths.resolve("runs/x")) == "runs/x"
