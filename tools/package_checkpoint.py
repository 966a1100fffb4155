"""Copies a run's model into the package's assets, in bfloat16, with its log.

python tools/package_checkpoint.py runs/demo_base pretrain demo_base
"""

import argparse
import dataclasses
import pathlib
import shutil

from drope_jax.checkpoint import manifest as manifests
from drope_jax.checkpoint import store
from drope_jax.data import paths


def main() -> None:
  """Writes checkpoints/NAME and checkpoints/NAME.metrics.jsonl."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("run", type=pathlib.Path)
  parser.add_argument("phase", help="phase of the run with the model")
  parser.add_argument("name", help="name of the packaged checkpoint")
  args = parser.parse_args()
  out = paths.resolve(f"packaged:checkpoints/{args.name}")
  source = args.run / args.phase
  params, manifest = store.load_model(source, dtype="bfloat16")
  manifest = dataclasses.replace(
    manifest, lineage=tuple(map(_without_folders, manifest.lineage))
  )
  store.save_model(out, params, manifest, store.tokenizer_path(source))
  # Orbax writes an absolute path of this machine into its marker.
  (out / "commit_success.txt").write_text("")
  shutil.copy(args.run / "metrics.jsonl", f"{out}.metrics.jsonl")


def _without_folders(entry: manifests.LineageEntry) -> manifests.LineageEntry:
  """Shortens the path of a parent outside the run to RUN/PHASE."""
  if entry.parent is None or not pathlib.Path(entry.parent).is_absolute():
    return entry
  parent = "/".join(pathlib.Path(entry.parent).parts[-2:])
  return dataclasses.replace(entry, parent=parent)


if __name__ == "__main__":
  main()
