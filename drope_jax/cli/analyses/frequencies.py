"""`drope analyse MODEL frequencies`."""

import argparse

from drope_jax.analysis import frequencies
from drope_jax.analysis.studies import pairs, pairs_plots
from drope_jax.cli import console as consoles
from drope_jax.cli import output, terminal
from drope_jax.cli.analyses import subject
from drope_jax.positional import Rope


def run(args: argparse.Namespace) -> None:
  """Measures what scalings do to pairs, and what each pair is worth.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, explained.
  """
  factors = subject.factors(args.factors)
  model = subject.load(args)
  config = model.config
  tokens_BS, asked = subject.for_pairs(model, args)
  out = output.Output.open(args.out)
  with consoles.Console(stderr=True).status("") as status:
    found = pairs.measure(
      config,
      model.params,
      tokens_BS,
      asked,
      args.divide,
      lambda done, count: status.update(f"measuring pair {done} of {count}"),
    )
  scalings = ()
  if isinstance(config.positional, Rope):
    scalings = frequencies.scalings(
      config.positional, config.head_dim, config.context_tokens, factors
    )
    of_pairs = frequencies.pairs(
      config.positional, config.head_dim, config.context_tokens
    )
    out.figure("scalings", pairs_plots.scalings(scalings, of_pairs))
  else:
    terminal.say("no scalings: the model has no plain RoPE", stderr=True)
  gammas = [
    {
      "method": scaling.method,
      "factor": scaling.factor,
      "gamma": scaling.gamma_F.tolist(),
    }
    for scaling in scalings
  ]
  out.json("frequencies", model=model.about, scalings=gammas, pairs=found)
  out.figure("costs", pairs_plots.costs(found))
  output.show(
    f"each pair alone; with all, the loss is {found.loss:.3f} nats and "
    f"{found.recall:.0%} of questions are answered",
    (
      "pair",
      "rotations",
      "removed: loss",
      "answered",
      f"divided by {found.divisor:g}: loss",
      "answered",
    ),
    [
      (
        str(index),
        f"{pair.rotations:.3g}",
        f"{pair.removed.loss:+.4f}",
        f"{0 - pair.removed.recall:+.0%}",
        f"{pair.divided.loss:+.4f}",
        f"{0 - pair.divided.recall:+.0%}",
      )
      for index, pair in enumerate(found.pairs)
    ],
  )
