"""The questions of LongBench, from its published files."""

import dataclasses
import json
import pathlib

URL = "https://huggingface.co/datasets/THUDM/LongBench/resolve/main/data.zip"


@dataclasses.dataclass(frozen=True)
class Question:
  """A line of one of LongBench's files.

  Attributes:
    input: what is asked, usually short.
    context: what it is asked about.
    answers: of which one is enough.
    words: of input, context and answers together; characters in Chinese. The
      field `length` of the file.
    classes: that there are, for a task of classification.
  """

  input: str
  context: str
  answers: tuple[str, ...]
  words: int
  classes: tuple[str, ...] = ()


def load(folder: str | None, name: str) -> list[Question]:
  """Returns the questions of a task, in the order of its file.

  Args:
    folder: of the unpacked files.
    name: of the task; that of a LongBench-E task ends in _e.

  Raises:
    FileNotFoundError: there is no file for the task.
    ValueError: a line is not of LongBench's form, or there is none.
  """
  file = f"{name}.jsonl"
  path = None if folder is None else pathlib.Path(folder, file)
  if path is None or not path.is_file():
    raise FileNotFoundError(
      f"{name} needs LongBench's file {file}, got {path or 'no folder'}. "
      f"Download {URL}, unpack it, and set LongBench.folder to the folder of "
      f"its files, or leave {name} out."
    )
  found = []
  # Split by newlines alone: the texts hold other ends of lines.
  for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
    if line.strip():
      try:
        found.append(_question(json.loads(line)))
      except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
          f"{name} needs LongBench's file {file}, got {path} with another form "
          f"in line {number} ({type(error).__name__}: {error}). Download {URL} "
          "again."
        ) from error
  if not found:
    raise ValueError(
      f"{name} needs LongBench's file {file}, got {path} without a line. "
      f"Download {URL} again."
    )
  return found


def _question(row) -> Question:
  return Question(
    input=row["input"],
    context=row["context"],
    answers=tuple(row["answers"]),
    words=int(row["length"]),
    classes=tuple(row["all_classes"] or ()),
  )
