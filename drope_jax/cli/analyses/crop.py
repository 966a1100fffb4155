"""`drope analyse MODEL crop`."""

import argparse

from etils import epath

from drope_jax.analysis import panels, runs
from drope_jax.analysis.studies import lengths_plots
from drope_jax.checkpoint.manifest import Manifest
from drope_jax.checkpoint.model import Model
from drope_jax.cli import console as consoles
from drope_jax.cli import evaluate, output
from drope_jax.cli.analyses import subject
from drope_jax.evals import steps
from drope_jax.evals import suite as suites
from drope_jax.inference import evaluation
from drope_jax.inference.lm import CheckpointLM
from drope_jax.positional import Rope, scaling

_SHOWN = {
  ("perplexity", "tail_loss"): "loss of the last context (nats)",
  ("multi_key", "accuracy"): "questions answered",
}


def run(args: argparse.Namespace) -> None:
  """Compares scalings with a model that reads only the end of a text.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  factors = subject.factors(args.factors)
  model = subject.load(args)
  is_rope = isinstance(model.config.positional, Rope)
  scalings = scaling.STRETCHES if is_rope else ()
  suite = suites.Suite(
    evals=("perplexity", "multi_key"),
    methods=("model", *scalings, "crop"),
    factors=factors,
    samples=(args.prompts,) * len(factors),
    excerpts=args.sequences,
    needles=subject.NEEDLES,
    begin_with_bos=args.begin_with_bos,
    fit_factor=None,
  )
  material = suites.Material(test=subject.documents_of(args.text), fit=[])
  # By this name RoPE and its scalings have their colors in all plots.
  name = "base" if is_rope else "model"
  lm = CheckpointLM.of(
    Model(
      model.params,
      Manifest(model.config),
      epath.Path(model.tokenizer.path),
    )
  )
  record = steps.Record()
  ahead = evaluation.plan(suite, {name: lm}, material, record)
  out = output.Output.open(args.out)
  evaluate.take(ahead, record, consoles.Console(stderr=True))
  rows = [row.to_dict() for row in record.rows]
  out.json("crop", model=model.about, rows=rows)
  shown = {}
  for (task, metric), title in _SHOWN.items():
    own = [r for r in rows if (r["task"], r["metric"]) == (task, metric)]
    (shown[title],) = panels.by_factor(runs.scores(own)).values()
  out.figure("crop", lengths_plots.by_length(shown))
  consoles.Console().print(
    evaluate.tables(
      [row for row in record.rows if (row.task, row.metric) in _SHOWN]
    )
  )
