"""What the leaderboard trains: boards (data, network, length) and methods.

Every row of a board has the same network, data, batch, schedule, clipping and
number of steps; only the method differs. Those whose sparsity rises do so on
one course, from 5% to 50% of the steps, the trainer's default for a target.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Fields = dict[str, Any]
Records = Sequence[Mapping[str, Any]]

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)
# The study of targets chose the defaults with seeds below 5, on validation.
SEEDS = (5, 6, 7)


@dataclasses.dataclass(frozen=True)
class Board:
  """A table's data, network and length.

  Attributes:
    config: of the trainer, with its variant.
    fields: of the config, for all rows.
    start: of the rising sparsity: the fields for it.
    decays: of plain STR, that its decay at a sparsity is read off.
  """

  config: str
  fields: Fields
  start: Fields
  decays: tuple[float, ...]


# Without clipping straight-through gradients diverge at 98% and beyond.
BOARDS = {
  'digits': Board(
    'configs/digits.py:dense',
    {'optimizer.clip_norm': 3.0},
    {'method.start_steps': 60, 'method.end_steps': 600},
    (4e-3, 6e-3, 1e-2, 1.6e-2, 3e-2),
  ),
  'cifar10_short': Board(
    'configs/cifar10.py:dense',
    {
      'model.name': 'resnet8',
      'total_steps': 300,
      'schedule.warmup_steps': 15,
      'optimizer.clip_norm': 3.0,
    },
    {'method.start_steps': 15, 'method.end_steps': 150},
    (5e-3, 1e-2, 1.4e-2, 2e-2),
  ),
  'cifar10': Board(
    'configs/cifar10.py:dense-paper',
    {},
    {'method.start_epochs': 8.0, 'method.end_epochs': 80.0},
    (1e-4, 3e-4, 1e-3),
  ),
}

_PLAIN = 'STR'
# What a row sets beside the sparsity; those of _RISING also the course.
ROWS: dict[str, Fields] = {
  'dense': {'method.name': 'dense'},
  _PLAIN: {'method.name': 'str', 'method.init_value': -10.0},
  'STR, target': {'method.name': 'str'},
  'ST-3': {'method.name': 'st3'},
  'ST-3 sigma': {'method.name': 'st3_sigma'},
  'Feather': {'method.name': 'feather'},
  'GMP': {'method.name': 'gmp'},
  'GMP, global': {'method.name': 'gmp', 'method.budget': 'global'},
  'DNW': {'method.name': 'dnw'},
  'DNW, ERK': {'method.name': 'dnw', 'method.budget': 'erk'},
}
_RISING = ('ST-3', 'ST-3 sigma', 'Feather', 'GMP', 'GMP, global')


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of a board.

  Attributes:
    row: of ROWS.
    sparsity: asked for; None for the dense row and for calibrations.
    seed: of weights, order and augmentation.
    decay: of a calibration of plain STR.
  """

  row: str
  sparsity: float | None
  seed: int
  decay: float | None = None


def runs(
  board: Board,
  rows: Sequence[str],
  sparsities: Sequence[float],
  seeds: Sequence[int],
) -> list[Run]:
  """All trainings of a table, each sparsity with all seeds before the next."""
  found = []
  if 'dense' in rows:
    found += [Run('dense', None, seed) for seed in seeds]
  if _PLAIN in rows:
    found += [Run(_PLAIN, None, seeds[0], decay) for decay in board.decays]
  return found + [
    Run(row, sparsity, seed)
    for seed in seeds
    for sparsity in sparsities
    for row in rows
    if row != 'dense'
  ]


def fields(board: Board, run: Run, records: Records) -> Fields:
  """What a run sets in the board's config.

  Plain STR has no dial for its sparsity but weight decay. Some trainings with
  one seed show what sparsity a decay gives, and the decay for a sparsity is
  read off them; no accuracy has a say.

  Args:
    board: of the run.
    run: to be made.
    records: of the board's runs so far.

  Returns:
    The fields, with dotted names.

  Raises:
    LookupError: plain STR before its calibrations.
  """
  chosen = board.fields | ROWS[run.row] | {'seed': run.seed}
  if run.row in _RISING:
    chosen |= board.start
  if run.row == _PLAIN:
    points = {
      r['decay']: r['sparsity']
      for r in records
      if r['row'] == _PLAIN and r['decay'] is not None
    }
    if run.decay is None and len(points) < len(board.decays):
      raise LookupError(f'the row {_PLAIN} needs all of its calibrations.')
    decay = run.decay or decay_for(run.sparsity or 0.0, points)
    return chosen | {'optimizer.weight_decay': decay}
  if run.row == 'STR, target':
    return chosen | {'method.target': run.sparsity}
  return chosen | ({'method.sparsity': run.sparsity} if run.sparsity else {})


def decay_for(sparsity: float, points: dict[float, float]) -> float:
  """The decay at which STR is thought to reach a sparsity, two digits of it.

  The line through (log decay, log density) of the two decays between whose
  sparsities it lies, or that are nearest; at most three times beyond them.

  >>> decay_for(0.95, {1e-4: 0.9, 1e-3: 0.99})
  0.0002
  """
  full = 1 - 1e-6  # a network that died has no density whose log there is
  known = sorted(
    (math.log(1 - min(s, full)), math.log(d)) for d, s in points.items()
  )
  wanted = math.log(1 - sparsity)
  place = bisect.bisect([x for x, _ in known], wanted)
  right = min(max(place, 1), len(known) - 1)
  (x0, y0), (x1, y1) = known[right - 1], known[right]
  slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
  low, high = (math.log(f(points)) for f in (min, max))
  y = y0 + slope * (wanted - x0)
  y = min(max(y, low - math.log(3)), high + math.log(3))
  return float(f'{math.exp(y):.1e}')


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
  """The mean, and the sample's standard deviation (0 of a single value)."""
  spread = statistics.stdev(values) if len(values) > 1 else 0.0
  return statistics.mean(values), spread
