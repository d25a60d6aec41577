"""Memory of a training step, method by method, from the compiled program.

  pip install -e '.[train]'
  python -m benchmarks.memory --models=resnet50:8,resnet50:64,resnet20:128

Compiles the trainer's step for abstract arguments (nothing is run and no
weights are made) and reads XLA's account of it: arguments, outputs, what of
these shares memory, and temporaries. Checks that a method keeps no mask: no
boolean array of a kernel's shape stands in the state that a step returns.
Written to benchmarks/results/memory.json and, as a table, to memory.md. It
takes 10 to 20 s a row of ResNet50 on a CPU core.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import our_step, record

RESULTS = record.RESULTS / 'memory.json'
KEY = ('model', 'method', 'batch', 'devices', 'device')


def compile_step(model: str, method: str, batch: int) -> tuple[Any, Any]:
  """The compiled step of a config's run, and its abstract state."""
  made, _, shapes = our_step.prepare(model, method, batch)
  return made.train_step.lower(made.target, shapes).compile(), made.target


def masks(compiled: Any, state: Any) -> list[tuple[int, ...]]:
  """Shapes of the boolean arrays returned that are as large as a kernel."""
  import jax

  from str_jax.paths import kernels

  sizes = {w.size for w in kernels(state.variables['params']).values()}
  return [
    x.shape
    for x in jax.tree.leaves(compiled.out_info)
    if x.dtype == bool and x.size in sizes
  ]


def measure(model: str, method: str, batch: int) -> dict[str, Any]:
  """What XLA says of a step, in bytes."""
  import jax

  from str_jax.paths import kernels

  compiled, state = compile_step(model, method, batch)
  found = masks(compiled, state)
  if found:
    raise AssertionError(f'{method} keeps masks in its state: {found}.')
  memory = compiled.memory_analysis()
  parts = {
    'argument_bytes': memory.argument_size_in_bytes,
    'output_bytes': memory.output_size_in_bytes,
    'alias_bytes': memory.alias_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
  }
  weights = kernels(state.variables['params']).values()
  return {
    'model': model,
    'method': method,
    'batch': batch,
    'devices': jax.device_count(),
    'weight_bytes': sum(w.size * w.dtype.itemsize for w in weights),
    'state_bytes': sum(
      x.size * x.dtype.itemsize for x in jax.tree.leaves(compiled.out_info)
    ),
    **parts,
    # As XLA lays it out: all of the temporaries at once.
    'peak_bytes': sum(parts.values()) - 2 * parts['alias_bytes'],
  }


def table(rows: list[dict[str, Any]]) -> str:
  """The records for people."""
  header = (
    'step',
    'method',
    'peak',
    'over dense',
    'more, in copies of weights',
  )
  header += ('arguments', 'temporaries', 'commit')
  dense = {
    tuple(r[k] for k in KEY if k != 'method'): r
    for r in rows
    if r['method'] == 'dense'
  }
  mib = lambda size: f'{size / 2**20:.1f} MiB'
  cells = []
  for r in rows:
    base = dense.get(tuple(r[k] for k in KEY if k != 'method'))
    over = more = ''
    if base:
      over = f'{r["peak_bytes"] / base["peak_bytes"]:.4f}'
      extra = r['peak_bytes'] - base['peak_bytes']
      more = f'{extra / r["weight_bytes"]:.3f}'
    cells.append(
      (
        f'{r["model"]}, batch {r["batch"]}',
        r['method'],
        mib(r['peak_bytes']),
        over,
        more,
        mib(r['argument_bytes']),
        mib(r['temporary_bytes']),
        r['commit'],
      )
    )
  return record.markdown(header, cells)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--models',
    default='resnet50:8,resnet50:64,resnet20:128',
    help='network:batch, comma-separated',
  )
  parser.add_argument('--methods', default=','.join(our_step.METHODS))
  parser.add_argument('--no-write', dest='write', action='store_false')
  args = parser.parse_args()
  rows = []
  for step in args.models.split(','):
    model, batch = step.split(':')
    for method in args.methods.split(','):
      row = measure(model, method, int(batch))
      rows.append(row | {'device': record.device(), **record.origin()})
      print(table(rows[-1:]).splitlines()[-1], flush=True)
      if args.write:  # row by row: a run that is stopped loses one
        record.keep(RESULTS, rows[-1:], KEY, table)
  print(table(rows))


if __name__ == '__main__':
  main()
