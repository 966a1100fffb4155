"""No output of a command controls the terminal."""

import io
import unicodedata

import pytest
import rich.table

from drope_jax.cli import console as consoles
from drope_jax.cli import terminal

HOSTILE = "\x1b[31m\x9b1m\u202e\r\x07[bold]:smile:"
SHOWN = r"\x1b[31m\x9b1m\u202e\x0d\x07[bold]:smile:"


def test_control_characters_are_escaped():
  assert terminal.printable(HOSTILE) == SHOWN
  assert terminal.printable("\u2066\u2028\udcff\x00") == (
    r"\u2066\u2028\udcff\x00"
  )


def test_printable_text_is_unchanged():
  # Arabic's right-to-left letters, and a family joined by U+200D.
  for text in ("über [a]\n\tb", "\u0645\u0631\u062d\u0628\u0627", "👩\u200d👧"):
    assert terminal.printable(text) == text


def test_every_control_code_of_unicode_is_escaped():
  # All of them are below U+10000.
  left = {*terminal.printable("".join(map(chr, range(0x10000))))} - {*"\n\t"}
  assert not {"Cc", "Cs", "Zl", "Zp"} & {*map(unicodedata.category, left)}


def test_a_console_interprets_no_markup():
  file = io.StringIO()
  console = consoles.Console(file=file, force_terminal=True, width=200)
  shown = rich.table.Table(HOSTILE, title=HOSTILE)
  shown.add_row(HOSTILE)
  console.print(HOSTILE, shown, consoles.plain(HOSTILE), highlight=False)
  assert file.getvalue().count(SHOWN) == 5
  assert "\x1b[31m" not in file.getvalue()


@pytest.fixture
def hostile(here):
  """Gives the run's folder this name."""
  # A file name may hold all characters except a slash and a zero.
  return (here / "run").rename(here / f"run{HOSTILE}")


@pytest.mark.parametrize(
  "command",
  [
    ("inspect", "CKPT"),
    ("report", "CKPT", "--out", "CKPT.html"),
    ("report", "CKPT/none"),
    ("surgery", "CKPT", "--out", "CKPT.new"),
    ("train", "CKPT/mine.gin"),
    ("train", "tiny.gin", "--set", "Recipe.tokenizer = 'CKPT'"),
    ("convert", "CKPT", "--out", "new"),
    ("tokenize", "CKPT/none.txt", "--tokenizer", "tiny.model", "--out", "new"),
    ("CKPT",),
    ("inspect", "run", "CKPT"),
  ],
  ids=lambda command: " ".join(command)[:30],
)
def test_an_escape_sequence_in_a_name_has_no_effect(command, hostile, drope):
  ran = drope(*(word.replace("CKPT", hostile.name) for word in command))
  output = ran.out + ran.err
  assert SHOWN.split("\\u202e")[0] in output
  assert not {*HOSTILE} & {*output} & {"\x1b", "\x9b", "\u202e", "\r", "\x07"}


def test_model_output_is_escaped_on_a_terminal_and_unchanged_in_a_pipe(
  here, drope, monkeypatch
):
  generate = ("generate", "run", "--prompt", HOSTILE, "--max-new-tokens", "1")
  piped = drope(*generate).out
  monkeypatch.setattr("sys.stdout.isatty", lambda: True)
  shown = drope(*generate).out
  assert terminal.printable(piped) == shown != piped
