"""Nobody reads what is printed any more: the program goes on to its end."""

import contextlib
import io
import os
import pathlib
import pty
import signal
import subprocess
import sys

import pytest

from str_jax.training import console

ROOT = pathlib.Path(__file__).parents[2]

# Prints a line, waits until its input ends, prints more, leaves a file.
PRINTS = """
import contextlib, fcntl, pathlib, sys, termios
import rich.console, rich.progress
from str_jax.training import console
console.outlive_terminal()
is_terminal = sys.argv[2] == 'terminal'
assert sys.stdout.isatty() == is_terminal
if is_terminal:
  fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # its end sends SIGHUP
print('a first line', flush=True)
with contextlib.suppress(OSError), rich.progress.Progress(
  console=rich.console.Console(file=sys.stdout)
) as bar:
  task = bar.add_task('', total=3)
  sys.stdin.read()
for _ in range(3):
  bar.update(task, advance=1, refresh=True)
  print('x' * 100_000, flush=True)
  print('y' * 100_000, file=sys.stderr)
print('not flushed')
pathlib.Path(sys.argv[1]).write_text('done')
"""


def start(arguments, **options):
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=ROOT,
    stdin=options.pop('stdin', subprocess.PIPE),
    **options,
  )


@pytest.mark.parametrize('also_errors', [False, True])
def test_a_pipe_without_a_reader(also_errors, tmp_path):
  errors = subprocess.STDOUT if also_errors else subprocess.PIPE
  with start(
    ['-c', PRINTS, tmp_path / 'left', 'pipe'],
    stdout=subprocess.PIPE,
    stderr=errors,
  ) as process:
    assert process.stdout.readline() == b'a first line\n'
    process.stdout.close()
    _, printed = process.communicate(timeout=60)
  assert process.returncode == 0
  assert (tmp_path / 'left').read_text() == 'done'
  if not also_errors:  # the other stream is as it was
    assert printed == (b'y' * 100_000 + b'\n') * 3


def test_an_output_that_was_never_open(tmp_path):
  left = tmp_path / 'left'
  with start(['-c', PRINTS, left, 'pipe'], preexec_fn=lambda: os.close(1)) as p:
    p.communicate(timeout=60)
  assert p.returncode == 0
  assert left.read_text() == 'done'


def test_an_output_of_another_kind_is_left_alone(monkeypatch):
  notebook = io.StringIO()  # has no file behind it either
  monkeypatch.setattr(sys, 'stdout', notebook)
  monkeypatch.setattr(sys, 'stderr', notebook)
  monkeypatch.setattr(signal, 'signal', lambda *_: None)
  console.outlive_terminal()
  print('seen')
  assert notebook.getvalue() == 'seen\n'


def test_a_terminal_that_was_closed(tmp_path):
  ours, its = pty.openpty()
  with start(
    ['-c', PRINTS, tmp_path / 'left', 'terminal'],
    stdin=its,
    stdout=its,
    stderr=its,
    start_new_session=True,
  ) as process:
    os.close(its)
    printed = b''
    while b'a first line' not in printed:
      printed += os.read(ours, 1000)
    os.close(ours)
    process.wait(timeout=60)
  assert process.returncode == 0
  assert (tmp_path / 'left').read_text() == 'done'


def test_another_error_of_the_output_is_raised():
  with open('/dev/full', 'w') as full:
    stream = console._lasting(full, full.fileno())
    with pytest.raises(OSError, match='No space left'):
      print('x', file=stream, flush=True)
    with contextlib.suppress(OSError):
      stream.close()


SMALL = """
from configs import common
def get_config(variant):
  config = common.get_config()
  with config.unlocked():
    config.model.widths = (4, 8)
  return config
"""


def test_training_goes_on_behind_head(tmp_path, quick):
  """As `python main.py ... | head -1` does."""
  (tmp_path / 'small.py').write_text(SMALL)
  with start(
    [
      'main.py',
      f'--config={tmp_path / "small.py"}',
      '--config.total_steps=2',
      '--config.log_every_steps=1',
      f'--workdir={tmp_path / "run"}',
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert b'step 1/2' in process.stdout.readline()
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
  assert (process.returncode, errors) == (0, b'')
  assert (tmp_path / 'run' / 'summary.json').exists()


@pytest.mark.parametrize(
  'command', ['main.py --config=nosuch', '-m str_jax report nosuch']
)
def test_an_error_that_nobody_reads_has_its_exit_code(command):
  ours, its = os.pipe()
  os.close(ours)
  with start(command.split(), stdout=its, stderr=its) as process:
    os.close(its)
    process.communicate(timeout=60)
  assert process.returncode == 2


def test_a_users_error_is_one_sentence(monkeypatch, capsys):
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  for error in (ValueError('one\n  two'), FileNotFoundError('one two')):
    with pytest.raises(SystemExit) as end, console.user_errors():
      raise error
    assert end.value.code == 2
    assert capsys.readouterr().err == 'error: one two\n'
  with pytest.raises(TypeError), console.user_errors():  # ours
    raise TypeError
  monkeypatch.setenv('STR_JAX_TRACEBACK', '1')
  with pytest.raises(ValueError, match='one'), console.user_errors():
    raise ValueError('one')
