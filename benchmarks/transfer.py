"""Spends the budget that STR has learned with other methods.

  python -m benchmarks.transfer configs/cifar10.py --methods=gmp,dnw,st3

Trains STR, writes the sparsity of its layers to a file, trains each method
under that budget, and GMP at the same total sparsity in every layer, all
through the command line (finished runs are taken as they are, interrupted
ones go on). Writes benchmarks/results/<config>_transfer.md.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks.record import RESULTS, ROOT


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('config', type=pathlib.Path)
  parser.add_argument('--methods', default='gmp,dnw,st3', help='variants')
  parser.add_argument('--runs', type=pathlib.Path, default=ROOT / 'runs')
  args = parser.parse_args()
  name = args.config.stem
  learned_in = args.runs / f'{name}-str-seed0'
  learned = train(f'{args.config}:str', learned_in)
  budget = args.runs / f'{name}-budget.csv'
  call('-m', 'str_jax', 'report', f'--budget={budget}', str(learned_in))
  runs = {'str, which learned the budget': learned}
  for method in args.methods.split(','):
    runs[f'{method}, with the budget'] = train(
      f'{args.config}:{method}',
      args.runs / f'{name}-{method}-budget',
      f'--config.method.budget={budget}',
    )
  runs['gmp, the same in every layer'] = train(
    f'{args.config}:gmp',
    args.runs / f'{name}-gmp-uniform',
    f'--config.method.sparsity={learned["sparsity"]:.5f}',
  )
  text = table(runs, learned)
  (RESULTS / f'{name}_transfer.md').write_text(text)
  print(text)


def train(spec: str, workdir: pathlib.Path, *overrides: str) -> dict[str, Any]:
  """The summary of a run of main.py."""
  if not (workdir / 'summary.json').exists():
    call('main.py', f'--config={spec}', f'--workdir={workdir}', *overrides)
  return json.loads((workdir / 'summary.json').read_text())


def call(*arguments: str) -> None:
  subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def off_by(summary: dict[str, Any], learned: dict[str, Any]) -> int:
  """The largest difference, over the layers, in the number of weights kept."""
  kept, wanted = (
    {layer['name']: layer['nonzero'] for layer in s['layers']}
    for s in (summary, learned)
  )
  return max(abs(kept[name] - wanted[name]) for name in wanted)


def table(runs: dict[str, dict[str, Any]], learned: dict[str, Any]) -> str:
  lines = [
    '| method | test accuracy | sparsity | FLOPs of dense | a layer keeps at '
    'most so many weights more or less |',
    '|---|---:|---:|---:|---:|',
  ]
  for name, s in runs.items():
    lines.append(
      f'| {name} | {s["top1"]:.2%} | {s["sparsity"]:.3%} | '
      f'{s["flops"] / s["dense_flops"]:.2%} | {off_by(s, learned)} |'
    )
  facts = f'{learned["model"]}, {learned["steps"]} steps, one seed each.'
  return '\n'.join([*lines, '', f'{facts} {learned["note"]}'.strip()]) + '\n'


if __name__ == '__main__':
  main()
