"""What crosses devices in a training step, and what that means on many chips.

  pip install -e '.[train]'
  python -m benchmarks.scaling --models=resnet50,resnet20

Compiles the trainer's data-parallel step for 1, 2, 4 and 8 virtual devices of
the CPU, each in a process of its own, without running it, and reads every
collective and its bytes from the optimized HLO. From the bytes follows, as
arithmetic with published link speeds, what share of its time a chip would
spend on training among 8, 64 and 512. Written to
benchmarks/results/scaling.json and, with the assumptions, to scaling.md.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import multiprocessing
from collections.abc import Sequence
from typing import Any

from benchmarks import hlo, our_step, record
from benchmarks.chips import CHIPS, UTILIZATION, all_reduce

RESULTS = record.RESULTS / 'scaling.json'
KEY = ('kind', 'model', 'method', 'devices', 'chip', 'chips')
ROLES = ('weights', 'norm_forward', 'norm_backward', 'other')
# Had the weights been gathered, or the thresholds found by sorting.
UNWANTED = ('all-gather', 'gather', 'sort', 'topk')
BATCH = 128  # images a chip, for the prediction
ASSUMPTIONS = (
  f'{BATCH} images a chip at every number of chips, float32 gradients.',
  'Collectives as XLA combines them for CPU devices; for others it combines '
  'more or fewer of them, of the same bytes in all.',
  'An all-reduce of B bytes over n chips sends 2 (n-1)/n B from each. Beyond '
  "a group's fast links it runs within the groups and then, on B/group bytes "
  'a chip, between them. Links reach their published speed, and a small TPU '
  'slice uses all of its links, which is optimistic.',
  'A TPU trains at the share of its bfloat16 peak that Flax reaches on a TPU '
  f'v3-8 ({UTILIZATION:.0%}; 125,100 steps of 1024 images in 4.4 h: Flax, '
  'examples/imagenet/README.md; 123 TFLOP/s a chip: '
  'https://cloud.google.com/tpu/docs/v3). A faster chip scales worse.',
  'A collective waits 3 us (TPU) or 5 us (GPU) for each doubling of the '
  'chips: our guess, not a published figure.',
  'Statistics are waited for, layer after layer. Gradients are hidden by '
  'nothing (no overlap), or by all of the training but for what takes longer '
  'than it (full overlap).',
)


def role(name: str) -> str:
  """What an array is for, by the name of its operation.

  >>> role('jit(train_step)/transpose(jvp(ResNet))/norm1/reduce_sum')
  'norm_backward'
  """
  backward = 'transpose(' in name
  if 'norm' in name.lower():
    return 'norm_backward' if backward else 'norm_forward'
  return 'weights' if backward else 'other'


def summarize(text: str) -> dict[str, Any]:
  """The collectives of a step in numbers."""
  found = hlo.collectives(text)
  sizes = dict.fromkeys(ROLES, 0)
  for c in found:
    for name, size in c.arrays:
      sizes[role(name)] += (c.times or 0) * size
  count = hlo.operations(text)
  times = lambda some: sum(c.times or 0 for c in some)
  return {
    'collectives': times(found),
    'with_weights': times(
      c for c in found if any(role(name) == 'weights' for name, _ in c.arrays)
    ),
    'kinds': dict(collections.Counter(c.kind for c in found)),
    'unwanted': {op: count[op] for op in UNWANTED if count[op]},
    # A loop of unknown length is not in the numbers above and below.
    'bytes_a_pass_of_loops': [c.bytes for c in found if c.times is None],
    'bytes': sizes,
  }


def measure(
  model: str, method: str, devices: int, batch: int
) -> dict[str, Any]:
  """Compiles a step for so many devices, in a process that begins with it."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', devices)
  made, _, shapes = our_step.prepare(model, method, batch)
  step = made.train_step.lower(made.target, shapes).compile()
  state = made.target
  parameters = dict.fromkeys(('weights', 'norms', 'thresholds'), 0)
  leaves = jax.tree_util.tree_leaves_with_path(state.variables['params'])
  for path, leaf in leaves:
    name = jax.tree_util.keystr(path)
    kind = 'norms' if 'norm' in name else 'weights'
    parameters['thresholds' if 'threshold' in name else kind] += leaf.size
  row = {'kind': 'step', 'model': model, 'method': method, 'devices': devices}
  row |= {'batch': batch, 'parameters': parameters}
  return row | summarize(step.as_text()) | record.origin()


