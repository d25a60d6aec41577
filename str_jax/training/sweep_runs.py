"""The runs of a sweep, one after another, each in a process of its own."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from str_jax.training import records
from str_jax.training.sweeps import Sweep, Trial

_DYING = """
import contextlib, ctypes, os, signal, sys
with contextlib.suppress(OSError, AttributeError):
  ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
OUTPUT = 'output.txt'  # in a run's folder: what it printed


def run_all(sweep: Sweep, after_each: Callable[[], None]) -> dict[str, str]:
  """Trains every run that is not finished, the rest in spite of a failure.

  SIGINT and SIGTERM go to the run at hand, which saves and ends, and the
  others are left for the next time.

  Args:
    sweep: the sweep, its folder made.
    after_each: called whenever a run has come to its end.

  Returns:
    From the name of an unfinished run to why it is.
  """
  unfinished: dict[str, str] = {}
  count = len(sweep.trials)
  with _Signals() as signals:
    for number, trial in enumerate(sweep.trials, start=1):
      begin = f'[{number}/{count}] {trial.name}:'
      if trial.finished:
        print(f'{begin} finished before, {_result(trial)}', flush=True)
        continue
      if signals.caught:
        unfinished[trial.name] = 'not begun'
        continue
      print(f'{begin} trains; see {trial.directory / OUTPUT}', flush=True)
      reason = _train(trial, signals)
      if trial.finished:
        print(f'{begin} {_result(trial)}', flush=True)
        after_each()
        continue
      unfinished[trial.name] = reason
      print(f'{begin} {reason}', flush=True)
  return unfinished


class _Signals:
  """Passes signals on to the process at hand, and remembers the first."""

  def __init__(self) -> None:
    self.caught: str | None = None
    self._child: subprocess.Popen | None = None
    self._early: int | None = None  # came before there was a process
    self._before: dict[int, Any] = {}

  def __enter__(self) -> _Signals:
    for number in (signal.SIGINT, signal.SIGTERM):
      self._before[number] = signal.signal(number, self._pass_on)
    return self

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _pass_on(self, number: int, frame: Any) -> None:
    del frame
    self.caught = self.caught or signal.Signals(number).name
    if self._child is None:
      self._early = number
    else:
      self._child.send_signal(number)

  def wait(self, child: subprocess.Popen) -> int:
    """Waits for the process at hand; its exit code."""
    self._child = child
    if self._early is not None:
      child.send_signal(self._early)
    code = child.wait()
    self._child = None
    return code


def _train(trial: Trial, signals: _Signals) -> str:
  """Trains a run; why it is not finished, should it not be."""
  with records.writing(trial.directory):
    trial.directory.mkdir(parents=True, exist_ok=True)
    output = (trial.directory / OUTPUT).open('ab')
  with output:
    begin = output.tell()
    # A group of its own: the terminal's Ctrl-C would reach the run twice.
    process = subprocess.Popen(
      [sys.executable, *_dying_with_parent(), 'main.py', *trial.arguments],
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      process_group=0,
    )
    code = signals.wait(process)
  if signals.caught:
    return f'stopped by {signals.caught}; the same command goes on from here.'
  if code < 0:
    return f'ended by {signal.Signals(-code).name}'
  return _last_sentence(trial.directory / OUTPUT, begin)


def _dying_with_parent() -> tuple[str, ...]:
  """Arguments of Python by which a run ends whose sweep was killed.

  Nobody would wait for it. Not done between fork and exec: JAX, which checked
  the configs, has threads here.
  """
  return ('-c', _DYING) if sys.platform == 'linux' else ()


def _last_sentence(path: pathlib.Path, begin: int) -> str:
  """What a run said last of its own accord: its error, if it names one."""
  with path.open('rb') as file:
    file.seek(begin)
    text = file.read().decode(errors='replace')
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  errors = [line for line in lines if line.startswith('error: ')]
  return (errors or lines or ['it ended and said nothing'])[-1]


def _result(trial: Trial) -> str:
  summary = records.read_json(trial.directory / 'summary.json')
  top1 = summary['top1']
  accuracy = 'not evaluated' if top1 is None else f'{top1:.2%}'
  return (
    f'accuracy {accuracy}, sparsity {summary["sparsity"]:.2%}, '
    f'{summary["seconds"]:.1f} s'
  )
