"""CIFAR-10 at full length on one GPU: accuracy and sparsity over seeds.

  python -m benchmarks.evidence --minutes=9 --seeds=0,1,2

Trains ResNet-20 for 160 epochs by ST-3's recipe (configs/recipes.py) with each
row of ROWS, the most wanted first, all rows with the first seeds before the
next ones. After --minutes the state is saved under --runs and the command
ends; the same command goes on from there. A row that the results hold is not
trained again. --rates=1,2,4 trains nothing to an end: it says how many steps a
second there are with so many seeds at once, to choose --together by.

STR has no dial for its sparsity: it follows from the decay of s. Three runs
with decays a factor of three apart come before the rows str-90, str-95 and
str-98, whose decay is read off the line through (log decay, log density) of
those three; no accuracy has a say. s starts at -10, as in the ten-epoch
variant, weights and s decay alike, and there is no fine-tuning.

The trainer's own step, optimizer and phases (benchmarks/seeds.py), with
images and augmentation on the device: the same course as main.py's, with
another order of the images. All convolutions are float32, which a GPU rounds
to TF32. Reported are the last weights, on test; 5,000 training images are held
out and only looked at. A run by main.py of one such row:

  python main.py --config=configs/cifar10.py:st3-90-paper

Written to benchmarks/results/evidence.json, and as a table to evidence.md.
"""

from __future__ import annotations

import argparse
import bisect
import math
import pathlib
import statistics
import time
from typing import Any

from benchmarks import record

RESULTS = record.RESULTS / 'evidence.json'
KEY = ('row', 'seed', 'changes', 'device')
STR_DECAYS = (1e-4, 3e-4, 1e-3)
_CALIBRATION = tuple(f'str decay {decay:g}' for decay in STR_DECAYS)
ROWS = (
  *('dense', 'st3-90', 'st3_sigma-90', *_CALIBRATION, 'str-90'),
  *('st3-95', 'st3_sigma-95', 'str-95'),
  *('st3-98', 'st3_sigma-98', 'str-98'),
)


def changes(row: str, records: list[dict[str, Any]]) -> tuple[str, dict]:
  """A row's variant of configs/cifar10.py, and the fields that it changes.

  Args:
    row: one of ROWS.
    records: of the runs so far, for STR's decay.

  Returns:
    The variant and the fields.

  Raises:
    LookupError: STR's decay is not known before the runs that it is read off.
  """
  if not row.startswith('str'):
    return f'{row}-paper', {}
  if row in _CALIBRATION:
    decay = float(row.rpartition(' ')[2])
  else:
    sparsity = float(row.rpartition('-')[2]) / 100
    points = {}
    for calibration in _CALIBRATION:
      runs = [r['sparsity'] for r in records if r['row'] == calibration]
      if not runs:
        raise LookupError(f'{row} needs the rows {", ".join(_CALIBRATION)}.')
      points[float(calibration.rpartition(' ')[2])] = statistics.mean(runs)
    decay = decay_for(sparsity, points)
  return 'dense-paper', {
    'method.name': 'str',
    'method.init_value': -10.0,
    'optimizer.weight_decay': decay,
  }


def decay_for(sparsity: float, points: dict[float, float]) -> float:
  """The decay at which STR is thought to reach a sparsity, two digits of it.

  The line through (log decay, log density) of the two decays between whose
  sparsities it lies, or that are nearest; at most three times beyond them.

  >>> decay_for(0.95, {1e-4: 0.9, 1e-3: 0.99})
  0.0002
  """
  known = sorted((math.log(1 - s), math.log(d)) for d, s in points.items())
  wanted = math.log(1 - sparsity)
  place = bisect.bisect([x for x, _ in known], wanted)
  right = min(max(place, 1), len(known) - 1)
  (x0, y0), (x1, y1) = known[right - 1], known[right]
  slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
  low, high = (math.log(f(points)) for f in (min, max))
  y = y0 + slope * (wanted - x0)
  y = min(max(y, low - math.log(3)), high + math.log(3))
  return float(f'{math.exp(y):.1e}')


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rows', default=','.join(ROWS))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--together', type=int, default=1, help='seeds at once')
  parser.add_argument('--minutes', type=float, default=9.0)
  parser.add_argument('--rates', default='', help='see above')
  parser.add_argument('--runs', type=pathlib.Path, default='runs/evidence')
  args, overrides = parser.parse_known_args(arguments)
  deadline = time.perf_counter() + 60 * args.minutes
  seeds = [int(x) for x in args.seeds.split(',')]
  rows = args.rows.split(',')
  from benchmarks import seeds as trainings  # jax, after the arguments

  for number in (int(x) for x in args.rates.split(',') if x):
    for row in rows:
      training = make(row, list(range(number)), overrides, args.runs)
      rate = trainings.rate(training)
      print(f'{row}, {number} seeds at once: {rate:.1f} steps/s', flush=True)
  if args.rates:
    return
  for first in range(0, len(seeds), args.together):
    for row in rows:
      wanted = seeds[first : first + args.together]
      if row in _CALIBRATION:
        wanted = [seed for seed in wanted if seed == seeds[0]]
      missing = [s for s in wanted if not _done(row, s, overrides)]
      if not missing:
        continue
      training = make(row, missing, overrides, args.runs)
      results = training.run(deadline)
      if results is None:
        print(f'{row}: stopped for time; the same command goes on.')
        return
      keep(row, overrides, training, results)
  print('all rows are there.')


