"""The whole story on the packaged corpus, in about five minutes on two cores.

Loads a packaged RoPE model as one would load an imported Llama, shows what
dropping its positions breaks, recalibrates it for about three minutes at the
context it always had, and compares it with the base under PI, NTK and YaRN, and
with a model recalibrated in full, at 1 to 8 times that context.

  drope demo
  drope demo --out runs/demo --from-scratch
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import shlex
import shutil
import sys

import jax
import jax.numpy as jnp
import rich.console
import rich.live

from drope_jax import sharding
from drope_jax.analysis import damage as damages
from drope_jax.analysis import report, runs, summary
from drope_jax.cli import (
  chart,
  configure,
  demo_data,
  evaluate,
  recipe_options,
  results,
  surgery,
  termination,
  train,
)
from drope_jax.cli import console as consoles
from drope_jax.cli import progress as progress_lib
from drope_jax.data import corpus, lock, paths
from drope_jax.evals import logit_scale, perplexity
from drope_jax.evals import suite as suites
from drope_jax.inference import lm as lms
from drope_jax.model import transformer
from drope_jax.surgery import compose
from drope_jax.train import loss
from drope_jax.train.recipe import Recipe

_BASE, _FULL = (
  "packaged:checkpoints/demo_base",
  "packaged:checkpoints/demo_drope",
)
_PROBE_EXCERPTS = 8
# Documents of a needle store that a live recalibration may read; the next ones
# would not be reached.
_LIVE_DOCUMENTS = 4_000
_SAMPLE_FACTOR = 4
_SAMPLE_TOKENS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    "--out", default="runs/demo", metavar="DIR", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--from-scratch",
    action="store_true",
    help="train the base and the full recalibration too, in DIR/from_scratch: "
    "about an hour and a half",
  )
  recipe_options.add_overrides(parser, "recipes/demo_live.gin")


def run(args: argparse.Namespace) -> None:
  """Runs what is left of the demo, and writes results.json and report.html."""
  out = pathlib.Path(args.out)
  if args.from_scratch:  # Other models on longer stores; either one resumes.
    out /= "from_scratch"
  with lock.held(out):
    _run(out, args, consoles.Console())


def _run(out: pathlib.Path, args: argparse.Namespace, console) -> None:
  _data(out, args.from_scratch, console)
  base, full = paths.resolve(_BASE), paths.resolve(_FULL)
  if args.from_scratch:
    base = _train(out, "base", "recipes/demo_base.gin", (), console)
    starts_here = (f"Recipe.init_from = '{base.absolute()}'",)
    full = _train(out, "full", "recipes/demo_drope.gin", starts_here, console)
    args.overrides += starts_here
  models = {
    "base": base,
    "recalibrated": _recalibrate(out, base, args.overrides, console),
    "full": full,
  }
  _compare(out, models, console)
  _samples(out, models["full"], console)
  shutil.copy(out / "live" / runs.METRICS, out / runs.METRICS)
  commands = [shlex.join(["drope", *sys.argv[1:]])]
  report.write(
    out / "report.html",
    summary.sections(
      [runs.load(out)], commands, configure.WITH_DEFAULTS_UNTOLD
    ),
  )
  written = f"\n{out / 'results.json'}\n{out / 'report.html'}"
  console.print(written, soft_wrap=True)  # A path that is cut cannot be copied.


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


def _train(
  out: pathlib.Path,
  name: str,
  config: str,
  overrides: Sequence[str],
  console: consoles.Console,
) -> pathlib.Path:
  """Runs a recipe in a folder of the demo's; returns its last checkpoint."""
  recipe = configure.build(config, Recipe, overrides)
  console.rule(f"training: {name}")
  with (
    termination.stop_request("demo") as request,
    progress_lib.TrainingProgress(recipe, console) as show,
  ):
    train.run_loop(
      request, recipe, out / name, base_dir=str(out / "data"), on_metrics=show
    )
  return out / name / recipe.phases[-1].name


