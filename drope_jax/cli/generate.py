"""`drope generate`: continues a text."""

import argparse
from collections.abc import Iterator
import json
import math
import pathlib
import sys

from drope_jax.cli import memory, terminal
from drope_jax.data import paths
from drope_jax.inference import choice
from drope_jax.inference import lm as lms


def run(args: argparse.Namespace) -> None:
  """Prints prompts and continuations.

  Raises:
    FileNotFoundError, ValueError: a user's mistake, with an explanation.
  """
  sampling = choice.Sampling(
    args.temperature,
    args.top_k,
    args.top_p,
    args.min_p,
    args.repetition_penalty,
    args.seed,
  )
  _check(args)
  texts = [*(args.prompt or []), *map(_read, args.prompt_file or [])]
  with memory.while_loading():
    lm = lms.CheckpointLM.load(paths.resolve(args.checkpoint), args.dtype)
  if args.logit_scale is not None:
    lm = lm.with_logit_scale(args.logit_scale)
  if args.bos and lm.bos_id is None:
    raise ValueError(
      "--bos needs a tokenizer with BOS, got one without. Leave it out."
    )
  begin = [lm.bos_id] if args.bos and lm.bos_id is not None else []
  prompts = [[*begin, *lm.encode(text)] or [lm.eos_id] for text in texts]
  prompts = [prompt for prompt in prompts for _ in range(args.num_samples)]
  _say_scale(lm, max(map(len, prompts)) + args.max_new_tokens, args)
  pieces = lm.stream(prompts, args.max_new_tokens, sampling, args.stop)
  if len(prompts) == 1 and not args.json:
    _print_stream(lm, prompts[0], args.stop, pieces)
    return
  written: list[list[int]] = [[] for _ in prompts]
  for i, new in pieces:
    written[i] += new
  for i, new in enumerate(written):
    _print_complete(lm, prompts, i, new, args)


def _check(args: argparse.Namespace) -> None:
  """Raises ValueError if arguments are missing or out of range."""
  if not args.prompt and not args.prompt_file:
    raise ValueError(
      "generate needs a prompt, got none. Give --prompt TEXT or --prompt-file "
      "FILE."
    )
  if args.max_new_tokens < 1 or args.num_samples < 1:
    raise ValueError(
      "generate needs --max-new-tokens and --num-samples of at least 1, got "
      f"{args.max_new_tokens} and {args.num_samples}. Raise them."
    )
  if args.num_samples > 1 and not args.temperature:
    raise ValueError(
      f"--num-samples {args.num_samples} needs a --temperature above 0, or all "
      "samples are the same, got 0. Set one."
    )
  filters = ("top_k", "top_p", "min_p")
  given = [name for name in filters if getattr(args, name) is not None]
  if given and not args.temperature:
    raise ValueError(
      f"--{given[0].replace('_', '-')} chooses among drawn tokens, got a "
      "--temperature of 0, which draws none. Set one above 0."
    )
  if args.logit_scale is not None and not 0 < args.logit_scale < math.inf:
    raise ValueError(
      "--logit-scale must be finite and above 0, or all keys have the same "
      "weight, got "
      f"{args.logit_scale}. Change it, or leave it out."
    )


def _read(file: str) -> str:
  """Returns the text of a file, or of standard input."""
  data = (
    sys.stdin.buffer.read() if file == "-" else pathlib.Path(file).read_bytes()
  )
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise ValueError(
      f"A prompt must be UTF-8 text, got other bytes in {file}. Convert it."
    ) from error


def _say_scale(
  lm: lms.CheckpointLM, tokens: int, args: argparse.Namespace
) -> None:
  """Prints a line about the softmax scale beyond the trained context."""
  if tokens <= lm.context_tokens or args.logit_scale is not None:
    return
  message = (
    f"{tokens:,} tokens are more than the trained context of "
    f"{lm.context_tokens:,}"
  )
  if lm.config.logit_scale_slope is None:
    message += (
      ", and the model has no softmax scale for them: `drope evaluate "
      "--save-scale` fits one and stores it."
    )
  else:
    message += (
      ": attention logits are multiplied by the checkpoint's softmax scale, "
      f"{lm.logit_scale_at(tokens):.3f}."
    )
  terminal.say(message, stderr=True)


def _print_stream(
  lm: lms.CheckpointLM,
  prompt: list[int],
  stop: list[str],
  pieces: Iterator[tuple[int, list[int]]],
) -> None:
  """Prints the prompt, and its continuation while it is generated."""
  # Text that may begin a stop string is not printed yet, nor is an
  # incomplete character.
  held = max((len(s) for s in stop), default=1) - 1
  # Decoded together: decoding a piece alone may lose the space before it.
  ids = [*prompt]
  start, printed = len(lm.decode(prompt)), 0

  def written() -> str:
    text = lm.decode(ids)
    return text[:start] + _before_stop(text[start:], stop)

  for _, new in pieces:
    ids += new
    ready = written().rstrip("\ufffd")
    ready = ready[: max(len(ready) - held, printed)]
    terminal.print_output(ready[printed:], end="")
    printed = max(printed, len(ready))
  terminal.print_output(written()[printed:])


def _print_complete(
  lm: lms.CheckpointLM,
  prompts: list[list[int]],
  i: int,
  new: list[int],
  args: argparse.Namespace,
) -> None:
  """Prints a complete continuation, with its number or as JSON."""
  prompt = prompts[i]
  start = len(lm.decode(prompt))
  text = lm.decode([*prompt, *new])
  kept = _before_stop(text[start:], args.stop)
  number, sample = divmod(i, args.num_samples)
  if args.json:
    ended = kept != text[start:] or new[-1] in lm.ends
    line = {
      "prompt": number,
      "sample": sample,
      "text": kept,
      "prompt_tokens": len(prompt),
      "new_tokens": len(new),
      "finish_reason": "stop" if ended else "length",
    }
    terminal.print_output(json.dumps(line, ensure_ascii=False))
    return
  terminal.say(f"── {i + 1} of {len(prompts)} ──")
  terminal.print_output(text[:start] + kept)


def _before_stop(text: str, stop: list[str]) -> str:
  """Returns the text before the first stop string in it."""
  found = [at for s in stop if (at := text.find(s)) >= 0]
  return text[: min(found, default=len(text))]