def make(
  row: str, seeds: list[int], overrides: list[str], runs: pathlib.Path
) -> Any:
  """A row's training of some seeds, where it stands."""
  from benchmarks import seeds as trainings
  from str_jax.training import compilation_cache, flags

  compilation_cache.enable()
  here = [r for r in record.read(RESULTS) if _is_here(r, overrides)]
  variant, fields = changes(row, here)
  spec = str(record.ROOT / 'configs' / 'cifar10.py')
  config, _ = flags.load_config(f'{spec}:{variant}', overrides)
  config.update_from_flattened_dict(fields)
  name = f'{row}-{"-".join(map(str, seeds))}'.replace(' ', '-')
  return trainings.Training(config, seeds, runs / f'{name}.npz')


def keep(
  row: str, overrides: list[str], training: Any, results: list[dict[str, Any]]
) -> None:
  """Puts a row's runs into the results, and prints the table."""
  config = training.config
  common = {
    'row': row,
    'changes': ' '.join(overrides),
    'weight_decay': config.optimizer.weight_decay,
    'model': config.model.name,
    'steps': training.plan.total_steps,
    'together': len(training.seeds),
    'note': training.dataset.note,
    'device': record.device(),
    **record.origin(),
  }
  rows = [r | common for r in results]
  print(table(record.keep(RESULTS, rows, KEY, table)), flush=True)


def table(records: list[dict[str, Any]]) -> str:
  """Mean and standard deviation over the seeds of each row, as Markdown."""
  header = ('row', 'seeds', 'test accuracy', 'validation', 'zeros')
  header += ('weights kept', 'FLOPs of dense', 'decay', 's a run')
  text = []
  order = {row: i for i, row in enumerate(ROWS)}
  for device, changed in sorted({(r['device'], r['changes']) for r in records}):
    here = [
      r for r in records if (r['device'], r['changes']) == (device, changed)
    ]
    cells = []
    for row in sorted({r['row'] for r in here}, key=lambda x: order.get(x, 99)):
      runs = [r for r in here if r['row'] == row]
      mean = lambda key, runs=runs: statistics.mean(r[key] for r in runs)
      top1 = [r['top1'] for r in runs]
      spread = f' ± {statistics.stdev(top1):.2%}' if len(top1) > 1 else ''
      cells.append(
        (
          row,
          len(runs),
          f'{mean("top1"):.2%}{spread}',
          f'{mean("validation"):.2%}',
          f'{mean("sparsity"):.2%}',
          f'{mean("nonzero"):,.0f}',
          f'{mean("flops") / runs[0]["dense_flops"]:.2%}',
          f'{runs[0]["weight_decay"]:g}',
          f'{mean("seconds"):.0f}',
        )
      )
    facts = sorted({f'{r["steps"]:,}' for r in here})
    notes = ' '.join(sorted({r['note'] for r in here} - {''}))
    text.append(f'## {device}{", " + changed if changed else ""}\n\n')
    text.append(record.markdown(header, cells))
    text.append('\n')
    text.append(
      f'{here[0]["model"]}, {" or ".join(facts)} steps; ± is the standard '
      f'deviation over the seeds. {notes}'.strip()
      + '\n\n'
    )
  return ''.join(text)


def _done(row: str, seed: int, overrides: list[str]) -> bool:
  return any(
    (r['row'], r['seed']) == (row, seed)
    for r in record.read(RESULTS)
    if _is_here(r, overrides)
  )


def _is_here(r: dict[str, Any], overrides: list[str]) -> bool:
  """Whether a record is of this device and of the same changes."""
  return (r['device'], r['changes']) == (record.device(), ' '.join(overrides))


if __name__ == '__main__':
  main()
