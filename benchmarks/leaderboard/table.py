"""The leaderboard as Markdown: a row a method, a column a sparsity."""

from __future__ import annotations

import collections
import functools
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
  seeds = sorted({r['seed'] for r in records if r['decay'] is None})
  cell = functools.partial(_cell, seeds=len(seeds))
  parts = [f'## {_title(trained[0])}\n']
  if dense := cells.get(('dense', None)):
    parts.append(f'Dense: {cell(dense, None)}\n')
  shown = [row for row in ROWS if any((row, s) in cells for s in asked)]
  for head, said in (('test accuracy, %', cell), ('FLOPs left, %', _flops)):
    header = [head, *(f'{sparsity:.0%} zeros' for sparsity in asked)]
    body = [[row, *(said(cells[row, s], s) for s in asked)] for row in shown]
    parts.append(record.markdown(header, body))
  parts.append(
    'Mean ± standard deviation over the seeds '
    f'{", ".join(map(str, seeds))}, last checkpoint; zeros are counted over '
    'all convolution and classifier weights. In brackets what differs: zeros '
    'reached, runs where fewer than all seeds are there, runs that diverged. '
    f'{trained[0]["note"] or ""}'.rstrip()
    + '\n'
  )
  return '\n'.join(parts)


def _title(r: dict[str, Any]) -> str:
  side = f', {r["together"]} seeds side by side' if r['together'] else ''
  changes = f', {r["changes"]}' if r['changes'] else ''
  return f'{r["model"]}, {r["steps"]:,} steps, {r["device"]}{side}{changes}'


def _cell(runs: Records, asked: float | None, seeds: int) -> str:
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
  if len(ended) != seeds:
    said.append(f'{len(ended)} run{"s" if len(ended) > 1 else ""}')
  if lost := len(runs) - len(ended):
    said.append(f'{lost} diverged')
  more = f' ({", ".join(said)})' if said else ''
  return f'{mean:.2f} ± {spread:.2f}{more}'


def _flops(runs: Records, asked: float | None) -> str:
  del asked
  left = [r['flops'] / r['dense_flops'] for r in runs if 'diverged' not in r]
  return f'{100 * mean_and_deviation(left)[0]:.1f}' if left else ''
