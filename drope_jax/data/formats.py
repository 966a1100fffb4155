"""Document formats, recognized by the ending of a file's name."""

from collections.abc import Callable, Iterator
import io

from drope_jax.data import (
  compression,
  json_files,
  parquet_files,
  reading,
  text_files,
)

_Reader = Callable[
  [io.BufferedReader, str, reading.Options], Iterator[reading.Document]
]

READERS: dict[str, _Reader] = {
  ".txt": text_files.documents,
  ".md": text_files.documents,
  ".jsonl": json_files.lines,
  ".ndjson": json_files.lines,
  ".json": json_files.lines_or_array,
  ".parquet": parquet_files.documents,
}


def parse_name(
  name: str, ending: str | None = None
) -> tuple[str | None, str | None]:
  """Returns the format and the compression of a file, from its name.

  Args:
    name: of the file.
    ending: used where the name has no known ending.

  Returns:
    A key of `READERS` or None, and one of `compression.ENDINGS` or None.
  """
  name = name.lower()
  packed = next(filter(name.endswith, compression.ENDINGS), None)
  if packed:
    name = name.removesuffix(packed)
  kind = next(filter(name.endswith, READERS), None)
  if kind is None and ending is not None:
    kind, other = parse_name(ending)
    packed = packed or other
  return kind, packed


def require_known(ending: str) -> None:
  """Raises ValueError if `ending` is not the ending of a known format."""
  if parse_name(ending)[0] is None:
    raise ValueError(
      f"A format must be one of {', '.join(READERS)}, optionally followed by "
      f"{', '.join(compression.ENDINGS)}, got {ending!r}. Name one of these."
    )
