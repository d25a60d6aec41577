"""What a GPU is asked: its peak, our steps beside PyTorch's, flags, a profile.

  python -m benchmarks.gpu --parts=peak,steps --models=resnet50 --batches=256
  python -m benchmarks.gpu --parts=flags,profile,tests --out=profiles

Every part is made of units of a few minutes. A unit that the results hold for
this device is not measured again (--again: it is), so a command that was cut
short goes on where it stood.

  peak        matrix products in bfloat16 and float32: the chip's TFLOP/s
  steps       a training step of each network, batch and method, ours beside
              PyTorch's in channels_last with autocast, eager and compiled
  flags       our step under each candidate of FLAGS, each in a process of its
              own, beside the step without; 'refused': XLA knows it not
  profile     a trace of one step under --out, and its dearest operations
  thresholds  benchmarks/thresholds.py on this device
  tests       `python -m pytest -q` on those of --tests, on this device

Written to benchmarks/results/gpu.json, and as tables to gpu.md. A training
step is counted as three forward passes of two FLOPs a multiply-add, norms and
activations as none; the fraction of the peak is of the best matrix product in
the same precision.

A batch too large for several processes to hold at once is measured one program
after the other; its ratios then compare turns that were minutes apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import (
  alternate,
  gpu_tables,
  our_step,
  processes,
  record,
  train_step,
)
from benchmarks.alternate import Contender, Result
from benchmarks.gpu_programs import (
  FLAGS,
  MEMORY,
  matmul,
  profiled,
  refused,
  training_gflops,
)

RESULTS = record.RESULTS / 'gpu.json'
KEY = ('part', 'device', 'model', 'batch', 'dtype', 'method', 'program', 'size')
PEERS = ['channels_last', 'compiled']
# Images a step, and up to which several processes fit on the device.
BATCHES: dict[str, tuple[tuple[int, ...], int]] = {
  'resnet50': ((256, 512, 1024), 256),
  'mobilenet_v1': ((256, 1024), 256),
  'resnet20': ((128, 1024), 1024),
}
_PRODUCTS = {
  'bfloat16': ('bfloat16', 'default'),
  'float32': ('float32', 'default'),  # TF32 where the chip has it
  'float32 exact': ('float32', 'highest'),
}


def peak(args: argparse.Namespace) -> None:
  for program, (dtype, precision) in _PRODUCTS.items():
    for size in _integers(args.sizes):
      unit = {'part': 'peak', 'program': program, 'size': size}
      if _done(unit, args):
        continue
      settings = {'size': size, 'dtype': dtype, 'precision': precision}
      contender = Contender(program, matmul, settings, MEMORY)
      result = _measure([contender], args)[program]
      tflops = [round(2e-12 * size**3 / s, 3) for s in result.seconds]
      keep([unit | {'tflops': tflops}], args)


def steps(args: argparse.Namespace) -> None:
  for model in _names(args.models):
    batches, together = BATCHES[model]
    for batch in _integers(args.batches) or batches:
      for method in _names(args.methods):
        unit = {'part': 'steps', 'model': model, 'batch': batch}
        unit |= {'method': method, 'dtype': args.dtype}
        if _done(unit, args):
          continue
        try:
          _compare(unit, batch <= together, args)
        except RuntimeError as error:  # out of memory: go on with the rest
          print(f'{model}, batch {batch}, {method}: {error}', flush=True)


def _compare(
  unit: dict[str, Any], together: bool, args: argparse.Namespace
) -> None:
  """A method's step, ours and PyTorch's, beside our dense one."""
  model, batch, method = unit['model'], unit['batch'], unit['method']
  methods = list(dict.fromkeys(['dense', method]))
  chosen = [
    c
    if c.build is train_step.peers
    else dataclasses.replace(c, environment=c.environment | MEMORY)
    for c in train_step.contenders(
      model, methods, _names(args.peers), batch, args.dtype
    )
    if c.settings['method'] == method or c.build is our_step.ours
  ]
  results: dict[str, Result] = {}
  for group in [chosen] if together else [[c] for c in chosen]:
    results |= _measure(group, args)
  rows = train_step.records(model, batch, results, dtype=args.dtype)
  facts = {'together': together, 'gflops_per_image': training_gflops(model)}
  rows = [unit | row | facts for row in rows if row['method'] == method]
  keep(rows, args)


def flags(args: argparse.Namespace) -> None:
  model = _names(args.models)[0]
  batch = (_integers(args.batches) or BATCHES[model][0])[0]
  settings = {'model': model, 'batch': batch, 'dtype': args.dtype}
  settings |= {'method': _names(args.methods)[0]}
  unit = settings | {'part': 'flags'}
  named = [
    name
    for name in _names(args.flags) or FLAGS
    if not _done(unit | {'program': name}, args)
  ]
  waiting = []
  for name in named:
    text = FLAGS.get(name, name)  # or the flag itself
    refusal = refused(text)
    if refusal:
      keep([unit | {'program': name, 'flag': text, 'refused': refusal}], args)
    else:
      environment = MEMORY | {'XLA_FLAGS': processes.xla_flags(text)}
      waiting.append(
        Contender(name, our_step.ours, settings, environment=environment)
      )
  none = Contender('none', our_step.ours, settings, MEMORY)
  for i in range(0, len(waiting), args.together):
    group = waiting[i : i + args.together]
    while group:
      try:
        results = _measure([none, *group], args)
      except RuntimeError as error:  # the flag parses, and breaks the step
        failed = [c for c in group if str(error).startswith(c.name + ' ')]
        if not failed:
          raise
        group = [c for c in group if c not in failed]
        name = failed[0].name
        facts = {'flag': FLAGS.get(name, name), 'refused': str(error)}
        keep([unit | {'program': name} | facts], args)
        continue
      keep([_flag_row(unit, n, results) for n in results], args)
      break


def _flag_row(
  unit: dict[str, Any], name: str, results: dict[str, Result]
) -> dict[str, Any]:
  ratio = alternate.ratios(results[name], results['none'])
  return unit | {
    'program': name,
    'flag': '' if name == 'none' else FLAGS.get(name, name),
    'images_per_second': [
      round(unit['batch'] / s, 2) for s in results[name].seconds
    ],
    'over_none': [round(x, 4) for x in ratio],
    'first_seconds': round(results[name].first_seconds, 1),
  }


def profile(args: argparse.Namespace) -> None:
  for model in _names(args.models):
    batch = (_integers(args.batches) or BATCHES[model][0])[0]
    for method in _names(args.methods):
      unit = {'part': 'profile', 'model': model, 'batch': batch}
      unit |= {'method': method, 'dtype': args.dtype, 'program': 'str_jax'}
      if _done(unit, args):
        continue
      settings = {'model': model, 'batch': batch, 'dtype': args.dtype}
      out = os.path.join(args.out, f'{model}-{method}-{batch}')
      settings |= {'method': method, 'out': out}
      contender = Contender('traced', profiled, settings, MEMORY)
      facts = _measure([contender], args)['traced'].facts
      keep([unit | facts], args)


def thresholds(args: argparse.Namespace) -> None:
  _run({'part': 'thresholds'}, ['-m', 'benchmarks.thresholds'], args)


def tests(args: argparse.Namespace) -> None:
  command = ['-m', 'pytest', '-q', '--tb=line', *_names(args.tests)]
  _run({'part': 'tests', 'program': ' '.join(command[1:])}, command, args)


def _run(
  unit: dict[str, Any], command: Sequence[str], args: argparse.Namespace
) -> None:
  """Another program on this device; kept are its last line and its status."""
  environment = os.environ | MEMORY
  if record.device() != record.processor():  # the tests' own choice: the CPU
    environment |= {'JAX_PLATFORMS': 'cuda'}
  done = subprocess.run(
    [sys.executable, *command],
    cwd=record.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
  )
  print(done.stdout)
  lines = done.stdout.strip().splitlines() or ['']
  keep([unit | {'status': done.returncode, 'said': lines[-1]}], args)


def keep(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
  """Prints rows, and puts them into the results."""
  common = {'device': record.device(), **record.origin()}
  rows = [row | common for row in rows]
  everything = rows
  if args.write:
    table = lambda records: gpu_tables.tables(records, records)
    everything = record.keep(RESULTS, rows, KEY, table)
  print(gpu_tables.tables(rows, everything), flush=True)


def _done(unit: dict[str, Any], args: argparse.Namespace) -> bool:
  wanted = (unit | {'device': record.device()}).items()
  return not args.again and any(
    wanted <= {k: row.get(k) for k in KEY}.items()
    for row in record.read(RESULTS)
  )


def _measure(
  contenders: Sequence[Contender], args: argparse.Namespace
) -> dict[str, Result]:
  return alternate.measure(
    contenders,
    alternations=args.alternations,
    seconds=args.seconds,
    threads=args.threads,
  )


def _names(text: str) -> list[str]:
  return [x.strip() for x in text.split(',') if x.strip()]


def _integers(text: str) -> list[int]:
  return [int(x) for x in _names(text)]


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
  'peak': peak,
  'steps': steps,
  'flags': flags,
  'profile': profile,
  'thresholds': thresholds,
  'tests': tests,
}


def main(arguments: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--parts', default='peak,steps,flags,profile')
  parser.add_argument('--models', default=','.join(BATCHES))
  parser.add_argument('--batches', default='', help="by default the model's")
  parser.add_argument('--methods', default='dense,str,st3')
  parser.add_argument('--peers', default=','.join(PEERS))
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--sizes', default='4096,8192,16384', help='of peak')
  parser.add_argument('--flags', default='', help='names in FLAGS, or flags')
  parser.add_argument('--together', type=int, default=4, help='flags at once')
  parser.add_argument(
    '--tests', default='tests/test_quantile.py,tests/test_methods.py'
  )
  parser.add_argument('--out', default='profiles', help='folder of traces')
  parser.add_argument('--again', action='store_true')
  alternate.add_arguments(parser, seconds=1.0)
  args = parser.parse_args(arguments)
  for part in _names(args.parts):
    PARTS[part](args)


if __name__ == '__main__':
  main()
