"""The threshold over a whole network: by counting, beside sorts and selection.

  pip install -e '.[train,benchmark]'
  python -m benchmarks.thresholds --models=resnet50,mobilenet_v1,resnet20

On kernels of a network's shapes, normally distributed, finds the magnitude
below which nine weights of ten lie: by our counting passes from nothing, by
those that look near the last step's value first (the weights move as by SGD
between the steps), by all of ST-3's update, and by sorts and selections of
JAX, PyTorch and NumPy, each in a process of its own, in turns; see
benchmarks/alternate.py. The passes are counted as they are made. Written to
benchmarks/results/thresholds.json and, as tables, to thresholds.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import alternate, our_step, record
from benchmarks.alternate import Contender, Program, Result
from str_jax.training import cpu

RESULTS = record.RESULTS / 'thresholds.json'
KEY = ('model', 'program', 'threads', 'device')
SPARSITY = 0.9
OURS = 'ours, near the last'
# A step of SGD moves a weight by about 1e-3 of the weights' deviation, and
# decay shrinks all of them by about as much as 1e-5.
MOVE, DECAY = 1e-3, 1e-5
Shapes = Sequence[tuple[int, ...]]


def shapes_of(model: str) -> list[tuple[int, ...]]:
  """The shapes of a network's kernels."""
  import jax
  import jax.numpy as jnp

  from str_jax import models
  from str_jax.paths import kernels

  size, classes, _ = our_step.MODELS[model]
  variables = jax.eval_shape(
    models.create(model, num_classes=classes).init,
    jax.random.key(0),
    jnp.zeros((1, size, size, 3)),
  )
  return [w.shape for w in kernels(variables['params']).values()]


def draw(shapes: Shapes) -> list[np.ndarray]:
  """Normal kernels, of He's deviations."""
  rng = np.random.default_rng(0)
  fans = [math.prod(s[:-1]) for s in shapes]
  return [
    rng.standard_normal(s, 'f4') * np.float32(math.sqrt(2 / fan))
    for s, fan in zip(shapes, fans)
  ]


def move(weights: list[np.ndarray], seed: int) -> list[np.ndarray]:
  """The weights a step of SGD later."""
  rng = np.random.default_rng(seed)
  return [
    w * np.float32(1 - DECAY)
    + np.float32(MOVE) * w.std() * rng.standard_normal(w.shape, 'f4')
    for w in weights
  ]


def rank(shapes: Shapes) -> int:
  return math.ceil(SPARSITY * sum(map(math.prod, shapes)))


def count_passes(run: Callable[[], Any]) -> int:
  """The counting passes that a call makes: it has to trace anew."""
  import jax

  from str_jax import quantile

  original, passes = quantile._counts, []

  def counting(*args: Any) -> Any:
    jax.debug.callback(lambda: passes.append(1))
    return original(*args)

  quantile._counts = counting
  try:
    jax.block_until_ready(run())
    jax.effects_barrier()
  finally:
    quantile._counts = original
  return len(passes)


def ours(shapes: Shapes, what: str) -> Program:
  """Counting: 'nothing', 'near', 'update' (ST-3's) or a single 'pass'."""
  import jax
  import jax.numpy as jnp

  import str_jax
  from str_jax import quantile

  k = rank(shapes)
  now = draw(shapes)
  trees = [jax.device_put(now)]
  if what in ('near', 'update'):
    trees.append(jax.device_put(move(now, 1)))
  st3 = str_jax.methods.create('st3', sparsity=SPARSITY, end_step=1)

  def update(weights: list[jax.Array], last: jax.Array) -> jax.Array:
    names = [f'l{i}' for i in range(len(weights))]
    leaves = [jnp.full((1,) * w.ndim, last) for w in weights]
    new = st3.update(
      dict(zip(names, weights)),
      {name: (leaf,) for name, leaf in zip(names, leaves)},
      jnp.int32(10),
    )
    return new[names[0]].ravel()[0]

  def one_pass(weights: list[jax.Array], last: jax.Array) -> jax.Array:
    points = jnp.arange(quantile.pass_size(), dtype=jnp.float32)
    at = last * (1 + 0.01 * points)
    ones = (1.0,) * len(weights)
    counts = quantile._counts(weights, at[:, None], ones)
    return jnp.stack(counts).sum().astype(jnp.float32) * 0 + last

  find = {
    'nothing': lambda weights, last: quantile.kth_magnitude(weights, k),
    'near': lambda weights, last: quantile.kth_magnitude(weights, k, near=last),
    'update': update,
    'pass': one_pass,
  }[what]
  value = jax.jit(quantile.kth_magnitude, static_argnums=1)
  last = [value(trees[-1], k)]
  passes = count_passes(lambda: jax.jit(lambda *a: find(*a))(trees[0], last[0]))
  compiled = jax.jit(find).lower(trees[0], last[0]).compile()
  done = [0]

  def run(steps: int) -> None:
    for _ in range(steps):
      last[0] = compiled(trees[done[0] % len(trees)], last[0])
      done[0] += 1
    jax.block_until_ready(last[0])

  facts = {
    'value': float(value(trees[0], k)),
    'passes': passes,
    'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
  }
  if len(trees) > 1:
    facts['moved'] = abs(float(value(trees[1], k)) / facts['value'] - 1)
  return Program(run, facts)


