"""FastGRNN in C: kilobytes and milliseconds, full against low-rank, and int8.

  python -m benchmarks.microcontroller sizes
  python -m benchmarks.microcontroller accuracy

`sizes` writes the header of cells with random weights, 32 inputs and 12
classes as Google-12 has, compiles it by gcc -O2, and times whole sequences of
99 steps, all cells in turns, the best of many. Constants and code are the
sections of the object file; memory is the struct that the caller gives.
Milliseconds are this machine's processor's, never a microcontroller's. Where
arm-none-eabi-gcc and qemu-system-arm are installed, it also counts the
instructions of an emulated Cortex-M4 and M3 (benchmarks/c_cells.py).

`accuracy` trains configs/fastgrnn.py on the digits, with 100 hidden units, of
full matrices and with the ranks that STR finds (finished runs are taken as they
are), and runs the compiled headers over all test images.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import c_cells, record
from str_jax import compaction, models
from str_jax.interop import c_header

INPUTS, STEPS, CLASSES = 32, 99, 12
RANKS = {  # of the paper at 100 hidden; U's share of the state at 256
  100: ((None, None), (12, 40), (9, 24)),
  256: ((None, None), (12, 102), (9, 61)),
}
TRAINED = ('digits-full', 'digits-0.5')
EMULATED_STEPS = 33


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('what', choices=('sizes', 'accuracy'))
  parser.add_argument('--seconds', type=float, default=60.0, help='of timing')
  parser.add_argument('--runs', type=pathlib.Path, default=record.ROOT / 'runs')
  args = parser.parse_args()
  if shutil.which('gcc') is None:
    raise SystemExit('this benchmark needs gcc: install it and try again.')
  rows = sizes(args.seconds) if args.what == 'sizes' else accuracy(args.runs)
  origin = record.origin(('jax', 'flax')) | {'compiler': _version('gcc')}
  path = record.RESULTS / 'microcontroller.json'
  key = ('what', 'cell', 'hidden', 'values')
  record.keep(
    path, [{'what': args.what, **row, **origin} for row in rows], key, table
  )
  print(path.with_suffix('.md').read_text())


def sizes(seconds: float) -> list[dict[str, Any]]:
  """A row for each cell, their sequences timed in turns."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, STEPS, INPUTS), np.float32)
  cells, rows = [], []
  with tempfile.TemporaryDirectory() as folder:
    for hidden, ranks in RANKS.items():
      for w_rank, u_rank in ranks:
        model = models.create(
          'fastgrnn',
          num_classes=CLASSES,
          hidden=hidden,
          w_rank=w_rank,
          u_rank=u_rank,
        )
        variables = model.init(jax.random.key(0), x[..., np.newaxis])
        wanted = model.apply(variables, x[..., np.newaxis])
        for values in c_header.VALUES:
          header = c_header.render(model, variables, values)
          cell = c_cells.Cell(pathlib.Path(folder) / str(len(cells)), header)
          logits, _ = cell.run(x)
          rows.append(
            {
              'cell': 'full' if w_rank is None else f'({w_rank}, {u_rank})',
              'hidden': hidden,
              'values': values,
              **cell.bytes(),
              'emulated': emulated(header, model, variables, x),
              'error': float(np.abs(logits - wanted).max()),
            }
          )
          cells.append(cell)
    for row, best in zip(rows, in_turns(cells, x, seconds)):
      row['milliseconds'] = 1e3 * best
  return rows


def emulated(
  header: str, model: Any, variables: Any, x: np.ndarray
) -> dict[str, Any]:
  """What each emulated processor needs for the beginning of a sequence."""
  x = x[:, :EMULATED_STEPS]
  results = {cpu: c_cells.emulate(header, x[0], cpu) for cpu in c_cells.BOARDS}
  if None in results.values():
    return results
  wanted = np.asarray(model.apply(variables, x[..., np.newaxis]))
  for result in results.values():
    result['error'] = float(np.abs(result.pop('logits') - wanted).max())
  return results


def in_turns(
  cells: list[c_cells.Cell], x: np.ndarray, seconds: float
) -> list[float]:
  """The best time of one call of each, called one after another."""
  best = [float('inf')] * len(cells)
  end = time.perf_counter() + seconds
  while time.perf_counter() < end:
    for number, cell in enumerate(cells):
      start = time.perf_counter()
      cell.run(x)
      best[number] = min(best[number], time.perf_counter() - start)
  return best


