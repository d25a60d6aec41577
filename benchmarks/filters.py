"""Filters that die in training, and what is left of a network without them.

  python -m benchmarks.filters
  python -m benchmarks.filters --methods=str_group --networks=resnet20

Trains each network on the digits with each method at each target, cuts its
dead filters out (str_jax/compaction), and holds the compact network against
the one it came from: parameters, multiply-adds, the largest difference of
logits on the test images, and the time of a forward pass, both side by side in
processes of their own on one core. Written to benchmarks/results/filters.json,
and as tables to filters.md.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
from typing import Any

import jax
import numpy as np

import str_jax
from benchmarks import alternate, record, seeds
from str_jax import compaction, methods, models
from str_jax.training import flags

RESULTS = record.RESULTS / 'filters.json'
KEY = ('network', 'method', 'target', 'steps', 'seed')
CONFIG = record.ROOT / 'configs' / 'digits.py'
FIELDS = {
  'schedule.warmup_steps': 30,
  'optimizer.clip_norm': 3.0,  # as in benchmarks/target: else some diverge
}
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 1), (256, 1))
NETWORKS: dict[str, dict[str, Any]] = {
  'convnet': {},
  'resnet20': {},
  'mobilenet_v1': {'width': 0.5, 'blocks': BLOCKS},
}


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--networks', default=','.join(NETWORKS))
  parser.add_argument('--methods', default='st3,str')
  parser.add_argument('--targets', default='0.9,0.95,0.98,0.99')
  parser.add_argument('--steps', type=int, default=600)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--batch', type=int, default=64, help='when timed')
  alternate.add_arguments(parser, seconds=0.5)
  parser.set_defaults(threads=1)
  args = parser.parse_args(arguments)
  for method in args.methods.split(','):
    if 'target' not in methods.settings(method):
      parser.error(f'the method {method} has no target to train to.')
  for network in args.networks.split(','):
    for method in args.methods.split(','):
      for target in args.targets.split(','):
        row = measure(args, network, method, float(target))
        print(table([row]))
        if args.write:
          record.keep(RESULTS, [row], KEY, table)


def measure(
  args: argparse.Namespace, network: str, method: str, target: float
) -> dict[str, Any]:
  """One network: trained, cut and timed."""
  training = prepare(network, method, target, args.steps, args.seed)
  state = training.initial()
  while (step := int(state.step[0])) < args.steps:
    state = training.advance(state, training.room(step))
  (result,) = training.results(state)
  variables = jax.tree.map(lambda x: np.asarray(x)[0], state.variables)
  stage = training.stage(training.plan.phases[-1])
  data = training.dataset
  report = compaction.dead_filters(stage.model, variables, data.image_shape)
  small, cut = compaction.compact(stage.model, variables)
  images = np.asarray(training.images['test']['image'])
  images = ((images - np.array(data.mean)) / np.array(data.std)).astype('f')
  logits = [
    np.asarray(jax.jit(m.apply)(v, images))
    for m, v in ((stage.model, variables), (small, cut))
  ]
  sizes = {
    'channels': dict(small.channels),
    'classifier_bias': small.classifier_bias,
  }
  dense = str_jax.freeze(stage.method, variables)
  times = timed(args, network, images[: args.batch], (dense, {}), (cut, sizes))
  return {
    'network': network,
    'method': method,
    'target': target,
    'steps': args.steps,
    **{k: result[k] for k in ('seed', 'top1', 'sparsity', 'seconds')},
    **report.to_dict(),
    **sizes,
    'largest_logit': float(np.abs(logits[0]).max()),
    'largest_difference': float(np.abs(logits[0] - logits[1]).max()),
    **times,
    **record.origin(('jax', 'flax')),
  }


def prepare(
  network: str, method: str, target: float, steps: int, seed: int
) -> seeds.Training:
  """The training of a network on the digits."""
  config, _ = flags.load_config(f'{CONFIG}:dense')
  with config.unlocked():
    config.update_from_flattened_dict(
      FIELDS
      | {
        'total_steps': steps,
        'model.name': network,
        'method.name': method,
        'method.target': target,
      }
    )
    for name, size in NETWORKS[network].items():
      config.model[name] = size
  name = f'{network}-{method}-{target:g}'
  return seeds.Training(config, [seed], pathlib.Path(f'{name}.npz'))


def timed(
  args: argparse.Namespace,
  network: str,
  images: np.ndarray,
  *contenders: tuple[Any, dict[str, Any]],
) -> dict[str, Any]:
  """Forward passes of the network, dense, and of what is left, in turns."""
  results = alternate.measure(
    [
      alternate.Contender(
        name,
        forward,
        {
          'network': network,
          'sizes': sizes,
          'variables': jax.tree.map(np.asarray, variables),
          'images': images,
        },
        {'JAX_PLATFORMS': 'cpu'},
      )
      for name, (variables, sizes) in zip(('before', 'after'), contenders)
    ],
    alternations=args.alternations,
    seconds=args.seconds,
    threads=args.threads,
  )
  before, after = results['before'], results['after']
  return {
    'batch': len(images),
    'threads': args.threads,
    'ms_before': 1e3 * statistics.median(before.seconds),
    'ms_after': 1e3 * statistics.median(after.seconds),
    'speedup': alternate.ratios(after, before),
  }


def forward(
  network: str, sizes: dict[str, Any], variables: Any, images: np.ndarray
) -> alternate.Program:
  """A forward pass as a program to be timed."""
  model = models.create(
    network,
    num_classes=variables['params']['classifier']['kernel'].shape[-1],
    **NETWORKS[network],
    **sizes,
  )
  apply = jax.jit(model.apply)
  variables, images = jax.device_put((variables, images))

  def run(steps: int) -> None:
    for _ in range(steps):
      jax.block_until_ready(apply(variables, images))

  return alternate.Program(run)


def table(rows: list[dict[str, Any]]) -> str:
  """Totals of every network, then its layers."""
  order = {name: i for i, name in enumerate(NETWORKS)}
  rows = sorted(
    rows, key=lambda r: (order[r['network']], r['method'], r['target'])
  )
  header = (
    'network',
    'method',
    'zeros',
    'test accuracy',
    'filters',
    'dead',
    'removed',
    'parameters left',
    'multiply-adds left',
    'largest logit',
    'difference',
    'ms before',
    'ms after',
    'times as fast (range)',
  )
  text = record.markdown(header, [_totals(row) for row in rows])
  text += (
    '\nOne forward pass of a batch; threads and batch: '
    f'{sorted({(r["threads"], r["batch"]) for r in rows})}; '
    f'{rows[0]["steps"]} steps; {rows[0]["machine"]}, {rows[0]["versions"]}.\n'
  )
  groups = dict.fromkeys((r['network'], r['method']) for r in rows)
  for network, method in groups:
    of = [r for r in rows if (r['network'], r['method']) == (network, method)]
    header = ('layer', 'filters', *(f'{r["sparsity"]:.1%}' for r in of))
    text += f'\n{network}, {method}: dead / removed filters\n\n'
    text += record.markdown(header, _layers(of))
  return text


def _totals(row: dict[str, Any]) -> list[str]:
  total = lambda key: sum(layer[key] for layer in row['rows'])
  share = lambda key: f'{row[f"{key}_left"] / row[key]:.1%}'
  speedup, least, most = row['speedup']
  return [
    row['network'],
    row['method'],
    f'{row["sparsity"]:.2%}',
    f'{row["top1"]:.2%}',
    *(str(total(key)) for key in ('filters', 'dead', 'removed')),
    f'{share("parameters")} of {row["parameters"]:,}',
    f'{share("flops")} of {row["flops"]:,}',
    f'{row["largest_logit"]:.1f}',
    f'{row["largest_difference"]:.1e}',
    f'{row["ms_before"]:.2f}',
    f'{row["ms_after"]:.2f}',
    f'{speedup:.2f} ({least:.2f} to {most:.2f})',
  ]


def _layers(rows: list[dict[str, Any]]) -> list[list[str]]:
  return [
    [
      layers[0]['name'],
      str(layers[0]['filters']),
      *(f'{layer["dead"]} / {layer["removed"]}' for layer in layers),
    ]
    for layers in zip(*(row['rows'] for row in rows), strict=True)
  ]


if __name__ == '__main__':
  main()
