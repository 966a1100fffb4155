import pytest
import rich.box

from drope_jax.cli import console as consoles

LENGTHS = [f"{2**i}x" for i in range(6)]
INTERVAL = "0.12..0.38"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_wide_table_keeps_its_names_and_numbers(width):
  table = consoles.Table(box=rich.box.SIMPLE)
  table.add_column("", overflow="fold", min_width=12)
  for length in LENGTHS:
    table.add_column(length, justify="right", no_wrap=True)
  table.add_row("base · YaRN", *(INTERVAL for _ in LENGTHS))
  table.add_row("an_unbroken_name_of_27_char", *(INTERVAL for _ in LENGTHS))
  console = consoles.Console(width=width)
  with console.capture() as captured:
    console.print(table)
  lines = [line.split("  ") for line in captured.get().splitlines()]
  words = [[word.strip() for word in line if word.strip()] for line in lines]
  assert ["base · YaRN", *(INTERVAL for _ in LENGTHS)] in words
  # Folded to the column's least width where the console is narrow.
  first = "an_unbroken_name_of_27_char" if width == 200 else "an_unbroken_"
  assert [first, *(INTERVAL for _ in LENGTHS)] in words
