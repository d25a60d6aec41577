"""The same run on other devices: how far its numbers go apart.

  python -m benchmarks.topologies

Trains by main.py on the digits, each method for 20 steps: on one device,
on 8 of one process and on 4 of each of two processes, with the weights on
every device and split (fsdp). Compares every line of metrics.jsonl with those
of the one device, and the numbers of weights left.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from typing import Any

from benchmarks import processes, record

STEPS = 20
METHODS = {
  'str': ('digits.py:str', ['--config.method.init_value=-4']),
  'st3': (
    'digits.py:st3',
    ['--config.method.start_steps=2', '--config.method.end_steps=10'],
  ),
  'target': ('digits.py:str', ['--config.method.target=0.9']),
}
TOPOLOGIES = [  # processes, devices of each, fsdp
  (1, 1, 1),
  (1, 8, 1),
  (1, 8, 8),
  (2, 4, 1),
  (2, 4, 4),
  (2, 4, 8),
]


def arguments(method: str, fsdp: int, workdir: pathlib.Path) -> list[str]:
  """The command line of a run."""
  config, more = METHODS[method]
  fields = {
    'total_steps': STEPS,
    'schedule.warmup_steps': 2,
    'log_every_steps': 1,
    'eval_every_steps': STEPS,
  } | ({'fsdp': fsdp} if fsdp > 1 else {})
  return [
    f'--config=configs/{config}',
    f'--workdir={workdir}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
    *more,
  ]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--methods', default=','.join(METHODS))
  asked = parser.parse_args().methods.split(',')
  rows = []
  for method in asked:
    with tempfile.TemporaryDirectory() as folder:
      alone = None
      for number, (count, devices, fsdp) in enumerate(TOPOLOGIES):
        workdir = pathlib.Path(folder, str(number))
        ended = processes.run(
          arguments(method, fsdp, workdir), processes=count, devices=devices
        )
        if any(code for code, _ in ended):
          raise SystemExit('\n'.join(output for _, output in ended))
        found = measured(workdir)
        alone = alone or found
        rows.append(
          {
            'method': method,
            'topology': f'{count} x {devices}',
            'fsdp': fsdp,
            **compared(alone, found),
            **record.origin(('jax', 'flax')),
          }
        )
        print(json.dumps({k: rows[-1][k] for k in COLUMNS}), flush=True)
  record.keep(
    record.RESULTS / 'topologies.json',
    rows,
    ('method', 'topology', 'fsdp'),
    table,
  )


def measured(workdir: pathlib.Path) -> dict[str, Any]:
  """The losses of a run, step by step, and its weights left at the end."""
  summary = json.loads((workdir / 'summary.json').read_text())
  losses = [line['loss'] for line in processes.metrics(workdir)]
  return {'losses': losses, 'nonzero': summary['nonzero']}


def compared(alone: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
  """Largest differences from the run on one device."""
  apart = [abs(a - b) for a, b in zip(alone['losses'], other['losses'])]
  return {
    'first 3 steps': max(apart[:3]),
    'all steps': max(apart),
    'nonzero': other['nonzero'],
    'nonzero apart': abs(other['nonzero'] - alone['nonzero']),
  }


COLUMNS = (
  'method',
  'topology',
  'fsdp',
  'first 3 steps',
  'all steps',
  'nonzero',
  'nonzero apart',
)


def table(rows: list[dict[str, Any]]) -> str:
  """All rows as Markdown."""
  cells = [
    [f'{r[c]:.1e}' if isinstance(r[c], float) else r[c] for c in COLUMNS]
    for r in rows
  ]
  header = [c.replace('steps', 'steps: loss apart') for c in COLUMNS]
  header[1] = 'processes x devices'
  return record.markdown(header, cells)


if __name__ == '__main__':
  main()
