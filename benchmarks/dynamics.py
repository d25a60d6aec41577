"""How sparsity and thresholds go while each method trains on the digits.

  python -m benchmarks.dynamics
  python -m benchmarks.dynamics --runs='STR;ST-3'

Trains by main.py, a run a method, one after another, and keeps of every log
line the step, the sparsity and those and the thresholds of the layers, in
benchmarks/results/dynamics.json. benchmarks/pictures.py draws them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

from benchmarks import processes, record

RESULTS = record.RESULTS / 'dynamics.json'
EVERY = 20  # steps between two points
RUNS = {  # what a picture calls it: variant of configs/digits.py, fields
  'STR': ('str', {}),
  'STR, target 0.9': ('str', {'method.target': 0.9}),
  'ST-3': ('st3', {'method.sparsity': 0.9}),
  'Feather': ('feather', {'method.sparsity': 0.9}),
  'GMP': ('gmp', {'method.sparsity': 0.9}),
  'DNW': ('dnw', {'method.sparsity': 0.9}),
}


def train(name: str) -> dict[str, Any]:
  """The record of one run."""
  variant, fields = RUNS[name]
  own = [f'--config.{field}={value}' for field, value in fields.items()]
  command = [f'--config=configs/digits.py:{variant}', *own]
  with tempfile.TemporaryDirectory() as folder:
    ((code, said),) = processes.run(
      [*command, f'--workdir={folder}', f'--config.log_every_steps={EVERY}'],
      processes=1,
      devices=1,
    )
    if code:
      sys.exit(f'{name} failed:\n{said}')
    workdir = pathlib.Path(folder)
    trained = processes.metrics(workdir)
    summary = json.loads((workdir / 'summary.json').read_text())
  curves = {
    field: [_rounded(line[field]) for line in trained]
    for field in ('step', 'sparsity', 'layer_sparsity', 'layer_threshold')
  }
  return {
    'run': name,
    'trained_by': ' '.join(['python main.py', *command]),
    'top1': summary['top1'],
    'final_sparsity': summary['sparsity'],
    **curves,
    **record.origin(('jax', 'flax')),
  }


def _rounded(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _rounded(item) for name, item in value.items()}
  return value if isinstance(value, int) else float(f'{value:.4g}')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', help='names with ; between, all by default')
  asked = parser.parse_args().runs
  names = asked.split(';') if asked else list(RUNS)
  if unknown := [name for name in names if name not in RUNS]:
    parser.error(f'--runs: no run is called {unknown}; there are {list(RUNS)}.')
  for name in names:
    record.add(RESULTS, [train(name)], ('run',))


if __name__ == '__main__':
  main()
