"""What benchmarks/gpu.py measured, for people; and what a trace tells."""

from __future__ import annotations

import collections
import gzip
import json
import math
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import record

Rows = Sequence[dict[str, Any]]


def operations(folder: str | pathlib.Path) -> Rows:
  """The operations of the newest trace in a folder.

  Args:
    folder: given to ``jax.profiler.trace``.

  Returns:
    Rows of name, category, milliseconds and calls, the dearest first. An
    operation's time is without that of the operations inside it. The category
    is the trace's own, or the name without its number.

  Raises:
    FileNotFoundError: no trace there.
  """
  files = pathlib.Path(folder).rglob('*.trace.json.gz')
  newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
  if newest is None:
    raise FileNotFoundError(f'{folder} holds no *.trace.json.gz.')
  with gzip.open(newest) as file:
    events = json.load(file)['traceEvents']
  total: dict[str, list[Any]] = {}
  for event, microseconds in _own_times(_of_operations(events)):
    name = event['args']['hlo_op']
    category = event['args'].get('hlo_category') or _stem(name)
    row = total.setdefault(name, [category, 0.0, 0])
    row[1] += microseconds / 1e3
    row[2] += 1
  return [
    {'name': n, 'category': c, 'ms': round(ms, 4), 'calls': calls}
    for n, (c, ms, calls) in sorted(total.items(), key=lambda x: -x[1][1])
  ]


def summary(rows: Rows, most: int = 20) -> dict[str, Any]:
  """The dearest of :func:`operations`, one by one and by category."""
  kinds: dict[str, float] = collections.defaultdict(float)
  for row in rows:
    kinds[row['category']] += row['ms']
  dearest = sorted(kinds.items(), key=lambda x: -x[1])
  return {
    'ms': round(sum(kinds.values()), 4),
    'categories': {k: round(ms, 4) for k, ms in dearest[:most]},
    'operations': list(rows[:most]),
  }


def tables(chosen: Rows, everything: Rows) -> str:
  """Rows as Markdown, a table for each part and device.

  Args:
    chosen: the rows to show.
    everything: all rows, among them the peaks that steps are held against.

  Returns:
    The text.
  """
  text = []
  for device in sorted({r['device'] for r in chosen}):
    peaks = _peaks([r for r in everything if r['device'] == device])
    for part, show in _TABLES.items():
      rows = [r for r in chosen if (r['part'], r['device']) == (part, device)]
      if rows:
        text.append(f'## {device}: {part}\n\n{show(rows, peaks)}\n')
  return ''.join(text)


def _of_operations(events: Rows) -> list[Rows]:
  """Events of operations, a list for each line of the trace.

  A GPU's trace shows them twice where it has a line 'XLA Ops'.
  """
  derived = {
    (e['pid'], e['tid'])
    for e in events
    if e.get('name') == 'thread_name' and e['args']['name'] == 'XLA Ops'
  }
  lines = collections.defaultdict(list)
  for e in events:
    if e.get('ph') == 'X' and 'hlo_op' in e.get('args', {}):
      lines[e['pid'], e['tid']].append(e)
  return [x for line, x in lines.items() if not derived or line in derived]


def _own_times(lines: list[Rows]) -> list[tuple[dict[str, Any], float]]:
  """Events with their time, less that of the events inside them."""
  found = []
  for line in lines:
    open_events: list[list[Any]] = []
    for e in sorted(line, key=lambda e: (e['ts'], -e['dur'])):
      while open_events and _end(open_events[-1][0]) <= e['ts']:
        found.append(open_events.pop())
      if open_events:
        open_events[-1][1] -= e['dur']
      open_events.append([e, e['dur']])
    found += open_events
  return [(e, max(own, 0.0)) for e, own in found]


def _end(event: dict[str, Any]) -> float:
  return event['ts'] + event['dur']


def _stem(name: str) -> str:
  """An operation's name without the numbers that tell it from its like."""
  return re.sub(r'(\.\d+|\.clone|\.remat)+$', '', name)


