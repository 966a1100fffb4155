"""`drope demo`: the whole story on the packaged corpus."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import functools
import json
import pathlib
import shlex
import shutil
import sys
import threading

import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.live
import rich.table

from drope_jax.analysis import claims, records, report, roles, runs, summary
from drope_jax.analysis import damage as damages
from drope_jax.analysis import loss as sequence_loss
from drope_jax.cli import (
  chart,
  configure,
  demo_data,
  demo_models,
  evaluate,
  results,
  surgery,
  termination,
  train,
)
from drope_jax.cli import console as consoles
from drope_jax.cli import progress as progress_lib
from drope_jax.data import corpus, lock, paths
from drope_jax.evals import perplexity
from drope_jax.evals import suite as suites
from drope_jax.evals.record import Record
from drope_jax.inference import choice, evaluation
from drope_jax.inference import lm as lms
from drope_jax.surgery import compose
from drope_jax.train.phases import SurgeryPhase
from drope_jax.train.recipe import Recipe

_PROBE_EXCERPTS = 8
# Documents of the needle store that the live recalibration can reach.
_LIVE_DOCUMENTS = 1_500
_SAMPLE_FACTOR = 4
_SAMPLE_TOKENS = 80
_MORE = "So few questions decide little; docs/results.md shows how to ask more."


def run(args: argparse.Namespace) -> None:
  """Runs the steps that are not done, and writes results.json, report.html."""
  out = paths.local(args.out, "--out")
  if args.from_scratch:  # Other models and longer stores; both can resume.
    out /= "from_scratch"
  with lock.held(out):
    _run(out, args, consoles.Console())


def _run(out: pathlib.Path, args: argparse.Namespace, console) -> None:
  _data(out, args.from_scratch, console)
  if args.from_scratch:
    others = demo_models.from_scratch(out, console)
    args.overrides += demo_models.starting_from(others["base"].checkpoint)
  else:
    others = demo_models.packaged()
  recipe = configure.build("recipes/demo_live.gin", Recipe, args.overrides)
  suite = configure.build("evals/demo.gin", suites.Suite)
  with _evaluating(out, suite, others) as evaluated:
    live = _recalibrate(out, recipe, others, console)
  trained = {name: others[name] for name in ("base", "continued")}
  trained |= {"live": live, **others}
  for name, model in trained.items():
    if name != "base":  # Its log is of another training run.
      shutil.copy(model.log, out / f"{name}.{records.METRICS}")
  _compare(out, suite, trained, evaluated, console)
  _samples(out, live.checkpoint, console)
  _report(out, console)


def _report(out: pathlib.Path, console) -> None:
  """Prints the conclusions and writes report.html."""
  run = runs.load(out)
  console.rule("the paper's claims on these models")
  for claim in claims.verdicts(runs.scores(run.rows), roles.find(run)):
    console.print(claim.text)
    for found in claim.verdicts:
      console.print(f"  {found.model}: {found.verdict}. {found.evidence}")
  console.print(_MORE)
  command = shlex.join(["drope", *sys.argv[1:]])
  sections = summary.sections(
    [run], [command], configure.HIDE_DEFAULTS, more=_MORE
  )
  report.write(out / "report.html", sections)
  written = f"\n{out / 'results.json'}\n{out / 'report.html'}"
  console.print(written, soft_wrap=True)  # A wrapped path cannot be copied.


def _data(out: pathlib.Path, everything: bool, console) -> None:
  with console.status("") as status:

    def show(name: str) -> None:
      status.update(consoles.plain(f"writing the token store {name}"))

    if everything:
      demo_data.write(
        out / "data", tuple(demo_data.NEEDLE_STORES), on_store=show
      )
    else:
      demo_data.write(
        out / "data", ("needles512",), _LIVE_DOCUMENTS, on_store=show
      )


def _recalibrate(
  out: pathlib.Path,
  recipe: Recipe,
  others: Mapping[str, demo_models.Trained],
  console: consoles.Console,
) -> demo_models.Trained:
  """Drops pairs of the base model, shows the damage, and trains."""
  lm_by_name = {
    name: lms.CheckpointLM.load(model.checkpoint)
    for name, model in others.items()
  }
  lm = lm_by_name["base"]
  operation, *_, training = recipe.phases
  text = perplexity.excerpts(
    map(lm.encode, corpus.documents("fit")),
    lm.context_tokens,
    _PROBE_EXCERPTS,
    seed=0,
  )
  tokens_BS = jnp.asarray(text)
  console.rule("the drop")
  assert isinstance(operation, SurgeryPhase)
  dropped = dataclasses.replace(
    operation.surgery,
    qk_norm="none",
    qk_norm_scope="joint",
    qk_norm_init="unit",
  )
  damage = damages.compare(
    (lm.config, lm.params),
    compose.apply(dropped, lm.config, lm.params),
    tokens_BS,
  )
  (out / "damage.json").write_text(json.dumps(damage.to_json()) + "\n")
  _show_damage(damage, console)

  console.rule("recalibration at the original context")

  def probe(config, params) -> dict[str, float]:
    return {"held_out_loss": float(_loss(config, params, tokens_BS))}

  held_out = {
    name: float(_loss(other.config, other.params, tokens_BS))
    for name, other in lm_by_name.items()
  }
  (out / runs.HELD_OUT).write_text(json.dumps(held_out) + "\n")
  levels = {name: held_out[name] for name in ("base", "continued")}
  levels["dropped"] = damage.after.loss
  bar = progress_lib.TrainingProgress(recipe, console)
  with (
    termination.stop_request("demo") as request,
    rich.live.Live(console=console, transient=False) as live,
  ):

    def show(line) -> None:
      bar(line)
      # Read the file, which also has the lines of earlier starts.
      lines = records.read_metrics(out / "live")
      points = [(0.0, damage.after.loss)]
      points += [(line["tokens"], line["held_out_loss"]) for line in lines]
      live.update(
        rich.console.Group(
          f"held-out loss {points[-1][1]:.3f} after {points[-1][0]:,} tokens",
          chart.draw(points, levels, recipe.tokens),
          bar.renderable,
        )
      )

    train.run_loop(
      request,
      recipe,
      out / "live",
      base_dir=str(out / "data"),
      on_metrics=show,
      probe=probe,
    )
  folder = out / "live"
  return demo_models.Trained(folder / training.name, folder / records.METRICS)


@functools.partial(jax.jit, static_argnums=0)
def _loss(config, params, tokens_BS):
  """Returns the excerpts' mean next-token loss in nats per token."""
  return sequence_loss.of_sequences(config, params, tokens_BS).mean()


