"""Where the numbers of a run go: files, TensorBoard, W&B and the screen."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.console
import rich.progress
from ml_collections import ConfigDict

from str_jax.training import records
from str_jax.training.writers import Board
from str_jax.training.writers_wandb import WandB


class Log:
  """Metrics of one run, cut back to the step that it starts from.

  ``metrics.jsonl`` holds what the same run gives every time, line for line;
  times stand in ``timing.jsonl``.

  Args:
    workdir: the folder of the run.
    config: of the run.
    start_step: the step that the run goes on from.
    total_steps: its end, for the progress bar.
    batch_size: for examples a second.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    config: ConfigDict,
    *,
    start_step: int,
    total_steps: int,
    batch_size: int,
  ) -> None:
    kept, _ = _cut_back(workdir / 'timing.jsonl', start_step)
    _, again = _cut_back(workdir / 'metrics.jsonl', start_step)
    self._metrics = (workdir / 'metrics.jsonl').open('a')
    self._timing = (workdir / 'timing.jsonl').open('a')
    self._board = Board(workdir / 'tensorboard', start_step + 1)
    self._wandb = None
    if config.get('wandb') is not None:
      self._wandb = WandB(workdir, config.wandb, config, again)
    self._config = config
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
    self._scalars('train', record | {'examples_per_second': rate})
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

  def histograms(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Shows in TensorBoard how arrays are distributed.

    Args:
      arrays: by their tags.
      step: that they are of.
    """
    self._board.histograms(arrays, step)

  def results(self, summary: Mapping[str, Any]) -> None:
    """What the run came to, for TensorBoard and W&B; ends the bar.

    Args:
      summary: the content of summary.json.
    """
    self._bar.close()
    self._board.finish(self._config, summary, summary['steps'])
    if self._wandb is not None:
      self._wandb.finish(summary)

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
    if self._wandb is not None:
      self._wandb.close()
    for file in (self._metrics, self._timing):
      with contextlib.suppress(OSError):  # of a line whose writing failed
        file.close()

  def _write(self, file: Any, record: dict[str, Any]) -> None:
    with records.writing(pathlib.Path(file.name)):
      file.write(json.dumps(record) + '\n')
      file.flush()

  def _scalars(self, kind: str, record: dict[str, Any]) -> None:
    values: dict[str, float] = {}
    for name, value in record.items():
      if isinstance(value, dict):
        values |= {f'{name}/{layer}': x for layer, x in value.items()}
      elif name != 'step':
        values[f'{kind}/{name}'] = value
    self._board.scalars(values, record['step'])
    if self._wandb is not None:
      self._wandb.scalars(kind, values, record['step'])


class Silent:
  """In the place of a log, on all processes but the first."""

  seconds = 0.0
  examples_per_second = None

  def train(self, record: dict[str, Any]) -> None:
    """See :class:`Log`."""

  def validation(self, record: dict[str, Any], began: float) -> None:
    """See :class:`Log`."""

  def histograms(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
    """See :class:`Log`."""

  def results(self, summary: Mapping[str, Any]) -> None:
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


def _cut_back(
  path: pathlib.Path, step: int
) -> tuple[list[records.Record], list[records.Record]]:
  """The lines up to a step, and those after it: these are dropped."""
  lines = records.read_lines(path)
  kept = [r for r in lines if r['step'] <= step]
  records.write_text(path, ''.join(json.dumps(r) + '\n' for r in kept))
  return kept, [r for r in lines if r['step'] > step]