def _peaks(rows: Rows) -> dict[str, float]:
  """The best TFLOP/s by precision."""
  best: dict[str, float] = collections.defaultdict(float)
  for r in rows:
    if r['part'] == 'peak':
      median = statistics.median(r['tflops'])
      best[r['program']] = max(best[r['program']], median)
  return best


def _peak_table(rows: Rows, peaks: dict[str, float]) -> str:
  del peaks
  cells = [
    (
      r['program'],
      r['size'],
      f'{statistics.median(r["tflops"]):.4g}',
      f'{min(r["tflops"]):.4g}-{max(r["tflops"]):.4g}',
    )
    for r in rows
  ]
  return record.markdown(('product of', 'size', 'TFLOP/s', 'range'), cells)


def _steps_table(rows: Rows, peaks: dict[str, float]) -> str:
  others = ('channels_last', 'compiled', 'dense')
  cells = []
  for r in rows:
    speed = statistics.median(r['images_per_second'])
    tflops = speed * r['gflops_per_image'] / 1e3
    peak = peaks.get(r['dtype'])
    cells.append(
      (
        f'{r["model"]}, batch {r["batch"]}, {r["dtype"]}',
        r['method'],
        r['program'],
        f'{speed:.0f}',
        f'{tflops / peak:.1%}' if peak else '',
        *(_ratio(r.get(f'over_{p}')) for p in others),
        f'{r["peak_bytes"] / 2**30:.1f} GiB',
        'at once' if r['together'] else 'one by one',
      )
    )
  header = ('model', 'method', 'program', 'images/s', 'of the peak')
  header += tuple(f'speed over {p}' for p in others)
  return record.markdown((*header, 'peak memory', 'measured'), cells)


def _flags_table(rows: Rows, peaks: dict[str, float]) -> str:
  del peaks
  cells = []
  for r in rows:
    measured = 'images_per_second' in r
    speed = statistics.median(r['images_per_second']) if measured else 0.0
    cells.append(
      (
        r['program'],
        f'`{r["flag"]}`' if r['flag'] else '',
        f'{r["model"]}, {r["method"]}, batch {r["batch"]}, {r["dtype"]}',
        f'{speed:.0f}' if measured else 'refused',
        _ratio(r.get('over_none')),
        f'{r["first_seconds"]:.0f} s' if measured else '',
      )
    )
  header = ('flag', 'text', 'step', 'images/s', 'speed over none')
  return record.markdown((*header, 'first step after'), cells)


def _profile_table(rows: Rows, peaks: dict[str, float]) -> str:
  del peaks
  text = []
  for r in rows:
    whole = r['ms'] or math.nan
    text.append(
      f'{r["model"]}, {r["method"]}, batch {r["batch"]}, {r["dtype"]}: '
      f'{whole:.3f} ms in operations\n\n'
    )
    by_kind = [
      (k, f'{ms:.3f}', f'{ms / whole:.1%}') for k, ms in r['categories'].items()
    ]
    by_name = [
      (o['name'], f'{o["ms"]:.3f}', f'{o["ms"] / whole:.1%}', o['calls'])
      for o in r['operations']
    ]
    text.append(record.markdown(('category', 'ms', 'share'), by_kind) + '\n')
    header = ('operation', 'ms', 'share', 'calls')
    text.append(record.markdown(header, by_name) + '\n')
  return ''.join(text)


def _said_table(rows: Rows, peaks: dict[str, float]) -> str:
  del peaks
  cells = [(r.get('program', ''), r['status'], r['said']) for r in rows]
  return record.markdown(('command', 'status', 'said'), cells)


def _ratio(three: Sequence[float] | None) -> str:
  """A median and its range."""
  return f'{three[0]:.2f} ({three[1]:.2f}-{three[2]:.2f})' if three else ''


_TABLES = {
  'peak': _peak_table,
  'steps': _steps_table,
  'flags': _flags_table,
  'profile': _profile_table,
  'thresholds': _said_table,
  'tests': _said_table,
}
