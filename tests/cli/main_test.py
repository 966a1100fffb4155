import errno
import os
import signal
import subprocess
import sys
import types

import pytest

from drope_jax.cli import main


@pytest.fixture
def command(monkeypatch):
  """Replaces `drope generate` by a command; returns its runner."""

  def install(run, name="generate"):
    arguments = types.ModuleType(name, "What it does.")
    arguments.add_arguments = lambda parser: parser.add_argument("--out")
    module = types.ModuleType(name)
    module.run = run
    package = "drope_jax.cli"
    monkeypatch.setitem(sys.modules, f"{package}.arguments.{name}", arguments)
    monkeypatch.setitem(sys.modules, f"{package}.{name}", module)
    return lambda *arguments: main.main([name, *arguments])

  monkeypatch.delenv("DROPE_DEBUG", raising=False)
  monkeypatch.setattr(main, "prepare_libraries", lambda: None)
  return install


def _raising(error):
  def run(args):
    raise error

  return run


def _raise_from(error, cause):
  def run(args):
    raise error from cause

  return run


def test_a_command_receives_arguments_and_returns_a_status(command):
  seen = []
  drope = command(lambda args: seen.append(args.out))
  assert drope("--out", "x") == 0
  assert seen == ["x"]
  assert command(lambda args: 3)() == 3


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (
      ValueError("Rope needs\n  an even head_dim"),
      "Rope needs an even head_dim",
    ),
    (
      FileNotFoundError(errno.ENOENT, "No such file", "a.gin"),
      "a.gin: No such",
    ),
    (FileNotFoundError("no checkpoint in x"), "no checkpoint in x"),
    (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x: File name"),
    (ValueError("no access [tensorstore_spec='{}']"), "no access\n"),
  ],
)
def test_a_mistake_is_one_line_and_status_2(command, capsys, error, line):
  assert command(_raising(error))() == 2
  captured = capsys.readouterr()
  assert captured.err.startswith(f"drope generate: {line}")
  assert captured.err.count("\n") == 1
  assert not captured.out


@pytest.mark.parametrize(
  ("run", "line"),
  [
    (
      _raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/1")),
      "the disk is full",
    ),
    (
      _raising(RuntimeError("RESOURCE: write: No space left on device")),
      "the disk is full",
    ),
    (
      _raise_from(RuntimeError("save failed"), OSError(errno.ENOSPC, "full")),
      "the disk is full",
    ),
    (
      _raising(ExceptionGroup("two", [OSError(errno.EDQUOT, "quota")])),
      "the disk quota is used up",
    ),
    (_raising(OSError(errno.EFBIG, "big")), "a file would be larger than"),
  ],
)
def test_a_full_disk_is_one_line_and_status_2(command, capsys, run, line):
  assert command(run)() == 2
  error = capsys.readouterr().err
  assert error.startswith(f"drope generate: {line}")
  assert "Free some space" in error and error.count("\n") == 1


def test_a_bug_keeps_its_traceback(command):
  with pytest.raises(ZeroDivisionError):
    command(lambda args: 1 / 0)()


def test_debugging_shows_the_traceback_of_a_mistake(command, monkeypatch):
  monkeypatch.setenv("DROPE_DEBUG", "1")
  with pytest.raises(ValueError, match="wrong"):
    command(_raising(ValueError("wrong")))()


@pytest.mark.parametrize(
  ("name", "interrupt", "line"),
  [
    ("train", KeyboardInterrupt(), "interrupted; the same command resumes"),
    ("generate", KeyboardInterrupt(), "interrupted"),
    ("train", KeyboardInterrupt("saved step 7"), "saved step 7"),
  ],
)
def test_ctrl_c_is_one_line_and_status_130(
  command, capsys, name, interrupt, line
):
  assert command(_raising(interrupt), name)() == 130
  assert capsys.readouterr().err == f"drope {name}: {line}\n"


def test_sigterm_is_one_line_and_status_143(command, capsys):
  before = signal.getsignal(signal.SIGTERM)
  drope = command(lambda args: os.kill(os.getpid(), signal.SIGTERM), "train")
  assert drope() == 143
  error = capsys.readouterr().err
  assert error == "drope train: terminated; the same command resumes\n"
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
  ("arguments", "line"),
  [
    (["tran"], "drope: no command 'tran'; did you mean train?"),
    (["--outt"], "drope: unrecognized arguments: --outt"),
  ],
)
def test_a_misspelt_command_is_one_line_and_status_2(capsys, arguments, line):
  with pytest.raises(SystemExit) as exit_info:
    main.main(arguments)
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith(line)
  assert error.count("\n") == 1


def test_a_misspelt_argument_is_one_line_and_status_2(command, capsys):
  with pytest.raises(SystemExit) as exit_info:
    command(lambda args: None)("--ou", "x")
  assert exit_info.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith("drope generate: unrecognized arguments: --ou x")
  assert error.count("\n") == 1


def test_help_names_every_command_and_imports_no_library():
  source = """
import sys
from drope_jax.cli import main
try:
  main.main(["--help"])
except SystemExit as exit:
  assert exit.code == 0
heavy = {"absl", "gin", "jax", "numpy", "flax"} & set(sys.modules)
assert not heavy, heavy
"""
  ran = subprocess.run(
    [sys.executable, "-c", source], capture_output=True, text=True
  )
  assert ran.returncode == 0, ran.stderr
  for name, text in main.COMMANDS.items():
    assert f"  {name} " in ran.stdout
    assert text in ran.stdout


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_a_help_text(name, capsys, monkeypatch):
  monkeypatch.setattr(main, "prepare_libraries", lambda: None)
  with pytest.raises(SystemExit) as exit_info:
    main.main([name, "--help"])
  assert exit_info.value.code == 0
  assert f"usage: drope {name}" in capsys.readouterr().out


def test_a_closed_pipe_is_not_an_error():
  source = """
import sys, types
from drope_jax.cli import main
module = types.ModuleType("generate", "")
module.add_arguments = lambda parser: None
sys.modules["drope_jax.cli.arguments.generate"] = module
def run(args):
  sys.stdin.readline()
  print("text")
module.run = run
sys.modules["drope_jax.cli.generate"] = module
sys.exit(main.main(["generate"]))
"""
  environment = os.environ | {"PYTHONUNBUFFERED": ""}  # So that exit flushes.
  with subprocess.Popen(
    [sys.executable, "-c", source],
    env=environment,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE


def test_the_users_environment_is_kept(monkeypatch, tmp_path):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
  monkeypatch.setattr(os, "environ", dict(os.environ))
  main.prepare_libraries()
  assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "2"


def test_compiled_programs_go_to_the_users_cache(monkeypatch, tmp_path):
  environment = {"XDG_CACHE_HOME": str(tmp_path)}
  monkeypatch.setattr(os, "environ", environment)
  main.prepare_libraries()
  assert environment["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path))


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_shows_each_options_default(name):
  for action in main.parser(name)._actions[1:]:  # The first is --help.
    if action.nargs != 0 and not action.required:
      assert "default" in (action.help or ""), action.option_strings
