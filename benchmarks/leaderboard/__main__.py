"""Trains dense and sparse networks under one trainer, for one honest table.

  python -m benchmarks.leaderboard digits
  python -m benchmarks.leaderboard cifar10_short --sparsities=0.9,0.98
  python -m benchmarks.leaderboard cifar10 --together=3 --minutes=9

Each row of rows.py at each sparsity with each seed is a run of main.py with
the command that its record holds. Accuracies are those of the last checkpoint
on the test images, nothing is chosen by them, and zeros are counted over all
convolution and classifier weights for every method alike. A run that ends in
an error (a loss that is not finite) is a result too, and counted.

With --together so many seeds train side by side, with the images on the device
(benchmarks/seeds.py): the same step, optimizer and phases, another order of
the images; for an accelerator. After --minutes the command ends, and the same
command goes on from there; what the results hold is not trained again.

Results stand in benchmarks/results/leaderboard_<board>.json, the table beside
it as .md.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from benchmarks import record
from benchmarks.leaderboard import rows as table_rows
from benchmarks.leaderboard.rows import Run
from benchmarks.leaderboard.table import table

KEY = ('row', 'asked', 'decay', 'seed', 'changes', 'together', 'device')
_KEPT = ('top1', 'eval_loss', 'sparsity', 'weights', 'nonzero', 'dense_flops')
_KEPT += ('flops', 'seconds', 'steps', 'model', 'note')


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('board', choices=tuple(table_rows.BOARDS))
  parser.add_argument('--rows', nargs='+', default=list(table_rows.ROWS))
  parser.add_argument(
    '--sparsities', default=','.join(map(str, table_rows.SPARSITIES))
  )
  parser.add_argument('--seeds', default=','.join(map(str, table_rows.SEEDS)))
  parser.add_argument('--together', type=int, default=0, help='see above')
  parser.add_argument('--minutes', type=float, default=1e9)
  parser.add_argument('--runs', type=pathlib.Path, default='runs/leaderboard')
  args, args.overrides = parser.parse_known_args(arguments)
  if unknown := {*args.rows} - {*table_rows.ROWS}:
    parser.error(f'no rows {unknown}; they are {", ".join(table_rows.ROWS)}.')
  args.deadline = time.perf_counter() + 60 * args.minutes
  sparsities = [float(x) for x in args.sparsities.split(',')]
  seeds = [int(x) for x in args.seeds.split(',')]
  board = table_rows.BOARDS[args.board]
  wanted = table_rows.runs(board, args.rows, sparsities, seeds)
  while missing := [run for run in wanted if not _done(args, run)]:
    run, done = missing[0], len(wanted) - len(missing)
    print(f'{done} of {len(wanted)} runs are there; now {run}', flush=True)
    alike = [r for r in missing if _same_but_seed(r, run)]
    group = alike[: args.together or 1]
    results = None
    if time.perf_counter() < args.deadline:
      train = _side_by_side if args.together else _by_main
      results = train(args, group)
    if results is None:
      print('stopped for time; the same command goes on.')
      return
    _keep(args, group, results)
  print((_path(args).with_suffix('.md')).read_text())


def _path(args: argparse.Namespace) -> pathlib.Path:
  return record.RESULTS / f'leaderboard_{args.board}.json'


def _here(args: argparse.Namespace) -> list[dict[str, Any]]:
  """The records of this board, this device, these changes."""
  same = {
    'changes': ' '.join(args.overrides),
    'together': args.together,
    'device': record.device(),
  }
  return [r for r in record.read(_path(args)) if same.items() <= r.items()]


def _what(run: Run) -> dict[str, Any]:
  return {
    'row': run.row,
    'asked': run.sparsity,
    'decay': run.decay,
    'seed': run.seed,
  }


def _done(args: argparse.Namespace, run: Run) -> bool:
  return any(_what(run).items() <= r.items() for r in _here(args))


def _same_but_seed(a: Run, b: Run) -> bool:
  return (a.row, a.sparsity, a.decay) == (b.row, b.sparsity, b.decay)


def _keep(
  args: argparse.Namespace, group: list[Run], results: list[dict[str, Any]]
) -> None:
  common = {
    'changes': ' '.join(args.overrides),
    'together': args.together,
    'device': record.device(),
    **record.origin(('jax', 'flax')),
  }
  found = [common | r | _what(run) for run, r in zip(group, results)]
  record.keep(_path(args), found, KEY, table)


def _name(args: argparse.Namespace, run: Run) -> str:
  """The name of a run's folder."""
  parts = [args.board, run.row, run.sparsity, run.decay, *args.overrides]
  text = '-'.join(str(part) for part in parts if part is not None)
  kept = ''.join(c if c.isalnum() or c in '.-' else '_' for c in text)
  return f'{kept}-seed{run.seed}'


def _by_main(
  args: argparse.Namespace, group: list[Run]
) -> list[dict[str, Any]]:
  """One run of main.py, to its end."""
  (run,) = group
  board = table_rows.BOARDS[args.board]
  fields = table_rows.fields(board, run, _here(args))
  command = ['main.py', f'--config={board.config}']
  command += [f'--config.{name}={value}' for name, value in fields.items()]
  command += args.overrides
  workdir = (args.runs / _name(args, run)).absolute()
  done = subprocess.run(
    [sys.executable, *command, f'--workdir={workdir}'],
    cwd=record.ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  result = {'run': ' '.join(['python', *command])}
  if done.returncode:
    said = (done.stderr.strip() or '?').splitlines()[-1]
    print(said, flush=True)
    if 'finite' not in said:  # not the training's own end
      raise SystemExit(f'{_name(args, run)} failed: {said}')
    return [result | {'diverged': said}]
  summary = json.loads((workdir / 'summary.json').read_text())
  return [result | {name: summary[name] for name in _KEPT}]


def _side_by_side(
  args: argparse.Namespace, group: list[Run]
) -> list[dict[str, Any]] | None:
  """The seeds of a row at once; None when time is up."""
  from benchmarks import seeds as trainings  # jax, after the arguments
  from str_jax.training import compilation_cache, flags

  compilation_cache.enable()
  board = table_rows.BOARDS[args.board]
  fields = table_rows.fields(board, group[0], _here(args))
  spec = str(record.ROOT / board.config)
  # As on the command line: steps set in place of epochs, say.
  overrides = [f'--config.{name}={value}' for name, value in fields.items()]
  config, _ = flags.load_config(spec, overrides + args.overrides)
  seeds = [run.seed for run in group]
  name = '-'.join([_name(args, group[0]), *map(str, seeds[1:])])
  training = trainings.Training(config, seeds, args.runs / f'{name}.npz')
  try:
    results = training.run(args.deadline)
  except FloatingPointError as error:
    if len(group) == 1:
      return [{'diverged': str(error)}]
    singles = [_side_by_side(args, [run]) for run in group]
    return None if None in singles else [r for s in singles for r in s or []]
  if results is None:
    return None
  common = {
    'model': config.model.name,
    'steps': training.plan.total_steps,
    'note': training.dataset.note,
  }
  return [common | r for r in results]


if __name__ == '__main__':
  main()
