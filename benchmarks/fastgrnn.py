"""Ranks that STR learns, against the same ranks fixed: FastGRNN on digits.

  python benchmarks/fastgrnn.py

For each seed it trains configs/fastgrnn.py with a full rank, and with STR at
each decay; it cuts the dead ranks out, with a full matrix in place of two
factors that would be larger, and trains a plain low-rank cell of the ranks that
were found, with the same seed (finished runs are taken as they are). Parameters
and multiply-adds are those of the cell cut down, and of the others as trained,
whose factors of a high rank are larger than the full matrix. What counts on the
test images are the last weights of each run. Writes fastgrnn.json, with every
run, and fastgrnn.md, with the table, to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
sys.path.insert(0, str(ROOT))

from str_jax import compaction, data, flops  # noqa: E402
from str_jax.training import build, checkpoint, flags, loop  # noqa: E402

KEPT = ('method', 'steps', 'top1', 'seconds', 'device', 'versions')
LEARNED = ('digits', 'digits-0.5')  # variants
FULL = 'digits-full'


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seeds', default='0,1,2,3,4', help='comma-separated')
  parser.add_argument('--runs', type=pathlib.Path, default=ROOT / 'runs')
  args = parser.parse_args()
  runs = []
  seeds = [int(seed) for seed in args.seeds.split(',')]
  for variant in LEARNED:
    learned = [run(variant, variant, seed, args.runs) for seed in seeds]
    fixed = [
      run(f'{variant}, ranks fixed', FULL, r['seed'], args.runs, r['ranks'])
      for r in learned
    ]
    runs += [*learned, *fixed]
  runs += [run(FULL, FULL, seed, args.runs) for seed in seeds]
  RESULTS.mkdir(exist_ok=True)
  text = table(runs)
  (RESULTS / 'fastgrnn.json').write_text(json.dumps(runs, indent=1) + '\n')
  (RESULTS / 'fastgrnn.md').write_text(text)
  print(text)


def run(
  setting: str,
  variant: str,
  seed: int,
  runs: pathlib.Path,
  ranks: Sequence[int] = (),
) -> dict[str, Any]:
  """One run of the trainer, and the size of the cell that comes out of it."""
  spec = f'{ROOT / "configs" / "fastgrnn.py"}:{variant}'
  fields = zip(('w_rank', 'u_rank'), ranks)
  overrides = [f'--config.seed={seed}']
  overrides += [f'--config.model.{field}={rank}' for field, rank in fields]
  config, _ = flags.load_config(spec, overrides)
  name = '-'.join(['fastgrnn', variant, *map(str, ranks)])
  workdir = runs / f'{name}-seed{seed}'
  summary = loop.train(config, workdir, f'{spec} {" ".join(overrides)}')
  method = build.method(config.method)
  dataset = data.load('digits')
  model = build.model(config, dataset.num_classes, method)
  variables = checkpoint.read_variables(workdir)
  if model.gated:
    ranks = tuple(compaction.ranks(model, variables).values())
    model, variables = compaction.compact(model, variables)
  counts = flops.count(model, dataset.image_shape)
  return (
    {'setting': setting, 'seed': seed, 'ranks': list(ranks)}
    | {k: summary[k] for k in KEPT}
    | {
      'top1_compact': accuracy(model, variables, dataset),
      'parameters': sum(np.size(p) for p in jax.tree.leaves(variables)),
      'flops': sum(counts.values()),
    }
  )


def accuracy(model: Any, variables: Any, dataset: data.Dataset) -> float:
  """On the test images, of the model as it would be shipped."""
  (batch,) = data.eval_batches(dataset, 'test', dataset.size('test'))
  images = (batch['image'] - np.array(dataset.mean)) / np.array(dataset.std)
  logits = model.apply({'params': variables['params']}, images.astype('f'))
  return float(np.mean(logits.argmax(-1) == batch['label']))


def table(runs: list[dict[str, Any]]) -> str:
  """Mean, lowest and highest over the seeds of each setting, as Markdown."""
  lines = [
    '| configs/fastgrnn.py | seeds | ranks (W, U) | test accuracy: mean '
    '(lowest to highest) | parameters | multiply-adds | seconds |',
    '|---|---:|---|---|---:|---:|---:|',
  ]
  for setting in dict.fromkeys(r['setting'] for r in runs):
    of = [r for r in runs if r['setting'] == setting]
    mean = lambda key, of=of: statistics.mean(r[key] for r in of)
    ranks = ' '.join(f'({",".join(map(str, r["ranks"]))})' for r in of)
    top1 = [r['top1'] for r in of]
    lines.append(
      f'| {setting} | {len(of)} | {"full" if setting == FULL else ranks} | '
      f'{mean("top1"):.2%} ({min(top1):.2%} to {max(top1):.2%}) | '
      f'{mean("parameters"):,.0f} | {mean("flops"):,.0f} | '
      f'{mean("seconds"):.0f} |'
    )
  first = runs[0]
  versions = ', '.join(f'{k} {v}' for k, v in first['versions'].items())
  lines += ['', f'{first["steps"]} steps, {first["device"]}; {versions}.']
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()
