"""Where the numbers of a run go: files, TensorBoard and the screen."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import time
from typing import Any

import rich.console
import rich.progress
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from str_jax.training import records


class Log:
  """Metrics of one run, cut back to the step that it starts from.

  ``metrics.jsonl`` holds what the same run gives every time, line for line;
  times stand in ``timing.jsonl``.

  Args:
    workdir: the folder of the run.
    start_step: the step that the run goes on from.
    total_steps: its end, for the progress bar.
    batch_size: for examples a second.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    start_step: int,
    total_steps: int,
    batch_size: int,
  ) -> None:
    kept = _cut_back(workdir / 'timing.jsonl', start_step)
    _cut_back(workdir / 'metrics.jsonl', start_step)
    self._metrics = (workdir / 'metrics.jsonl').open('a')
    self._timing = (workdir / 'timing.jsonl').open('a')
    self._board = _Board(workdir / 'tensorboard', start_step + 1)
    self._batch_size = batch_size
    self._earlier = kept[-1]['seconds'] if kept else 0.0
    self._began = self._last = time.perf_counter()
    self._last_step = start_step
    self._paused = 0.0
    self._rates = [record['examples_per_second'] for record in kept]
    self._bar = _Bar(start_step, total_steps)

  def train(self, record: dict[str, Any]) -> None:
    """A line of training metrics; prints it and moves the bar.

    Args:
      record: with step, loss, accuracy, sparsity and more.
    """
    now = time.perf_counter()
    steps = record['step'] - self._last_step
    seconds = max(now - self._last - self._paused, 1e-9)
    rate = steps * self._batch_size / seconds
    self._last, self._last_step, self._paused = now, record['step'], 0.0
    self._rates.append(rate)
    self._write(self._metrics, {'kind': 'train'} | record)
    self._write(
      self._timing,
      {
        'step': record['step'],
        'seconds': round(self.seconds, 3),
        'examples_per_second': round(rate, 1),
      },
    )
    self._scalars('train', record)
    self._board.scalar('train/examples_per_second', rate, record['step'])
    self._bar.train(record, rate)

  def validation(self, record: dict[str, Any], began: float) -> None:
    """A line of validation metrics.

    Args:
      record: with step, loss and accuracy.
      began: when the evaluation began, by ``time.perf_counter``; its time
        does not count as training.
    """
    self._paused += time.perf_counter() - began
    self._write(self._metrics, {'kind': 'validation'} | record)
    self._scalars('validation', record)
    self._board.flush()
    self._bar.validation(record)

  @property
  def seconds(self) -> float:
    """Wall time of the run, over all its starts."""
    return self._earlier + time.perf_counter() - self._began

  @property
  def examples_per_second(self) -> float | None:
    """Median rate over the log lines after the first, which compiles."""
    rates = sorted(self._rates[1:] or self._rates)
    return rates[len(rates) // 2] if rates else None

  def say(self, text: str) -> None:
    """Prints a line above the progress bar."""
    self._bar.say(text)

  def close(self) -> None:
    """Ends the bar and closes the files."""
    self._bar.close()
    self._board.close()
    for file in (self._metrics, self._timing):
      with contextlib.suppress(OSError):  # of a line whose writing failed
        file.close()

  def _write(self, file: Any, record: dict[str, Any]) -> None:
    with records.writing(pathlib.Path(file.name)):
      file.write(json.dumps(record) + '\n')
      file.flush()

  def _scalars(self, kind: str, record: dict[str, Any]) -> None:
    for name, value in record.items():
      if isinstance(value, dict):
        for layer, number in value.items():
          self._board.scalar(f'{name}/{layer}', number, record['step'])
      elif name not in ('step', 'epoch'):
        self._board.scalar(f'{kind}/{name}', value, record['step'])


class _Board:
  """Events for TensorBoard.

  Written at once: tensorboardX's own writer has a thread that dies when the
  disk is full, and whoever hands it more then waits for ever. They are an
  extra: where they cannot be written, the run goes on without.

  Args:
    directory: where they lie; made if missing.
    first_step: from here on, what earlier starts wrote is not shown.
  """

  def __init__(self, directory: pathlib.Path, first_step: int) -> None:
    with records.writing(directory):
      directory.mkdir(exist_ok=True)
      self._file = EventsWriter(str(directory / 'events'))
    start = SessionLog(status=SessionLog.START)
    self._add(step=first_step, file_version='brain.Event:2')
    self._add(step=first_step, session_log=start)

  def scalar(self, name: str, value: float, step: int) -> None:
    self._add(step=step, summary=summary.scalar(name, value))

  def flush(self) -> None:
    with contextlib.suppress(OSError):
      self._file.flush()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()

  def _add(self, **content: Any) -> None:
    with contextlib.suppress(OSError):
      self._file.write_event(Event(wall_time=time.time(), **content))


class Silent:
  """In the place of a log, on all processes but the first."""

  seconds = 0.0
  examples_per_second = None

  def train(self, record: dict[str, Any]) -> None:
    """See :class:`Log`."""

  def validation(self, record: dict[str, Any], began: float) -> None:
    """See :class:`Log`."""

  def say(self, text: str) -> None:
    """See :class:`Log`."""

  def close(self) -> None:
    """See :class:`Log`."""


class _Bar:
  """A progress bar on a terminal, plain lines elsewhere."""

  def __init__(self, start_step: int, total_steps: int) -> None:
    self._total = total_steps
    self._digits = len(str(total_steps))
    self._progress = None
    if sys.stdout.isatty():
      self._progress = rich.progress.Progress(
        rich.progress.BarColumn(bar_width=20),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn('{task.description}'),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn('ETA'),
        rich.progress.TimeRemainingColumn(),
        console=rich.console.Console(file=sys.stdout),
      )
      self._progress.start()
      self._task = self._progress.add_task(
        'compiling', total=total_steps, completed=start_step
      )

  def train(self, record: dict[str, Any], rate: float) -> None:
    text = (
      f'loss {record["loss"]:.3f}  accuracy {record["accuracy"]:6.2%}  '
      f'sparsity {record["sparsity"]:6.2%}  {rate:,.0f} images/s'
    )
    if self._progress:
      self._progress.update(
        self._task, completed=record['step'], description=text
      )
    else:
      self.say(f'{self._step(record)}  {text}')

  def validation(self, record: dict[str, Any]) -> None:
    self.say(
      f'{self._step(record)}  validation: loss {record["loss"]:.3f}  '
      f'accuracy {record["accuracy"]:6.2%}'
    )

  def say(self, text: str) -> None:
    if self._progress:
      self._progress.console.print(text, highlight=False, markup=False)
    else:
      print(text, flush=True)

  def close(self) -> None:
    if self._progress:
      self._progress.stop()

  def _step(self, record: dict[str, Any]) -> str:
    return f'step {record["step"]:>{self._digits}}/{self._total}'


def _cut_back(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
  """Drops the lines after a step: they will be written again."""
  kept = [r for r in records.read_lines(path) if r['step'] <= step]
  records.write_text(path, ''.join(json.dumps(r) + '\n' for r in kept))
  return kept