def _recalibrate(
  out: pathlib.Path,
  base: pathlib.Path,
  overrides: Sequence[str],
  console: consoles.Console,
) -> pathlib.Path:
  """Drops the base's positions, shows the damage, and trains on."""
  recipe = configure.build("recipes/demo_live.gin", Recipe, overrides)
  lm = lms.CheckpointLM.load(base)
  operation, *_, training = recipe.phases
  text = perplexity.excerpts(
    map(lm.encode, corpus.documents("fit")),
    lm.context_tokens,
    _PROBE_EXCERPTS,
    seed=0,
  )
  tokens_BS = jnp.asarray(text)
  console.rule("the drop")
  without_norms = {
    "qk_norm": "none",
    "qk_norm_scope": "joint",
    "qk_norm_init": "unit",
  }
  dropped = dataclasses.replace(operation.surgery, **without_norms)
  damage = damages.compare(
    (lm.config, lm.params),
    compose.apply(dropped, lm.config, lm.params),
    tokens_BS,
  )
  (out / "damage.json").write_text(json.dumps(damage.to_json()) + "\n")
  _show_damage(damage, console)

  console.rule("recalibration at the original context")
  levels = {"base": damage.before.loss, "dropped": damage.after.loss}
  probe_loss = jax.jit(_held_out_loss, static_argnums=(0, 1))
  mesh = sharding.make_mesh(recipe.mesh)

  def probe(config, params) -> dict[str, float]:
    return {"held_out_loss": float(probe_loss(config, mesh, params, tokens_BS))}

  bar = progress_lib.TrainingProgress(recipe, console)
  with (
    termination.stop_request("demo") as request,
    rich.live.Live(console=console, transient=False) as live,
  ):

    def show(line) -> None:
      bar(line)
      # Read back, as earlier starts of the run have lines in it too.
      lines = runs.read_metrics(out / "live")
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
  return out / "live" / training.name


def _held_out_loss(config, mesh, params, tokens_BS):
  x_BSM = transformer.hidden(
    config, params, tokens_BS[:, :-1], backend="blockwise"
  )
  targets_BS = tokens_BS[:, 1:]
  _, nats, _ = loss.summed(
    mesh,
    *transformer.head(config, params, x_BSM),
    targets_BS,
    jnp.ones(targets_BS.shape),
  )
  return nats / targets_BS.size


def _show_damage(damage: damages.Damage, console) -> None:
  console.print(
    "Without positions, before any training: held-out loss "
    f"{damage.before.loss:.3f} → {damage.after.loss:.3f} nats a token."
  )
  console.print(surgery.damage_table(damage))
  if damage.pairs is not None:
    console.print(surgery.pair_table(damage.pairs))


def _compare(
  out: pathlib.Path, models: dict[str, pathlib.Path], console
) -> None:
  """Evaluates every model under every method, alike, into results.json."""
  suite = configure.build("evals/demo.gin", suites.Suite)
  material = suites.Material(
    test=list(corpus.documents("test")), fit=list(corpus.documents("fit"))
  )
  file = results.ResultsFile(out, suite, models, material)
  file.load()
  if file.finished:
    return
  console.rule("reading on, zero-shot")
  record = file.record
  evaluate.compare(suite, models, material, record, console, file.save)
  file.save(finished=True)
  shown = [r for r in record.rows if r.metric in ("accuracy", "tail_loss")]
  console.print(evaluate.tables(shown))


def _samples(out: pathlib.Path, path: pathlib.Path, console) -> None:
  """Writes on from a held-out text of four times the trained context."""
  lm = lms.CheckpointLM.load(path)
  fits = json.loads((out / results.FILENAME).read_text())["fits"]["full"]
  scale = logit_scale.scale_at(fits["model"]["c"], _SAMPLE_FACTOR)
  tokens = _SAMPLE_FACTOR * lm.context_tokens - _SAMPLE_TOKENS
  (prompt,) = perplexity.excerpts(
    map(lm.encode, corpus.documents("test")), tokens, 1, seed=0
  )
  (new,) = lm.with_logit_scale(scale).generate(
    [prompt], _SAMPLE_TOKENS, temperature=0.7
  )
  text = f"…{lm.decode(prompt[-60:])} ▶ {lm.decode(new)}"
  console.rule(f"written at {_SAMPLE_FACTOR} times the trained context")
  console.print(text)
  sample = {
    "model": "full",
    "context": f"{len(prompt):,} tokens, trained at {lm.context_tokens:,}",
    "text": text,
  }
  (out / "samples.json").write_text(json.dumps([sample]) + "\n")
