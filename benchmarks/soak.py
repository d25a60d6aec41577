"""A long run that is killed again and again: does anything grow, or stay?

  python -m benchmarks.soak [--steps=2000]

Trains on the digits by main.py with a worker of the input pipeline and a
checkpoint every 50 steps, once untouched, and once killed (-9) every 200 steps
and started again. Watches memory (the proportional share of every process of
the run), open files, threads and processes; looks after each kill for what is
left behind; and compares the metrics of the two runs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks import record, trials
from benchmarks.trials import Trial

RESULTS = record.RESULTS / 'soak.json'
_LEG = 200
_EVERY_SECONDS = 0.25  # between two samples
_PATIENCE = 10  # seconds for workers to notice that their trainer is gone
_SETTLED = 100  # steps of a leg after which memory should not grow
_SHARED = pathlib.Path('/dev/shm')
FIELDS = {
  'schedule.warmup_steps': 50,
  'log_every_steps': 10,
  'eval_every_steps': 100,
  'checkpoint_every_steps': 50,
  'num_workers': 1,
}


@dataclasses.dataclass
class Sample:
  """What a run's processes hold at a moment.

  Attributes:
    step: the last one printed.
    mb: memory, shared pages counted in parts.
    files: open ones.
    threads: of all processes.
    processes: how many there are.
  """

  step: int
  mb: float
  files: int
  threads: int
  processes: int


class Watch:
  """Follows a run: its steps, and samples of its processes.

  Args:
    process: the run.
  """

  def __init__(self, process: subprocess.Popen[str]) -> None:
    self.process = process
    self.samples: list[Sample] = []
    self.seen: set[psutil.Process] = set()
    self.output = ''
    self.step = 0
    self._reader = threading.Thread(target=self._read)
    self._reader.start()

  def until(self, step: int) -> None:
    """Takes samples until a step is printed or the run ends."""
    while self.step < step and self.process.poll() is None:
      self._sample()
      time.sleep(_EVERY_SECONDS)

  def close(self) -> int:
    """Waits for the end of the run; its exit code."""
    code = self.process.wait()
    self._reader.join()
    return code

  def alive(self) -> list[int]:
    """The processes of the run that are still there."""
    return [p.pid for p in self.seen if p.is_running()]

  def _read(self) -> None:
    assert self.process.stdout is not None
    for line in self.process.stdout:
      self.output += line
      words = line.split()
      if words[:1] == ['step'] and 'loss' in words:
        # 'step  10/300' and 'step 100/300'
        self.step = int(words[1].split('/')[0])

  def _sample(self) -> None:
    with contextlib.suppress(psutil.Error):  # one ended meanwhile
      root = psutil.Process(self.process.pid)
      tree = [root, *root.children(recursive=True)]
      self.seen.update(tree)
      self.samples.append(
        Sample(
          self.step,
          sum(p.memory_full_info().pss for p in tree) / 1e6,
          sum(p.num_fds() for p in tree),
          sum(p.num_threads() for p in tree),
          len(tree),
        )
      )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=2000)
  steps = parser.parse_args().steps
  with tempfile.TemporaryDirectory() as name:
    fields = FIELDS | {'total_steps': steps}
    untouched = Trial(pathlib.Path(name, 'untouched'), fields)
    legs = [leg(untouched, None)]
    killed = Trial(pathlib.Path(name, 'killed'), fields)
    for stop in [*range(_LEG, steps, _LEG), None]:
      legs.append(leg(killed, stop))
      shown = {k: v for k, v in legs[-1].items() if k != 'curve'}
      print(json.dumps(shown), flush=True)
    found = {
      'steps': steps,
      'metrics.jsonl': trials.equal(
        killed.workdir / 'metrics.jsonl', untouched.workdir / 'metrics.jsonl'
      ),
      'files': compared(killed.workdir, untouched.workdir),
      'legs': legs,
    }
  origin = record.origin(('jax', 'flax', 'orbax-checkpoint', 'grain'))
  record.keep(RESULTS, [found | origin], ('steps',), table)
  RESULTS.with_suffix('.svg').write_text(picture(found))
  print(table([found]))


def leg(trial: Trial, stop: int | None) -> dict[str, Any]:
  """Starts a run, watches it, kills it at a step and looks what is left.

  Args:
    trial: the run.
    stop: the step that it is killed at; None lets it end.

  Returns:
    What a leg shows; ``curve`` holds steps and MB.
  """
  before = set(os.listdir(_SHARED))
  (process,) = trial.start()
  watch = Watch(process)
  try:
    watch.until(stop or int(1e9))
  finally:
    process.kill()
  code = watch.close()
  if code and not stop:
    raise SystemExit(watch.output)
  began = time.monotonic()
  # What other programs of the machine share in the meantime comes and goes.
  shared = set(os.listdir(_SHARED)) - before
  while time.monotonic() - began < _PATIENCE:
    shared &= set(os.listdir(_SHARED))
    if not watch.alive() and not shared:
      break
    time.sleep(0.05)
  return {
    'from': int(trials.went_on(watch.output)),
    'to': watch.step,
    'exit code': code,
    **measured(watch.samples),
    'gone after s': round(time.monotonic() - began, 2),
    'processes left': len(watch.alive()),
    'shared memory left': len(shared),
  }


def measured(samples: Sequence[Sample]) -> dict[str, Any]:
  """Peak and growth of a leg, once its first steps are over."""
  training = [s for s in samples if s.step]
  first = training[0].step if training else 0
  settled = [s for s in training if s.step >= first + _SETTLED]
  steps, mb = [s.step for s in settled], [s.mb for s in settled]
  slope = None
  if len(set(steps)) > 2:
    slope = round(float(np.polyfit(steps, mb, 1)[0] * 1000), 1)
  most = lambda name: max((getattr(s, name) for s in samples), default=0)
  return {
    'samples': len(samples),
    'peak MB': round(most('mb')),
    'median MB': round(float(np.median(mb))) if mb else None,
    'MB per 1,000 steps': slope,
    'files': most('files'),
    'threads': most('threads'),
    'processes': most('processes'),
    'curve': [[s.step, round(s.mb, 1)] for s in training],
  }


def compared(ours: pathlib.Path, theirs: pathlib.Path) -> str:
  """Whether two workdirs hold files of the same names, else which not.

  Not those within a checkpoint, named by chance, and for TensorBoard, one for
  each start.
  """

  def names(folder: pathlib.Path) -> set[str]:
    found = [*folder.glob('*'), *folder.glob('checkpoints/*')]
    return {str(path.relative_to(folder)) for path in found}

  apart = names(ours) ^ names(theirs)
  return ' '.join(sorted(apart)) or 'the same'


_COLUMNS = (
  *('from', 'to', 'exit code', 'peak MB', 'median MB'),
  *('MB per 1,000 steps', 'files', 'threads', 'processes'),
  *('gone after s', 'processes left', 'shared memory left'),
)


def table(rows: list[dict[str, Any]]) -> str:
  """All soaks as Markdown."""
  text = ''
  for row in rows:
    names = ['untouched', *(str(i + 1) for i in range(len(row['legs']) - 1))]
    cells = [
      [name, *(_cell(leg, column) for column in _COLUMNS)]
      for name, leg in zip(names, row['legs'])
    ]
    medians = [leg['median MB'] for leg in row['legs'][1:]]
    text += record.markdown(['leg', *_COLUMNS], cells)
    text += (
      f'\n{row["steps"]} steps, killed every {_LEG}: metrics.jsonl '
      f'{row["metrics.jsonl"]}, names of files {row["files"]}; median '
      f'memory of a leg {min(medians)} to {max(medians)} MB.\n'
    )
  return text


def _cell(leg: dict[str, Any], column: str) -> Any:
  """A leg's value; no growth of a short one, where it is but noise."""
  short = leg['to'] - leg['from'] < 5 * _SETTLED
  return '' if column == 'MB per 1,000 steps' and short else leg[column]


def picture(row: dict[str, Any]) -> str:
  """The memory of both runs over their steps, as SVG."""
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(7, 3))
  for number, leg in enumerate(row['legs']):
    steps, mb = zip(*leg['curve'])
    color, label = ('tab:gray', 'untouched') if not number else ('tab:blue', '')
    label = 'killed every 200 steps' if number == 1 else label
    axes.plot(steps, mb, color=color, label=label or None, linewidth=1)
  axes.set(xlabel='step', ylabel='MB', ylim=(0, None))
  axes.legend(loc='lower right', frameon=False)
  figure.tight_layout()
  text = io.StringIO()
  figure.savefig(text, format='svg', metadata={'Date': None})
  pyplot.close(figure)
  return text.getvalue()


if __name__ == '__main__':
  main()
