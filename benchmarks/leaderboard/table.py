"""The leaderboard as Markdown: a row a method, a column a sparsity."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from benchmarks import record
from benchmarks.leaderboard.rows import ROWS, mean_and_deviation

Records = Sequence[dict[str, Any]]


def table(records: Records) -> str:
  """All tables of a board: one for each device and each set of changes."""
  groups = collections.defaultdict(list)
  for r in records:
    groups[r['device'], r['changes'], r['together']].append(r)
  return '\n'.join(_one(groups[key]) for key in sorted(groups))


def _one(records: Records) -> str:
  trained = [r for r in records if 'diverged' not in r]
  if not trained:
    return 'Every run diverged.\n'
  cells = collections.defaultdict(list)
  for r in records:
    if r['decay'] is None:  # no calibration
      cells[r['row'], r['asked']].append(r)
  asked = sorted({s for _, s in cells if s is not None})
  header = ['test accuracy, %']
  header += [f'{sparsity:.0%} zeros' for sparsity in asked]
  body = [
    [row, *(_cell(cells.get((row, s), []), s) for s in asked)]
    for row in ROWS
    if row != 'dense' and any((row, s) in cells for s in asked)
  ]
  flops = [
    [row, *(_flops(cells.get((row, s), [])) for s in asked)]
    for row in ROWS
    if row != 'dense' and any((row, s) in cells for s in asked)
  ]
  first = trained[0]
  lines = [f'## {_title(first)}\n\n']
  if dense := cells.get(('dense', None)):
    lines.append(f'Dense: {_cell(dense, None)}\n\n')
  lines += [record.markdown(header, body), '\n']
  header[0] = 'FLOPs left, %'
  lines += [record.markdown(header, flops), '\n']
  seeds = sorted({r['seed'] for r in records if r['decay'] is None})
  lines.append(
    'Mean ± standard deviation over the seeds '
    f'{", ".join(map(str, seeds))}, last checkpoint; zeros are counted over '
    'all convolution and classifier weights. In brackets what differs: zeros '
    'reached, runs where fewer than all seeds are there, runs that diverged. '
    f'{first["note"] or ""}'.rstrip()
    + '\n'
  )
  return ''.join(lines)


def _title(r: dict[str, Any]) -> str:
  side = f', {r["together"]} seeds side by side' if r['together'] else ''
  changes = f', {r["changes"]}' if r['changes'] else ''
  return f'{r["model"]}, {r["steps"]:,} steps, {r["device"]}{side}{changes}'


def _cell(runs: Records, asked: float | None) -> str:
  ended = [r for r in runs if 'diverged' not in r]
  if not runs:
    return ''
  if not ended:
    return 'diverged'
  mean, spread = mean_and_deviation([100 * r['top1'] for r in ended])
  said = []
  zeros, _ = mean_and_deviation([r['sparsity'] for r in ended])
  if asked is not None and abs(zeros - asked) >= 5e-4:
    said.append(f'{zeros:.1%} zeros')
  if len(ended) != 3:
    said.append(f'{len(ended)} run{"s" if len(ended) > 1 else ""}')
  if lost := len(runs) - len(ended):
    said.append(f'{lost} diverged')
  more = f' ({", ".join(said)})' if said else ''
  return f'{mean:.2f} ± {spread:.2f}{more}'


def _flops(runs: Records) -> str:
  left = [r['flops'] / r['dense_flops'] for r in runs if 'diverged' not in r]
  return f'{100 * mean_and_deviation(left)[0]:.1f}' if left else ''
