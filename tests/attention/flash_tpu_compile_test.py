"""The TPU's compiler takes the kernels, for every chip; nothing is run."""

import importlib.util
import pathlib

import pytest

TOOLS = pathlib.Path(__file__).parents[2] / "tools"
SMALL = (512, 512, 128, 128, 2, 1)
LARGE = (1024, 1024, 256, 256, 2, 1)

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the TPU's compiler: pip install libtpu",
)


@pytest.fixture
def compiled(monkeypatch):
  monkeypatch.syspath_prepend(TOOLS)
  import tpu_schedule

  def compiled(chip: str, target: str = "flash", **kwargs):
    return tpu_schedule.compiled(
      f"attention_schedule:{target}", f"{chip}:2x2", kwargs
    )

  return compiled


@pytest.mark.parametrize(
  "chip, option",
  [
    ("v5e", "alibi"),
    ("v5p", "window"),
    ("v6e", "segments"),
    ("v6e", "rotation"),
  ],
)
def test_both_kernels_compile(compiled, chip, option):
  program = compiled(
    chip,
    tokens=1024,
    head_dim=64,
    forward=SMALL,
    backward=SMALL,
    option=option,
  )
  for name in ("forward", "backward"):
    whole, diagonal, *cut = program.kernel(name).tiles
    # Units above the diagonal are not computed: six of 16 here.
    assert diagonal < whole
    if option in ("window", "segments"):
      cut, cut_diagonal = cut
      assert cut_diagonal < cut
    else:
      assert not cut


def test_the_backward_pass_takes_no_memory_that_grows_with_the_square(compiled):
  program = compiled(
    "v5e", tokens=32768, head_dim=128, forward=SMALL, backward=LARGE
  )
  assert program.temporary_bytes <= 2**30


def test_rope_takes_no_pass_through_memory(compiled):
  rope, nope = (
    compiled(
      "v5e",
      "layers",
      positional=positional,
      tokens=1024,
      head_dim=128,
      forward=SMALL,
      backward=SMALL,
    )
    for positional in ("rope", "nope")
  )
  # In passes of its own the rotation would access a quarter more.
  assert rope.accessed_bytes < 1.02 * nope.accessed_bytes