def predict(row: dict[str, Any], name: str, chips: int) -> dict[str, Any]:
  """The times of a step on so many chips, from what a step's HLO holds."""
  chip, sizes = CHIPS[name], row['bytes']
  wait = chip.latency * math.ceil(math.log2(chips))
  compute = BATCH / chip.images
  gradients = all_reduce(sizes['weights'], chips, chip)
  gradients += wait * row['with_weights']
  waits = wait * (row['collectives'] - row['with_weights'])
  statistics = all_reduce(sum(sizes.values()) - sizes['weights'], chips, chip)
  statistics += waits
  apart = compute + gradients + statistics
  together = max(compute, gradients) + statistics
  return {
    'kind': 'prediction',
    'model': row['model'],
    'method': row['method'],
    'chip': name,
    'chips': chips,
    'compute_ms': round(compute * 1e3, 3),
    'gradients_ms': round(gradients * 1e3, 3),
    'statistics_ms': round(statistics * 1e3, 3),
    'of_these_waits_ms': round(waits * 1e3, 3),
    'efficiency_no_overlap': round(compute / apart, 4),
    'efficiency_full_overlap': round(compute / together, 4),
    'batch_per_chip': BATCH,
    'assumed': dataclasses.asdict(chip),
    **record.origin(),
  }


def predictions(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Of each method's ResNet50, as compiled for the most devices."""
  widest: dict[str, dict[str, Any]] = {}
  for row in sorted(rows, key=lambda r: r.get('devices', 0)):
    if row['kind'] == 'step' and row['model'] == 'resnet50':
      widest[row['method']] = row
  return [
    predict(row, name, chips)
    for row in widest.values()
    if row['devices'] > 1
    for name in CHIPS
    for chips in (8, 64, 512)
  ]


def tables(rows: Sequence[dict[str, Any]]) -> str:
  """The records for people."""
  header = ('model', 'method', 'devices', 'collectives')
  header += ('with gradients', 'weights, bytes', '4 x weights', 'norms forward')
  header += ('norms backward', 'of these gradients', 'other', 'unwanted')
  cells = []
  for r in (r for r in rows if r['kind'] == 'step'):
    sizes, parameters = r['bytes'], r['parameters']
    bad = r['unwanted'] | {'in loops': len(r['bytes_a_pass_of_loops'])}
    bad = ', '.join(f'{k} {n}' for k, n in bad.items() if n)
    several = r['devices'] > 1
    cells.append(
      (r['model'], r['method'], r['devices'])
      + (r['collectives'], r['with_weights'], f'{sizes["weights"]:,}')
      + (f'{4 * parameters["weights"] * several:,}',)
      + (f'{sizes["norm_forward"]:,}', f'{sizes["norm_backward"]:,}')
      + (f'{4 * parameters["norms"] * several:,}', f'{sizes["other"]:,}')
      + (bad or 'none',)
    )
  text = '## What crosses devices in a step\n\n'
  text += record.markdown(header, cells)
  header = ('chip', 'chips', 'training, ms', 'gradients, ms')
  header += ('statistics, ms', 'of these waits', 'efficiency, no overlap')
  header += ('full overlap',)
  header += ('methods',)
  same = collections.defaultdict(list)
  for r in (r for r in rows if r['kind'] == 'prediction'):
    times = (r['compute_ms'], r['gradients_ms'], r['statistics_ms'])
    times += (r['of_these_waits_ms'],)
    shares = (r['efficiency_no_overlap'], r['efficiency_full_overlap'])
    key = (r['chip'], r['chips'], *times, *(f'{x:.1%}' for x in shares))
    same[key].append(r['method'])
  cells = [(*key, ', '.join(methods)) for key, methods in sorted(same.items())]
  text += '\n## What that predicts for ResNet50\n\nArithmetic, not measured.\n'
  text += '\n' + record.markdown(header, cells) + '\nAssumed:\n\n'
  lines = [*ASSUMPTIONS, *(f'{k}: {c.sources}.' for k, c in CHIPS.items())]
  return text + ''.join(f'- {line}\n' for line in lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default='resnet50,resnet20')
  parser.add_argument('--methods', default='dense,str,st3,gmp')
  parser.add_argument('--devices', default='1,2,4,8')
  parser.add_argument('--batch', type=int, default=16, help='on all devices')
  parser.add_argument('--no-write', dest='write', action='store_false')
  args = parser.parse_args()
  context = multiprocessing.get_context('spawn')
  rows = record.read(RESULTS) if args.write else []
  for model in args.models.split(','):
    for method in args.methods.split(','):
      for devices in map(int, args.devices.split(',')):
        with context.Pool(1) as pool:  # a backend counts its devices once
          row = pool.apply(measure, (model, method, devices, args.batch))
        print(json.dumps(row), flush=True)
        rows.append(row)
        if args.write:
          rows = record.add(RESULTS, [row], KEY)
  rows = [r for r in rows if r['kind'] == 'step']
  rows += predictions(rows)
  if args.write:
    rows = record.keep(RESULTS, rows, KEY, tables)
  print(tables(rows))


if __name__ == '__main__':
  main()
