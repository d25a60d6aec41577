"""What happens to a run, done for real; what is lost by it.

  python -m benchmarks.faults [--kills=20] [--only=NAME]

Every fault is caused to a run of 300 steps on the digits, started by main.py
as a user starts it; then the same command is given again. A row says what was
done, how the program ended and what it said, from which step it went on, and
whether metrics.jsonl is in the end the one of a run that nothing happened to,
byte for byte. The faults of the disk need leave to mount a tmpfs (root).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import signal
import tempfile
import time
from typing import Any

from benchmarks import fault_causes, processes, record, trials
from benchmarks.fault_causes import FAULTS
from benchmarks.trials import Ended, Trial

RESULTS = record.RESULTS / 'faults.json'
_TOPOLOGIES = 'devices: 1, then 8, then 2 x 4'
COLUMNS = (
  'fault',
  'exit code',
  'said',
  'went on from',
  'metrics.jsonl',
  'checkpoints',
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--only', help='faults whose names hold one of A,B,...')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    untouched = Untouched(folder)
    causes = dict(FAULTS)
    moments = random.Random(0)
    for i in range(args.kills):  # spread over the run, none foreseeable
      share = (i + moments.random()) / args.kills
      causes[f'kill -9 at {share:>3.0%} of its time'] = lambda trial, s=share: (
        fault_causes.killed_at(trial, s * untouched.seconds)
      )
    asked = lambda fault: any(
      part in fault for part in (args.only or '').split(',')
    )
    for number, (fault, cause) in enumerate(causes.items()):
      if asked(fault):
        trial = Trial(folder / str(number))
        if fault in FAULTS:  # only a kill may hit the compiling
          trial.cache = folder / 'compiled'
        with trial.after:
          keep(fault, faced(trial, cause, untouched))
    if asked(_TOPOLOGIES):
      trial = Trial(folder / 'moved')
      with trial.after:
        keep(_TOPOLOGIES, moved(trial, untouched))


def keep(fault: str, found: dict[str, Any]) -> None:
  """Puts a row into the results."""
  row = {'fault': fault} | found
  print(json.dumps(row), flush=True)
  origin = record.origin(('jax', 'flax', 'orbax-checkpoint', 'grain'))
  record.keep(RESULTS, [row | origin], ('fault',), table)


class Untouched:
  """Runs that nothing happens to, one for each number of processes.

  Args:
    folder: where they lie.
  """

  def __init__(self, folder: pathlib.Path) -> None:
    self._folder = folder
    self._runs: dict[int, Trial] = {}
    began = time.monotonic()
    self.of(1)
    self.seconds = time.monotonic() - began

  def of(self, count: int) -> Trial:
    """The finished run of so many processes."""
    if count not in self._runs:
      trial = Trial(self._folder / f'untouched-{count}')
      checked(trial.run(processes=count))
      self._runs[count] = trial
    return self._runs[count]


def faced(
  trial: Trial, cause: fault_causes.Cause, untouched: Untouched
) -> dict[str, Any]:
  """Causes a fault, gives the same command again and compares.

  Args:
    trial: a new run.
    cause: the fault.
    untouched: what to compare with.

  Returns:
    The columns of a row but for the first.
  """
  try:
    ended = cause(trial)
  except fault_causes.NotHere as error:
    return {'said': str(error)}
  count = trial.processes
  again = trial.run(processes=count)
  said = [
    sentence
    for _, output in [*ended, *again]
    for sentence in trials.sentences(output, trial.folder)
  ]
  theirs = untouched.of(count)
  return {
    'exit code': ', '.join(str(code) for code, _ in ended),
    'said': ' '.join(said),
    'went on from': trials.went_on(again[0][1]),
    'metrics.jsonl': trials.equal(
      trial.workdir / 'metrics.jsonl', theirs.workdir / 'metrics.jsonl'
    ),
    'checkpoints': ' '.join(trial.checkpoints)
    + (
      ''
      if trial.checkpoints == theirs.checkpoints
      else f' (untouched: {" ".join(theirs.checkpoints)})'
    ),
    'exit code again': ', '.join(str(code) for code, _ in again),
  }


def moved(trial: Trial, untouched: Untouched) -> dict[str, Any]:
  """Stops a run twice, each time to go on with it on other devices."""
  ended = fault_causes.stopped(trial, signal.SIGTERM, 100)
  (process,) = trial.start(devices=8)
  began = trials.reach(process, 200)
  process.send_signal(signal.SIGTERM)
  ended.append(trials.end(process))
  checked(ended)
  last = checked(trial.run(processes=2, devices=4))
  ours, theirs = (
    processes.metrics(run.workdir) for run in (trial, untouched.of(1))
  )
  apart = [abs(a['loss'] - b['loss']) for a, b in zip(ours, theirs)]
  first = int(trials.went_on(began))
  return {
    'exit code': ', '.join(str(code) for code, _ in ended),
    'said': ' '.join(
      sentence
      for _, output in ended
      for sentence in trials.sentences(output, trial.folder)
    ),
    'went on from': f'{first}, {trials.went_on(last[0][1])}',
    'metrics.jsonl': (
      f'{len(ours)} of {len(theirs)} lines; loss apart: '
      f'{max(apart[:first]):.0e} before, {max(apart[first : first + 3]):.0e} '
      f'in the 3 steps after the first change, {max(apart):.0e} at most'
    ),
    'checkpoints': ' '.join(trial.checkpoints),
  }


def checked(ended: list[Ended]) -> list[Ended]:
  """Runs that are to end well; a SystemExit if one did not."""
  if any(code for code, _ in ended):
    raise SystemExit('\n'.join(output for _, output in ended))
  return ended


def table(rows: list[dict[str, Any]]) -> str:
  """All rows as Markdown, the killed ones in the order of their moments."""
  equal = sum(row.get('metrics.jsonl') == 'equal' for row in rows)
  cells = [[row.get(column, '') for column in COLUMNS] for row in rows]
  return (
    f'{record.markdown(COLUMNS, cells)}\n{equal} of {len(rows)} runs end with '
    'the metrics.jsonl of the untouched run, byte for byte.\n'
  )


if __name__ == '__main__':
  main()
