"""Reads the instruction bundles that the TPU's compiler dumps.

The core issues one bundle a cycle. Where it must wait, the scheduler puts empty
bundles, so the number of bundles is the number of cycles.
"""

import os
import pathlib
import re

from drope_jax.perf import compiler

DELAY_SLOTS = 4
"""Bundles after a branch that run whether or not it is taken."""

_BUNDLES = "packed-bundles-post-ra"
"""The last stage that still has the empty bundles."""
_ALLOCATIONS = "pre-auto-mxu-assigner"
_BUNDLE = re.compile(r"^\s*(0x[0-9a-f]+|0)\s+(?:[A-Z]{2}\s*)?:[\s>]*\{")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BACK = re.compile(r"sbr\.\w+ \(!(%p\w+)\) target bundleno = (\d+)")
_VMEM = re.compile(r"#allocation\d+ \[.*?space=vmem, size = (0x[0-9a-f]+)")


def environment(folder: str | None) -> dict[str, str]:
  """Returns variables for a process that compiles for TPUs.

  Args:
    folder: where the process dumps its code; None: nowhere.
  """
  variables = os.environ | compiler.ENVIRONMENT | {"TF_CPP_MIN_LOG_LEVEL": "3"}
  # A program from the cache is not compiled, and leaves no dump.
  variables.pop("JAX_COMPILATION_CACHE_DIR", None)
  if folder is not None:
    flags = {
      "xla_jf_dump_to": folder,
      "xla_jf_dump_llo_text": "true",
      "xla_jf_dump_llo_pass_label_regex": f"{_BUNDLES}|{_ALLOCATIONS}",
    }
    arguments = " ".join(f"--{k}={v}" for k, v in flags.items())
    variables["LIBTPU_INIT_ARGS"] = arguments
  return variables


def files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the file of each operation's bundles, by the operation's name."""
  pattern = re.compile(rf"\d+-(?!TLP-|<)(.*)-\d\d-{_BUNDLES}\.txt")
  found = ((pattern.fullmatch(file.name), file) for file in folder.iterdir())
  return {match[1]: file for match, file in sorted(found, key=str) if match}


def vmem_bytes(file: pathlib.Path) -> int:
  """Returns the VMEM that an operation's windows and scratch take.

  Args:
    file: of the operation's bundles, in the folder of the dump.
  """
  stem = re.sub(rf"-\d\d-{_BUNDLES}\.txt", "", file.name)
  return sum(
    int(size, 16)
    for allocations in file.parent.glob(f"{stem}-??-{_ALLOCATIONS}.txt")
    for size in _VMEM.findall(allocations.read_text(errors="replace"))
  )


def split(dump: str) -> list[str]:
  """Returns the text of each bundle by address, without comments.

  Raises:
    ValueError: the dump has another format than libtpu 0.0.51 writes.
  """
  bundles: list[str] = []
  for line in dump.splitlines():
    if found := _BUNDLE.match(line):
      if int(found[1], 16) != len(bundles):
        raise ValueError(
          f"Bundles must be in order, got {found[1]} after {len(bundles)} of "
          "them. Use the libtpu that this was written for, 0.0.51."
        )
      bundles.append(line)
    elif bundles:
      bundles[-1] += "\n" + line
  return [_COMMENT.sub("", text) for text in bundles]


def cycles(dump: str) -> int:
  """Returns the cycles of an operation's code, each loop by its trips.

  Every branch counts as taken. A loop without a constant bound counts once.

  Args:
    dump: the text of its bundles.
  """
  code = split(dump)
  times = [1] * len(code)
  ends: dict[int, tuple[int, str]] = {}
  for n, text in enumerate(code):
    for predicate, target in _BACK.findall(text):
      if int(target) <= n:
        end = min(n + DELAY_SLOTS, len(code) - 1)
        ends[int(target)] = max(
          ends.get(int(target), (0, "")), (end, predicate)
        )
  for start, (end, predicate) in ends.items():
    bound = re.search(
      rf"{predicate} = scmp\.(?:ge|eq)\.\S+ %s\w+, (\d+)",
      "\n".join(code[start : end + 1]),
    )
    for n in range(start, end + 1):
      times[n] *= int(bound[1]) if bound else 1
  return sum(times)