def jax_peer(shapes: Shapes, what: str) -> Program:
  """jnp's 'sort' or 'quantile' of all magnitudes in one vector."""
  import jax
  import jax.numpy as jnp

  k = rank(shapes)
  weights = jax.device_put(draw(shapes))

  def find(weights: list[jax.Array]) -> jax.Array:
    everything = jnp.concatenate([jnp.abs(w).ravel() for w in weights])
    if what == 'sort':
      return jnp.sort(everything)[k - 1]
    return jnp.quantile(everything, SPARSITY)

  return _program(jax.jit(find), weights, jax.block_until_ready)


def torch_peer(shapes: Shapes, what: str) -> Program:
  """PyTorch's 'sort' or 'kthvalue', on its GPU if it has one."""
  import torch

  torch.set_num_threads(cpu.cores())
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  k = rank(shapes)
  weights = [torch.from_numpy(w).to(device) for w in draw(shapes)]

  def find(weights: list[Any]) -> Any:
    everything = torch.cat([w.abs().flatten() for w in weights])
    if what == 'sort':
      return torch.sort(everything).values[k - 1]
    return torch.kthvalue(everything, k).values

  return _program(find, weights, float)  # float waits for the device


def numpy_peer(shapes: Shapes) -> Program:
  """numpy.partition, on the host."""
  k = rank(shapes)

  def find(weights: list[np.ndarray]) -> np.float32:
    everything = np.concatenate([np.abs(w).ravel() for w in weights])
    return np.partition(everything, k - 1)[k - 1]

  return _program(find, draw(shapes), float)


def _program(find: Callable, weights: Any, wait: Callable) -> Program:
  def run(steps: int) -> None:
    for _ in range(steps):
      wait(find(weights))

  return Program(run, {'value': float(find(weights))})


PROGRAMS: dict[str, tuple[Callable[..., Program], dict[str, str]]] = {
  OURS: (ours, {'what': 'near'}),
  'ours, from nothing': (ours, {'what': 'nothing'}),
  'ours, a single pass': (ours, {'what': 'pass'}),
  'ours, update of ST-3': (ours, {'what': 'update'}),
  'jnp.sort': (jax_peer, {'what': 'sort'}),
  'jnp.quantile': (jax_peer, {'what': 'quantile'}),
  'torch.sort': (torch_peer, {'what': 'sort'}),
  'torch.kthvalue': (torch_peer, {'what': 'kthvalue'}),
  'numpy.partition': (numpy_peer, {}),
}


def records(
  model: str, count: int, results: dict[str, Result], **common: Any
) -> list[dict[str, Any]]:
  """A record for each program that was measured."""
  rows = []
  for name, result in results.items():
    row = {'model': model, 'program': name, 'weights': count, **common}
    row['ms'] = [round(1000 * s, 4) for s in result.seconds]
    row |= result.facts
    if name != OURS and OURS in results:
      ratio = alternate.ratios(results[OURS], result)
      row['time_over_ours'] = [round(x, 3) for x in ratio]
    if name == 'ours, a single pass':
      row['gigabytes_per_second'] = round(
        4 * count / statistics.median(result.seconds) / 1e9, 2
      )
    rows.append(row)
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  """The records for people: a table for each machine."""
  header = ('network', 'found by', 'ms', 'range', 'time over ours')
  header += ('passes', 'GB/s', 'temporary memory')
  text = []
  settings = sorted({(r['device'], r['threads']) for r in rows})
  for device, threads in settings:
    cells = []
    for r in rows:
      if (r['device'], r['threads']) != (device, threads):
        continue
      ratio, temporary = r.get('time_over_ours'), r.get('temporary_bytes')
      cells.append(
        (
          f'{r["model"]}, {r["weights"] / 1e6:.2f}M weights',
          r['program'],
          f'{statistics.median(r["ms"]):.2f}',
          f'{min(r["ms"]):.2f}-{max(r["ms"]):.2f}',
          '{:.2f} ({:.2f}-{:.2f})'.format(*ratio) if ratio else '',
          r.get('passes', ''),
          r.get('gigabytes_per_second', ''),
          '' if temporary is None else f'{temporary / 2**20:.2f} MiB',
        )
      )
    text.append(f'## {device}, {threads} threads\n\n')
    text.append(record.markdown(header, cells) + '\n')
  return ''.join(text)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default='resnet50')
  parser.add_argument('--programs', help='separated by ;, default all')
  alternate.add_arguments(parser, seconds=1.0)
  args = parser.parse_args()
  names = args.programs.split(';') if args.programs else list(PROGRAMS)
  for model in args.models.split(','):
    shapes = shapes_of(model)
    results = alternate.measure(
      [
        Contender(name, build, {'shapes': shapes, **settings})
        for name, (build, settings) in PROGRAMS.items()
        if name in names
      ],
      alternations=args.alternations,
      seconds=args.seconds,
      threads=args.threads,
    )
    rows = records(
      model,
      sum(map(math.prod, shapes)),
      results,
      threads=args.threads,
      device=record.device(),
      **record.origin(),
    )
    print(table(rows), flush=True)
    if args.write:
      record.keep(RESULTS, rows, KEY, table)


if __name__ == '__main__':
  main()
