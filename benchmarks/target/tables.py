"""The study's tables, from its results.

  python -m benchmarks.target.tables

Writes choice.md: validation, seeds that chose; and test.md: test images,
other seeds, our default beside the methods that exist. Both beside this file.
"""

from __future__ import annotations

import collections
import pathlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import record
from benchmarks.target import rows
from benchmarks.target.study import CHOICE, HERE

Records = list[dict[str, Any]]


def main() -> None:
  for name, wanted, accuracy in (
    ('choice', lambda r: r['seed'] < CHOICE, 'validation'),
    ('test', lambda r: 'top1' in r, 'top1'),
  ):
    text = document(HERE, wanted, accuracy)
    if name == 'choice':
      count, worst = exactness(HERE)
      text += (
        f'In {count} runs with a target the weights kept miss its number by '
        f'{worst} at most.\n'
      )
    if text:  # else there is nothing of that kind yet
      (HERE / f'{name}.md').write_text(text)
      print(text)


def document(
  folder: pathlib.Path, wanted: Callable[[Any], bool], accuracy: str
) -> str:
  """All tables of some records: a section for each data set and length."""
  text = []
  for data in rows.DATA:
    records = [r for r in record.read(folder / f'{data}.json') if wanted(r)]
    settings = sorted({(r['changes'], r['steps']) for r in records})
    for changes, steps in settings:
      here = [
        r for r in records if (r['changes'], r['steps']) == (changes, steps)
      ]
      model = ', '.join(sorted({r['model'] for r in here}))
      more = f', {changes}' if changes else ''
      text.append(f'## {data}, {model}, {steps:,} steps{more}\n\n')
      text.append(table(here, accuracy) + '\n')
      text.append(plain(here, accuracy))
  return ''.join(text)


def exactness(folder: pathlib.Path) -> tuple[int, int]:
  """Of all runs with a target of weights: how many, and the worst miss.

  Returns:
    Their number, and the most weights by which one missed what may be kept.
  """
  from str_jax.methods import Target

  worst = count = 0
  for data in rows.DATA:
    for r in record.read(folder / f'{data}.json'):
      if r['row'] in rows.TARGETED and not r.get('diverged'):
        limit = Target(r['target']).kept(r['weights'])
        worst, count = max(worst, abs(limit - r['nonzero'])), count + 1
  return count, worst


def table(records: Records, accuracy: str) -> str:
  """A row's accuracy, its spread over the seeds, and its FLOPs, by target."""
  cells = collections.defaultdict(list)
  for r in records:
    cells[r['row'], r['target']].append(r)
  targets = sorted({t for row, t in cells if row not in rows.PLAIN})
  known = [
    row
    for row in rows.names()
    if row not in rows.PLAIN and any((row, t) in cells for t in targets)
  ]
  header = ['accuracy ± deviation, seeds (FLOPs left)']
  header += [f'{t:.0%} zeros' for t in targets]
  body = [
    [row, *(_cell(cells.get((row, t), []), accuracy) for t in targets)]
    for row in known
  ]
  return record.markdown(header, body)


def plain(records: Records, accuracy: str) -> str:
  """Plain STR, which has no target: what came of each setting of its dial."""
  body = []
  for row, decay in rows.PLAIN.items():
    # A target makes no difference to it.
    runs = {r['seed']: r for r in records if r['row'] == row}.values()
    if runs:
      zeros = [100 * r['sparsity'] for r in runs]
      body.append(
        [
          f'plain STR, decay {decay:g}',
          f'{min(zeros):.2f} to {max(zeros):.2f}%',
          _cell([*runs], accuracy, say_zeros=False),
        ]
      )
  header = ['', 'zeros', 'accuracy ± deviation, seeds (FLOPs left)']
  return record.markdown(header, body) + '\n' if body else ''


def _cell(runs: Records, accuracy: str, say_zeros: bool = True) -> str:
  if not runs:
    return ''
  ended = [r for r in runs if not r.get('diverged')]
  if not ended:
    return 'diverged'
  values = [100 * r[accuracy] for r in ended]
  spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
  flops = _mean(r['flops'] / r['dense_flops'] for r in ended)
  zeros = _mean(r['sparsity'] for r in ended)
  asked = runs[0]['target']
  # A target of FLOPs has other zeros than its row of weights.
  missed = say_zeros and abs(zeros - asked) >= 0.002
  other = f', {zeros:.1%} zeros' if missed else ''
  lost = len(runs) - len(ended)
  other += f', {lost} diverged' if lost else ''
  return (
    f'{statistics.mean(values):.2f}{spread}, {len(ended)} ({flops:.1%}{other})'
  )


def _mean(values: Iterable[float]) -> float:
  return statistics.mean(values)


if __name__ == '__main__':
  main()
