"""Accuracy and sparsity of a config's variants over several seeds.

  python benchmarks/accuracy.py configs/digits.py --variants=str,st3

Runs main.py once a variant and seed, one after the other (finished runs are
taken as they are, interrupted ones go on), and writes three files under
benchmarks/results: <config>.json with every run, <config>.md with the table
(mean, lowest and highest over the seeds) and <config>.svg with the curves.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
KEPT = (
  'config_name',
  'variant',
  'method',
  'model',
  'dataset',
  'note',
  'steps',
  'top1',
  'best_top1',
  'best_validation_top1',
  'eval_loss',
  'sparsity',
  'weights',
  'nonzero',
  'dense_flops',
  'flops',
  'seconds',
  'examples_per_second',
  'device',
  'versions',
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('config', type=pathlib.Path)
  parser.add_argument('--variants', required=True, help='comma-separated')
  parser.add_argument('--seeds', default='0,1,2', help='comma-separated')
  parser.add_argument('--runs', type=pathlib.Path, default=ROOT / 'runs')
  args = parser.parse_args()
  runs = []
  for variant in args.variants.split(','):
    for seed in args.seeds.split(','):
      runs.append(run(args.config, variant, int(seed), args.runs))
  name = args.config.stem
  RESULTS.mkdir(exist_ok=True)
  results = [{k: v for k, v in r.items() if k != 'curve'} for r in runs]
  (RESULTS / f'{name}.json').write_text(json.dumps(results, indent=1) + '\n')
  text = table(runs)
  (RESULTS / f'{name}.md').write_text(text)
  curves(runs).savefig(RESULTS / f'{name}.svg', metadata={'Date': None})
  print(text)


def run(
  config: pathlib.Path, variant: str, seed: int, runs: pathlib.Path
) -> dict[str, Any]:
  """One run of main.py; its summary, and its curve from metrics.jsonl."""
  workdir = runs / f'{config.stem}-{variant}-seed{seed}'
  if not (workdir / 'summary.json').exists():
    command = [
      sys.executable,
      str(ROOT / 'main.py'),
      f'--config={config}:{variant}',
      f'--config.seed={seed}',
      f'--workdir={workdir}',
    ]
    subprocess.run(command, check=True)
  summary = json.loads((workdir / 'summary.json').read_text())
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return (
    {'seed': seed}
    | {k: summary[k] for k in KEPT}
    | {'curve': [json.loads(line) for line in lines]}
  )


def table(runs: list[dict[str, Any]]) -> str:
  """Mean, lowest and highest over the seeds of each variant, as Markdown."""
  lines = [
    '| variant | seeds | test accuracy: mean (lowest to highest) | sparsity '
    '| weights kept | FLOPs of dense | seconds |',
    '|---|---:|---|---:|---:|---:|---:|',
  ]
  for variant in dict.fromkeys(r['variant'] for r in runs):
    of = [r for r in runs if r['variant'] == variant]
    mean = lambda key, of=of: statistics.mean(r[key] for r in of)
    top1 = [r['top1'] for r in of]
    lines.append(
      f'| {variant} | {len(of)} | {mean("top1"):.2%} ({min(top1):.2%} to '
      f'{max(top1):.2%}) | {mean("sparsity"):.2%} | {mean("nonzero"):,.0f} | '
      f'{mean("flops") / of[0]["dense_flops"]:.2%} | {mean("seconds"):.0f} |'
    )
  first = runs[0]
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  lines += ['', f'{first["model"]}, {first["steps"]} steps, {first["device"]}']
  lines[-1] += f'; {versions}. {first["note"]}'.rstrip()
  return '\n'.join(lines) + '\n'


def curves(runs: list[dict[str, Any]]) -> Figure:
  """Validation accuracy and sparsity over training, a line a run."""
  figure = Figure(figsize=(9, 3.4), layout='constrained')
  axes = figure.subplots(1, 2)
  variants = list(dict.fromkeys(r['variant'] for r in runs))
  for r in runs:
    color = f'C{variants.index(r["variant"])}'
    for ax, kind, key in zip(
      axes, ('validation', 'train'), ('accuracy', 'sparsity')
    ):
      points = [p for p in r['curve'] if p['kind'] == kind]
      ax.plot(
        [p['epoch'] for p in points],
        [100 * p[key] for p in points],
        color=color,
        label=r['variant'] if r['seed'] == runs[0]['seed'] else None,
      )
  for ax, title in zip(axes, ('validation accuracy, %', 'zero weights, %')):
    ax.set(xlabel='epoch', title=title)
    ax.grid(alpha=0.3)
  axes[1].legend(frameon=False)
  return figure


if __name__ == '__main__':
  main()
