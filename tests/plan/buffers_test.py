"""A plan is read from the compiler's dump as soon as it is whole."""

import importlib.util
import os

import pytest

from drope_jax.plan import buffers

BUFFERS = """BufferAssignment:
allocation 0: size 4096, page 0, parameter 0, shape |f32[1024]|:
 value: <1 p @0> (size=4096,offset=0): f32[1024]{0}
allocation 1: size 512, page 0, constant:
allocation 2: size 9999, page 0, thread-local:
allocation 3: size 777, color 1, page 0, preallocated-temp:
allocation 4: size 20000, page 0, preallocated-temp:
allocation 5: size 64, page 0, maybe-live-out:
"""


def _write(folder, name, text, time_s):
  path = folder / f"module_0000.jit_step.{name}"
  path.write_text(text)
  os.utime(path, (time_s, time_s))


def test_a_dump_is_read_once_its_last_file_was_written_again(tmp_path):
  assert buffers._read(tmp_path) is None
  _write(tmp_path, "debug_options", "", 1)
  assert buffers._read(tmp_path) is None
  _write(tmp_path, "after_optimizations-buffer-assignment.txt", BUFFERS, 2)
  text = "after_optimizations_after_buffer_assignment.txt"
  _write(tmp_path, text, "HloModule half", 3)
  # A part that is compiled on the way is no sign of the whole.
  (tmp_path / "module_0026.extracted.debug_options").write_text("")
  assert buffers._read(tmp_path) is None
  _write(tmp_path, text, "HloModule whole", 4)
  _write(tmp_path, "debug_options", "", 5)
  program = buffers._read(tmp_path)
  assert program.fits and program.compiled is None
  assert program.text == "HloModule whole"
  # HBM alone, without what a fusion keeps to itself.
  assert program.bytes == 4096 + 512 + 20000 + 64


needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="needs libtpu, the TPU's compiler: pip install libtpu",
)


def _refuse(reason, compile_=None):
  raise ValueError(reason)


def _end(status, compile_=None):
  os._exit(status)


@needs_libtpu
def test_a_mistake_in_the_other_process_is_the_users():
  with pytest.raises(ValueError, match="the mesh does not divide it"):
    buffers.plan(_refuse, "the mesh does not divide it")


@needs_libtpu
def test_a_compiler_that_ends_by_itself_is_said_to():
  with pytest.raises(RuntimeError, match="ended with status 7"):
    buffers.plan(_end, 7)