def accuracy(runs: pathlib.Path) -> list[dict[str, Any]]:
  """A row for each trained cell and kind of values, on the test images."""
  from str_jax import data
  from str_jax.training import build, checkpoint, flags, loop

  rows = []
  dataset = data.load('digits')
  (batch,) = data.eval_batches(dataset, 'test', dataset.size('test'))
  images = (batch['image'] - np.array(dataset.mean)) / np.array(dataset.std)
  images = images.astype('f')
  right = lambda labels: float(np.mean(labels == batch['label']))
  for variant in TRAINED:
    spec = f'{record.ROOT / "configs" / "fastgrnn.py"}:{variant}'
    overrides = ['--config.model.hidden=100']
    config, _ = flags.load_config(spec, overrides)
    workdir = runs / f'fastgrnn-{variant}-100'
    loop.train(config, workdir, f'{spec} {overrides[0]}')
    method = build.method(config.method)
    model = build.model(config, dataset.num_classes, method)
    variables = checkpoint.read_variables(workdir)
    logits = np.asarray(model.apply(variables, images))
    ranks = compaction.ranks(model, variables) if model.gated else None
    for values in c_header.VALUES:
      header = c_header.render(model, variables, values)
      with tempfile.TemporaryDirectory() as folder:
        cell = c_cells.Cell(pathlib.Path(folder), header)
        ours, labels = cell.run(images)
        rows.append(
          {
            'cell': variant,
            'hidden': model.hidden,
            'values': values,
            'ranks': ranks,
            **cell.bytes(),
            'images': len(images),
            'jax': right(logits.argmax(1)),
            'c': right(labels),
            'changed': int(np.sum(labels != logits.argmax(1))),
            'error': float(np.abs(ours - logits).max()),
            'largest_logit': float(np.abs(logits).max()),
          }
        )
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  """All rows as Markdown: the sizes, then the accuracy."""
  parts = []
  for hidden in RANKS:
    of = [r for r in rows if r['what'] == 'sizes' and r['hidden'] == hidden]
    if of:
      parts.append(_sizes_table(hidden, of))
  with_tools = [r for r in rows if all(r.get('emulated', {0: 0}).values())]
  if with_tools:
    parts.append(_emulated_table(with_tools))
  trained = [r for r in rows if r['what'] == 'accuracy']
  if trained:
    parts.append(_accuracy_table(trained))
  return '\n'.join(parts)


def _sizes_table(hidden: int, rows: list[dict[str, Any]]) -> str:
  plain = next(
    r for r in rows if (r['cell'], r['values']) == ('full', 'float32')
  )
  header = [f'{hidden} hidden, ranks (W, U)', 'values', 'constants, kB']
  header += ['code, kB', 'together', 'memory, kB', 'ms', 'of the plain cell']
  flash = lambda r: r['code'] + r['constants']
  order = lambda r: (r['cell'] != 'full', -flash(r))
  cells = [
    [
      r['cell'],
      r['values'],
      f'{r["constants"] / 1e3:.1f}',
      f'{r["code"] / 1e3:.1f}',
      f'{flash(r) / flash(plain):.0%}',
      f'{r["memory"] / 1e3:.2f}',
      f'{r["milliseconds"]:.3f}',
      f'{r["milliseconds"] / plain["milliseconds"]:.0%}',
    ]
    for r in sorted(rows, key=order)
  ]
  first = rows[0]
  return (
    f'{record.markdown(header, cells)}\n{STEPS} steps of {INPUTS} inputs; '
    f'{first["compiler"]}, -O2, {first["machine"]}.\n'
  )


def _emulated_table(rows: list[dict[str, Any]]) -> str:
  header = ['emulated', 'values']
  header += [
    f'{cpu}: {what}'
    for cpu in c_cells.BOARDS
    for what in ('program, kB', 'instructions a step')
  ]
  cells: list[list[Any]] = []
  flash = lambda r: r['constants'] + r['code']
  order = lambda r: (r['hidden'], r['cell'] != 'full', -flash(r))
  for r in sorted(rows, key=order):
    cells.append([f'{r["hidden"]} hidden, {r["cell"]}', r['values']])
    for result in r['emulated'].values():
      cells[-1] += [
        f'{result["program"] / 1e3:.1f}',
        f'{result["instructions"]:,}',
      ]
  return record.markdown(header, cells)


def _accuracy_table(rows: list[dict[str, Any]]) -> str:
  header = ['digits, 100 hidden', 'ranks (W, U)', 'values', 'flash, kB']
  header += ['JAX', 'C', 'labels changed', 'largest error of a logit']
  cells = [
    [
      r['cell'],
      'full' if r['ranks'] is None else tuple(r['ranks'].values()),
      r['values'],
      f'{(r["code"] + r["constants"]) / 1e3:.1f}',
      f'{r["jax"]:.2%}',
      f'{r["c"]:.2%}',
      f'{r["changed"]} of {r["images"]}',
      f'{r["error"]:.1e}, logits up to {r["largest_logit"]:.0f}',
    ]
    for r in sorted(rows, key=lambda r: (r['cell'] != TRAINED[0], r['values']))
  ]
  return record.markdown(header, cells)


def _version(compiler: str) -> str:
  output = subprocess.check_output([compiler, '--version'], text=True)
  return output.splitlines()[0]


if __name__ == '__main__':
  main()
