"""The table of a sweep: mean and standard deviation over its seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from str_jax.training import console as consoles
from str_jax.training import records, summaries
from str_jax.training.sweeps import Sweep, Trial

_MEASURES = ('top1', 'sparsity', 'flops', 'seconds')
_HEADS = ('accuracy %', 'sparsity %', 'MFLOPs', 'seconds')
_SCALES = (100, 100, 1e-6, 1)
_DIGITS = (2, 2, 3, 1)
CAPTION = (
  'Mean ± standard deviation over the seeds (n - 1): accuracy of the last '
  'checkpoint on test, multiply-adds (millions) of the weights that are not '
  'zero, wall time of a run.'
)


def rows(sweep: Sweep) -> list[dict[str, Any]]:
  """A row for every combination of values, from its finished runs.

  Args:
    sweep: the sweep.

  Returns:
    For each the swept fields as text, ``n``, ``runs`` (how many there are to
    be), and of top1, sparsity, flops and seconds ``_mean`` and ``_std``; None
    where there is none: no run finished, or a single one for ``_std``.
  """
  groups: dict[tuple[str, ...], list[Trial]] = {}
  for trial in sweep.trials:
    groups.setdefault(trial.values, []).append(trial)
  table = []
  for values, trials in groups.items():
    found = [_summary(trial) for trial in trials if trial.finished]
    row: dict[str, Any] = dict(zip(sweep.labels, values))
    row |= {'n': len(found), 'runs': len(trials)}
    for name in _MEASURES:
      numbers = [s[name] for s in found if s[name] is not None]
      row[f'{name}_mean'] = statistics.mean(numbers) if numbers else None
      row[f'{name}_std'] = (
        statistics.stdev(numbers) if len(numbers) > 1 else None
      )
    table.append(row)
  return table


def write(sweep: Sweep, unfinished: Mapping[str, str]) -> None:
  """Writes sweep.md, sweep.csv and sweep.json into the sweep's folder.

  Args:
    sweep: the sweep, its folder made.
    unfinished: from a run's name to why it is not finished.

  Raises:
    OSError: they cannot be written.
  """
  table = rows(sweep)
  text = io.StringIO()
  writer = csv.DictWriter(text, list(table[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(table)
  records.write_text(sweep.directory / 'sweep.csv', text.getvalue())
  records.write_text(
    sweep.directory / 'sweep.md', _markdown(sweep, table, unfinished)
  )
  runs = [
    {'name': trial.name, 'seed': trial.seed, 'command': trial.command}
    | dict(zip(sweep.labels, trial.values))
    | (_summary(trial) if trial.finished else {})
    for trial in sweep.trials
  ]
  records.write_json(
    sweep.directory / 'sweep.json',
    sweep.owner | {'rows': table, 'runs': runs, 'unfinished': dict(unfinished)},
  )


def show(sweep: Sweep, unfinished: Mapping[str, str]) -> None:
  """Prints the table, and the runs that are not finished.

  Args:
    sweep: the sweep.
    unfinished: from a run's name to why it is not finished.
  """
  table = rich.table.Table(title=str(sweep.directory))
  for head in _heads(sweep):
    table.add_column(head, justify='right')
  for row in rows(sweep):
    table.add_row(*_cells(sweep, row))
  consoles.wide().print(table)
  print(CAPTION)
  for name, reason in unfinished.items():
    print(f'not finished: {name}: {reason}')


def _summary(trial: Trial) -> dict[str, Any]:
  summary = summaries.summary(trial.directory)
  return {name: summary[name] for name in (*_MEASURES, 'dense_flops', 'steps')}


def _heads(sweep: Sweep) -> list[str]:
  return [*sweep.labels, 'n', *_HEADS]


def _cells(sweep: Sweep, row: Mapping[str, Any]) -> Sequence[str]:
  """A row as it is read."""
  n = str(row['n'])
  if row['n'] < row['runs']:
    n += f' of {row["runs"]}'
  cells = [*(row[field] for field in sweep.labels), n]
  for name, scale, digits in zip(_MEASURES, _SCALES, _DIGITS):
    mean, deviation = row[f'{name}_mean'], row[f'{name}_std']
    cell = '' if mean is None else f'{mean * scale:.{digits}f}'
    if deviation is not None:
      cell += f' ± {deviation * scale:.{digits}f}'
    cells.append(cell)
  return cells


def _markdown(
  sweep: Sweep,
  table: Sequence[Mapping[str, Any]],
  unfinished: Mapping[str, str],
) -> str:
  heads = _heads(sweep)
  lines = [heads, ['---:'] * len(heads), *(_cells(sweep, r) for r in table)]
  text = ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)
  text += f'\n{CAPTION}\n'
  if unfinished:
    text += '\nNot finished:\n\n'
    text += ''.join(f'- {name}: {why}\n' for name, why in unfinished.items())
  return text
