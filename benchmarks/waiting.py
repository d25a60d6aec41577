"""How long a training step waits for its batch.

  python -m benchmarks.waiting

Trains on generated JPEGs of 500 x 375 by the trainer's own
step and pipeline, and notes for each step when its batch was asked for, when
it was there, and when the step was done. A pipeline that is faster than the
step prepares the next batch while the step computes: the wait should be
nothing but taking it out of a queue.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any

from benchmarks import input_pipeline, record

_FIRST = 3  # steps that compile and fill the queues


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', default='resnet18')
  parser.add_argument('--batch', type=int, default=16)
  parser.add_argument('--size', type=int, default=224)
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--workers', default='0,1')
  parser.add_argument('--no-write', action='store_true')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    input_pipeline.write(pathlib.Path(folder), 4 * args.batch)
    found = {
      int(w): timeline(pathlib.Path(folder), args, int(w))
      for w in args.workers.split(',')
    }
  rows = [
    {
      'model': args.model,
      'batch': args.batch,
      'size': args.size,
      'workers': workers,
      **summary(moments),
      'timeline': moments,
      'device': record.device(),
      **record.origin(('jax', 'flax', 'grain')),
    }
    for workers, moments in found.items()
  ]
  print(table(rows))
  if not args.no_write:
    path = record.RESULTS / 'waiting.json'
    key = ('model', 'batch', 'size', 'workers', 'device')
    draw(record.keep(path, rows, key, table), path.with_suffix('.svg'))


def timeline(
  folder: pathlib.Path, args: argparse.Namespace, workers: int
) -> list[tuple[float, float, float]]:
  """When each step's batch was asked for and there, and when it was done."""
  import jax

  from str_jax.training import flags, loop

  config, _ = flags.load_config(
    str(record.ROOT / 'configs' / 'imagefolder.py:str'),
    [
      f'--config.model.name={args.model}',
      f'--config.batch_size={args.batch}',
      f'--config.image_size={args.size}',
      f'--config.num_workers={workers}',
      '--config.dataset=photographs',
      f'--config.data_dir={folder}',
      '--config.total_steps=1000',
      '--config.schedule.warmup_steps=1',
    ],
  )
  run = loop.Run(config, folder / f'run-{workers}')
  stage = run.stage(run.plan.phases[0])
  state = stage.init(0)
  batches = run.placement.ahead(run.batches())
  moments, began = [], 0.0
  for step in range(_FIRST + args.steps):
    if step == _FIRST:
      began = time.perf_counter()
    asked = time.perf_counter()
    batch = next(batches)
    there = time.perf_counter()
    # As a step on an accelerator is: done before the next is asked for.
    state = jax.block_until_ready(stage.train_step(state, batch))
    done = time.perf_counter()
    if step >= _FIRST:
      moments.append(tuple(round(t - began, 6) for t in (asked, there, done)))
  return moments


def summary(moments: list[tuple[float, float, float]]) -> dict[str, float]:
  """Median and longest wait, median step, and the share of time waited."""
  waits = sorted(there - asked for asked, there, _ in moments)
  steps = sorted(done - there for _, there, done in moments)
  return {
    'wait_ms': 1e3 * waits[len(waits) // 2],
    'longest_ms': 1e3 * waits[-1],
    'step_ms': 1e3 * steps[len(steps) // 2],
    'share': sum(waits) / moments[-1][-1],
  }


def table(rows: list[dict[str, Any]]) -> str:
  """All rows as Markdown."""
  header = ['network, images', 'workers', 'step', 'wait, median']
  header += ['wait, longest', 'share of time', 'device']
  cells = [
    [
      f'{r["model"]}, {r["batch"]} x {r["size"]}',
      r['workers'],
      f'{r["step_ms"]:.1f} ms',
      f'{r["wait_ms"]:.3f} ms',
      f'{r["longest_ms"]:.3f} ms',
      f'{r["share"]:.2%}',
      r['device'],
    ]
    for r in rows
  ]
  return record.markdown(header, cells)


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  """The steps of each row along time, their waits on top."""
  from matplotlib import figure

  picture = figure.Figure(figsize=(8, 0.8 + 0.6 * len(rows)))
  axes = picture.add_subplot()
  for number, row in enumerate(rows):
    for parts, color in ((('there', 'done'), 'C0'), (('asked', 'there'), 'C3')):
      place = [('asked', 'there', 'done').index(p) for p in parts]
      bars = [(m[place[0]], m[place[1]] - m[place[0]]) for m in row['timeline']]
      axes.broken_barh(bars, (number - 0.3, 0.6), color=color, edgecolor='w')
  axes.set_yticks(
    range(len(rows)),
    [f'{r["model"]}, {r["workers"]} workers' for r in rows],
  )
  axes.set_xlabel('seconds: steps blue, waiting for a batch red')
  picture.savefig(path, bbox_inches='tight', metadata={'Date': None})


if __name__ == '__main__':
  main()
