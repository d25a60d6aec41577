"""Trains the rows of the study, and keeps what each came to.

  python -m benchmarks.target.study digits --rows=masked,st3 --seeds=0,1,2,3,4
  python -m benchmarks.target.study digits --rows=masked --seeds=5,6,7 --test

A row (rows.py) is a method with some settings; it is trained at each of
--targets and --steps with every seed, by the trainer's own step with the
images on the device (benchmarks/seeds.py). What is chosen is chosen on
validation images and seeds below 5. Test images are looked at with --test
only, which wants other seeds.

After --minutes the command ends, and the same command goes on from there. On an
accelerator, --together trains all seeds of a row side by side, which is how
the data cifar10_all (ResNet-20, all images) is meant:

  python -m benchmarks.target.study cifar10_all --rows=default,st3 --together

Results stand in benchmarks/target/<data>.json; tables.py makes the tables.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

from benchmarks import record
from benchmarks.target import rows as table

HERE = pathlib.Path(__file__).resolve().parent
KEY = ('row', 'target', 'steps', 'seed', 'changes', 'model')
CHOICE = 5  # seeds below it are for choosing, the others for the test


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('data', choices=tuple(table.DATA))
  parser.add_argument('--rows', required=True, help='comma-separated')
  parser.add_argument('--targets', help='fractions of zeros')
  parser.add_argument('--steps', help='lengths of a run')
  parser.add_argument('--seeds', default='0,1,2,3,4')
  parser.add_argument('--test', action='store_true')
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--out', type=pathlib.Path, default=HERE)
  parser.add_argument('--runs', type=pathlib.Path, default='runs/target')
  parser.add_argument(
    '--together',
    action='store_true',
    help='all seeds of a row side by side: for an accelerator',
  )
  args, args.overrides = parser.parse_known_args(arguments)
  args.deadline = time.perf_counter() + 60 * args.minutes
  data = table.DATA[args.data]
  args.seeds = [int(x) for x in args.seeds.split(',')]
  if args.test and min(args.seeds) < CHOICE:
    parser.error(f'--test wants seeds from {CHOICE} on: the others chose.')
  targets = [float(x) for x in (args.targets or data.targets).split(',')]
  lengths = [int(x) for x in (args.steps or data.steps).split(',')]
  for steps in lengths:
    for target in targets:
      for row in args.rows.split(','):
        if not train(args, row, target, steps):
          print('stopped for time; the same command goes on.')
          return
  print('all rows are there.')


def train(
  args: argparse.Namespace, row: str, target: float, steps: int
) -> bool:
  """Trains the seeds of a row that are missing; False when time is up."""
  what = {'row': row, 'target': target, 'steps': steps}
  what['changes'] = ' '.join(args.overrides)
  path = args.out / f'{args.data}.json'
  missing = [
    s for s in args.seeds if not _done(path, what | {'seed': s}, args.test)
  ]
  groups = [[s] for s in missing]
  if args.together and missing:
    groups = [missing]
  name = f'{args.data}-{row}-{target:g}-{steps}'
  training = None
  for seeds in groups:
    if time.perf_counter() > args.deadline:
      return False
    file = args.runs / f'{name}-{"-".join(map(str, seeds))}.npz'
    training = (
      make(args, row, target, steps, seeds, file)
      if training is None
      else training.of(seeds, file)
    )
    try:
      results = training.run(args.deadline)
    except FloatingPointError as error:  # a result too
      print(error)
      if len(seeds) > 1:  # of which one?
        groups += [[seed] for seed in seeds]
        continue
      results = [{'seed': seeds[0], 'diverged': True}]
    if results is None:
      return False
    common = what | {'model': training.config.model.name}
    common |= {'device': record.device(), **record.origin(('jax', 'flax'))}
    found = [r | common for r in results]
    if not args.test:  # not even kept
      found = [
        {k: v for k, v in r.items() if k not in ('top1', 'test_loss')}
        for r in found
      ]
    record.add(path, found, KEY)
    for r in found:
      print(
        f'{name} seed {r["seed"]}: validation {r.get("validation", 0):.2%}, '
        f'loss {r.get("validation_loss", 0):.4f}, zeros '
        f'{r.get("sparsity", 0):.2%}, {r.get("seconds", 0)} s',
        flush=True,
      )
  return True


def make(
  args: argparse.Namespace,
  row: str,
  target: float,
  steps: int,
  seeds: list[int],
  path: pathlib.Path,
) -> Any:
  """A row's training of some seeds, where it stands."""
  from benchmarks import seeds as trainings  # jax, after the arguments
  from str_jax.training import compilation_cache, flags

  compilation_cache.enable()
  data = table.DATA[args.data]
  spec = str(record.ROOT / 'configs' / data.config)
  config, _ = flags.load_config(spec, args.overrides)
  config.update_from_flattened_dict(
    {'total_steps': steps, 'total_epochs': None}
    | data.fields
    | table.fields(row, target, steps)
  )
  return trainings.Training(config, seeds, path)


def _done(path: pathlib.Path, what: dict[str, Any], test: bool) -> bool:
  return any(
    all(r.get(k) == v for k, v in what.items())
    and (not test or 'top1' in r or r.get('diverged'))
    for r in record.read(path)
  )


if __name__ == '__main__':
  main()
