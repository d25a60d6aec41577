"""From the command to the first training step, and where the time goes.

  pip install -e '.[train]'
  python -m benchmarks.first_seconds
  python -m benchmarks.first_seconds --runs=digits:str --threads=1

Starts each config in a process of its own, first with an empty compilation
cache, then with what that start left in it, all that several times; ResNet50
trains on generated images. Written to benchmarks/results/first_seconds.json,
and the medians to first_seconds.md.

What jax says of tracing and compiling is taken out of the part of the start
in which it happens, and stands apart: ``trace`` from Python to XLA's input,
``compile`` by XLA or, the second time, reading what it left.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import record
from str_jax.training import cpu

RESULTS = record.RESULTS / 'first_seconds.json'
KEY = ('config', 'start', 'threads', 'machine')
MARKS = ('import', 'data', 'first state', 'first step')
PARTS = ('import', 'data', 'trace', 'compile', 'first state', 'first step')
RUNS = {
  'digits:str': ['configs/digits.py:str'],
  'digits:st3': ['configs/digits.py:st3'],
  'resnet50:str-90.23': [
    'configs/resnet50.py:str-90.23',
    '--config.dataset=fake',
    '--config.batch_size=8',
  ],
}
Span = tuple[float, float]


def start(spec: str, *overrides: str) -> dict[str, Any]:
  """Comes to the end of the first step.

  Args:
    spec: of a config, as for main.py.
    *overrides: of its fields.

  Returns:
    The time at the end of each part, the spans of tracing and of compiling,
    and how many programs were found in the cache.
  """
  import jax

  from str_jax import data
  from str_jax.training import compilation_cache, flags, loop

  spans: dict[str, list[Span]] = {'trace': [], 'compile': []}
  found = []

  def listen(event: str, seconds: float, **_: Any) -> None:
    now = time.time()
    if event.startswith('/jax/core/compile/'):
      kind = 'compile' if 'backend_compile' in event else 'trace'
      spans[kind].append((now - seconds, now))

  def count(event: str, **_: Any) -> None:
    if event == '/jax/compilation_cache/cache_hits':
      found.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  jax.monitoring.register_event_listener(count)
  compilation_cache.enable()
  marks = {'import': time.time()}
  config, _ = flags.load_config(spec, overrides)
  with tempfile.TemporaryDirectory() as folder:
    run = loop.Run(config, pathlib.Path(folder, 'run'))
    batches = data.train_batches(
      run.dataset, config.batch_size, seed=config.seed
    )
    batch = next(batches)
    marks['data'] = time.time()
    stage, state = run.start()
    state.step.block_until_ready()
    marks['first state'] = time.time()
    state = stage.train_step(state, run.placement.put(batch))
    state.step.block_until_ready()
    marks['first step'] = time.time()
    run.checkpoints.close()
  return {'marks': marks, 'spans': spans, 'from_cache': len(found)}


def covered(spans: Sequence[Span], begin: float, end: float) -> float:
  """How much of a time the spans cover; they may lie within each other.

  >>> covered([(0.0, 2.0), (1.0, 3.0), (1.0, 1.5), (7.0, 9.0)], 1.0, 8.0)
  3.0
  """
  total, reached = 0.0, begin
  for first, last in sorted(spans):
    first, last = max(first, reached), min(last, end)
    total += max(last - first, 0.0)
    reached = max(reached, last)
  return total


def split(began: float, told: dict[str, Any]) -> dict[str, float]:
  """Seconds of each of PARTS.

  Args:
    began: when the process was started.
    told: by ``start``.

  >>> told = {'marks': {'import': 1.0, 'data': 2.0}, 'spans': {}}
  >>> told['marks'] |= {'first state': 4.0, 'first step': 8.0}
  >>> told['spans'] = {'trace': [(2.5, 3.0)], 'compile': [(4.0, 7.0)]}
  >>> [split(0.0, told)[part] for part in PARTS]
  [1.0, 1.0, 0.5, 3.0, 1.5, 1.0]
  """
  compiling = told['spans']['compile']
  both = compiling + told['spans']['trace']
  parts = dict.fromkeys(PARTS, 0.0)
  for name in MARKS:
    end = told['marks'][name]
    compiled = covered(compiling, began, end)
    prepared = covered(both, began, end)
    parts['compile'] += compiled
    parts['trace'] += prepared - compiled  # compiling may lie within tracing
    parts[name] = end - began - prepared
    began = end
  return parts


def measure(arguments: list[str], cache: str) -> tuple[dict[str, float], int]:
  """A process that begins now: its parts, and programs from the cache."""
  environment = os.environ | {'XDG_CACHE_HOME': cache}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  began = time.time()
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.first_seconds', '--start', *arguments],
    cwd=record.ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  told = json.loads(done.stdout.splitlines()[-1])
  return split(began, told), told['from_cache']


def rows_of(name: str, repeats: int, threads: int) -> list[dict[str, Any]]:
  """Two records of a config, the first start and the second."""
  rows = {
    which: {'config': name, 'start': which, 'threads': threads}
    | {'from_cache': [], 'total': [], 'seconds': {p: [] for p in PARTS}}
    for which in ('first', 'second')
  }
  for _ in range(repeats):
    with tempfile.TemporaryDirectory() as cache:
      for row in rows.values():
        parts, from_cache = measure(RUNS[name], cache)
        row['from_cache'].append(from_cache)
        row['total'].append(round(sum(parts.values()), 3))
        for part, seconds in parts.items():
          row['seconds'][part].append(round(seconds, 3))
  return [row | record.origin() for row in rows.values()]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The records for people: medians, and the range of the sum."""
  header = ('config', 'start', 'threads', *PARTS, 'seconds in all')
  header += ('range', 'programs from the cache', 'measured')
  cells = []
  for r in rows:
    medians = [statistics.median(r['seconds'][part]) for part in PARTS]
    cells.append(
      (r['config'], r['start'], r['threads'])
      + tuple(f'{m:.2f}' for m in medians)
      + (f'{statistics.median(r["total"]):.2f}',)
      + (f'{min(r["total"]):.2f}-{max(r["total"]):.2f}',)
      + (max(r['from_cache']), f'{r["machine"]}, {r["commit"]}, {r["date"]}')
    )
  return record.markdown(header, cells)


def main() -> None:
  cores = sorted(os.sched_getaffinity(0))
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', default=','.join(RUNS))
  parser.add_argument('--threads', type=int, default=len(cores))
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--no-write', dest='write', action='store_false')
  args = parser.parse_args()
  machine = record.origin()['machine']  # before some of its cores are left
  os.sched_setaffinity(0, cores[: args.threads])  # the processes inherit it
  for name in args.runs.split(','):
    rows = rows_of(name, args.repeats, args.threads)
    rows = [row | {'machine': machine} for row in rows]
    print(table(rows), flush=True)
    if args.write:
      record.keep(RESULTS, rows, KEY, table)


if __name__ == '__main__':
  if sys.argv[1:2] == ['--start']:
    cpu.use_huge_pages()  # as main.py does: a start anew takes its time too
    print(json.dumps(start(*sys.argv[2:])))
  else:
    main()