def _show_damage(damage: damages.Damage, console) -> None:
  console.print(
    "With the pairs dropped, before any training: held-out loss "
    f"{damage.before.loss:.3f} → {damage.after.loss:.3f} nats a token."
  )
  if damage.pairs is not None:
    console.print(surgery.pair_table(damage.pairs))
  console.print(surgery.damage_table(damage))


@contextlib.contextmanager
def _evaluating(
  out: pathlib.Path,
  suite: suites.Suite,
  models: Mapping[str, demo_models.Trained],
) -> Iterator[Record]:
  """Evaluates models in a thread until the body ends, and yields the results.

  A training step of a model so small leaves most of a second core idle.
  """
  file = _results_file(out / "others", suite, models)
  file.load()
  if (out / results.FILENAME).exists():  # The training has ended before.
    yield file.record
    return
  ended = threading.Event()
  quiet = consoles.Console(quiet=True)
  with futures.ThreadPoolExecutor(1) as pool:
    work = pool.submit(
      _evaluate, suite, models, file, quiet, stopping=ended.is_set
    )
    try:
      yield file.record
    finally:
      ended.set()
    work.result()  # Raises what the thread raised.


def _compare(
  out: pathlib.Path,
  suite: suites.Suite,
  models: Mapping[str, demo_models.Trained],
  evaluated: Record,
  console,
) -> None:
  """Evaluates what is left of every model, and writes results.json."""
  file = _results_file(out, suite, models)
  file.load()
  if file.finished:
    return
  file.add(evaluated)
  console.rule("reading on, zero-shot")
  _evaluate(suite, models, file, console)
  file.save(finished=True)
  console.print(_explanations(runs.load(out)))
  shown = [r for r in file.rows if r.metric in ("accuracy", "tail_loss")]
  console.print(evaluate.tables(shown))


def _results_file(out, suite, models) -> results.ResultsFile:
  checkpoints = {name: model.checkpoint for name, model in models.items()}
  return results.ResultsFile(out, suite, checkpoints, evaluation.packaged())


def _evaluate(
  suite: suites.Suite,
  models: Mapping[str, demo_models.Trained],
  file: results.ResultsFile,
  console: consoles.Console,
  stopping: Callable[[], bool] = lambda: False,
) -> None:
  """Adds to a file what it lacks; only the base has methods beside its own."""
  evaluate.compare(
    suite,
    {name: model.checkpoint for name, model in models.items()},
    evaluation.packaged(),
    file.record,
    console,
    file.save,
    as_they_are=[name for name in models if name != "base"],
    stopping=stopping,
  )


def _explanations(run: runs.Run) -> rich.table.Table:
  """Returns a table of what each name in the other tables means."""
  shown = rich.table.Table(box=rich.box.SIMPLE)
  for column in roles.COLUMNS:
    shown.add_column(column, overflow="fold")
  for row in roles.explain(run):
    shown.add_row(*map(consoles.plain, row))
  return shown


def _samples(out: pathlib.Path, path: pathlib.Path, console) -> None:
  """Continues a held-out text of four times the trained context."""
  lm = lms.CheckpointLM.load(path)
  tokens = _SAMPLE_FACTOR * lm.context_tokens - _SAMPLE_TOKENS
  (prompt,) = perplexity.excerpts(
    map(lm.encode, corpus.documents("test")), tokens, 1, seed=0
  )
  (new,) = lm.generate([prompt], _SAMPLE_TOKENS, choice.Sampling(0.7))
  text = f"…{lm.decode(prompt[-60:])} ▶ {lm.decode(new)}"
  console.rule(f"written at {_SAMPLE_FACTOR} times the trained context")
  console.print(text)
  sample = {
    "model": "live",
    "context": f"{len(prompt):,} tokens, trained at {lm.context_tokens:,}",
    "text": text,
  }
  (out / "samples.json").write_text(json.dumps([sample]) + "\n")
