"""From the command to the first training step, and where the time goes.

  python -m benchmarks.first_seconds

Starts each config twice in a process of its own, first with an empty
compilation cache, then with what that start left in it, and writes
benchmarks/results/first_seconds.md. ResNet50 trains on generated images.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results' / 'first_seconds.md'
SPLIT = ('import', 'data', 'first state', 'first step')
RUNS = {
  'digits:str': ['configs/digits.py:str'],
  'digits:st3': ['configs/digits.py:st3'],
  'resnet50:str-90.23, batch 8': [
    'configs/resnet50.py:str-90.23',
    '--config.dataset=fake',
    '--config.batch_size=8',
  ],
}


def start(spec: str, *overrides: str) -> dict[str, float]:
  """Comes to the end of the first step; seconds since the process began."""
  from str_jax import data
  from str_jax.training import compilation_cache, flags, loop

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
  return marks


def measure(arguments: list[str], cache: str) -> list[float]:
  """Seconds of each part, in a process that begins now."""
  environment = os.environ | {'XDG_CACHE_HOME': cache}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  began = time.time()
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.first_seconds', *arguments],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  marks = json.loads(done.stdout.splitlines()[-1])
  times = [began, *(marks[part] for part in SPLIT)]
  return [after - before for before, after in zip(times, times[1:])]


def main() -> None:
  lines = [
    f'| config | start | {" | ".join(SPLIT)} | seconds in all |',
    '|---|---|' + '---:|' * (len(SPLIT) + 1),
  ]
  for name, arguments in RUNS.items():
    with tempfile.TemporaryDirectory() as cache:
      for which in ('first', 'second'):
        parts = measure(arguments, cache)
        cells = ' | '.join(f'{part:.2f}' for part in (*parts, sum(parts)))
        lines.append(f'| {name} | {which} | {cells} |')
        print(lines[-1], flush=True)
  RESULTS.write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
  if len(sys.argv) > 1:
    print(json.dumps(start(*sys.argv[1:])))
  else:
    main()
