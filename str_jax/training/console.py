"""What a command owes to its terminal: to outlive it, and short errors."""

from __future__ import annotations

import contextlib
import errno
import inspect
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
  import rich.console

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, of a terminal


def outlive_terminal() -> None:
  """Lets the program go on when nobody reads what it prints any more.

  A pipe into ``head`` or a closed terminal ends no run: what is printed from
  then on is dropped. To be called once, before anything is printed.
  """
  if hasattr(signal, 'SIGHUP'):  # a closed terminal sends it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
  sys.stdout = _lasting(sys.stdout, 1)
  sys.stderr = _lasting(sys.stderr, 2)


def wide() -> rich.console.Console:
  """Where tables are printed: the terminal, or as wide as they need."""
  import rich.console  # late: the program may start itself anew before that

  console = rich.console.Console()
  # A pipe has no width of its own: wide enough then for every column.
  return console if console.is_terminal else rich.console.Console(width=120)


def hush_libraries() -> None:
  """Keeps back the tracebacks of errors that are raised as well.

  Orbax logs what a save in the background raises, and reads many arrays at
  once, of which the first that fails is raised; TensorStore prints that nobody
  waits for it any more.
  """
  if os.environ.get('STR_JAX_TRACEBACK'):
    return
  logging.getLogger('absl').addFilter(lambda record: not record.exc_info)
  before = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    late = str(unraisable.exc_value) == 'Event loop is closed'
    if not late and not inspect.iscoroutine(unraisable.object):
      before(unraisable)

  sys.unraisablehook = hook


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
  """Turns a user's error into one sentence and exit code 2, Ctrl-C into 130.

  With STR_JAX_TRACEBACK set in the environment, the error is left as it is.
  """
  try:
    yield
  except (ValueError, OSError) as error:
    if os.environ.get('STR_JAX_TRACEBACK'):
      raise
    fail(one_line(error))
  except KeyboardInterrupt:
    if os.environ.get('STR_JAX_TRACEBACK'):
      raise
    print('stopped.', file=sys.stderr)
    raise SystemExit(130) from None


def fail(sentence: str) -> None:
  """Prints a sentence on standard error and ends with exit code 2."""
  print(f'error: {sentence}', file=sys.stderr)
  raise SystemExit(2)


def one_line(error: BaseException) -> str:
  """An error's message without its line breaks.

  >>> one_line(ValueError('one\\n  two'))
  'one two'
  """
  return ' '.join(str(error).split()) or type(error).__name__


class _Lasting(io.FileIO):
  """A file that is written into nothing once its reader is gone."""

  def write(self, data: Any, /) -> int:
    try:
      return super().write(data)
    except OSError as error:
      if error.errno not in _GONE:
        raise
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, self.fileno())
    os.close(nothing)
    return super().write(data)


def _lasting(stream: TextIO | None, number: int) -> TextIO:
  """The stream's file descriptor, opened anew to last."""
  if stream is None:  # closed from the start
    return open(os.devnull, 'w')
  if not isinstance(stream, io.TextIOWrapper):  # a notebook's, say
    return stream
  stream.flush()
  return io.TextIOWrapper(
    io.BufferedWriter(_Lasting(number, 'wb', closefd=False)),
    encoding=stream.encoding,
    errors=stream.errors,
    line_buffering=stream.line_buffering,
    write_through=stream.write_through,
  )
