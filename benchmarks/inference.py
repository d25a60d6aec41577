"""A whole sparse network on a CPU, beside the best dense program.

  pip install -e '.[train,onnx,torch]'
  python -m benchmarks.inference --threads=1
  python -m benchmarks.inference --threads=2

ResNet50 with the zeros of every layer as STR learned them (published budgets
of 90.23, 95.03 and 98.05%) and MobileNetV1 as ERK spreads them (90, 95, 98%),
1,000 classes, images of 224 x 224, 1 and 8 a call. Weights are drawn at random
and scaled to keep the activations in range, zeros are the smallest of each
layer: where they lie makes no difference to what is skipped. All programs run
in one process, in turns, on the CPUs that --threads leaves; the best dense one
is the fastest of XLA, our own dense kernels, ONNX Runtime and PyTorch, norms
folded in all of them. Written to benchmarks/results/inference.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import jax
import numpy as np

from benchmarks import record, sizes
from str_jax import budgets, models
from str_jax.commands import bench
from str_jax.inference import comparison, reading
from str_jax.inference.comparison import Comparison
from str_jax.inference.network import Classifier, Conv
from str_jax.interop import dense_file
from str_jax.paths import KERNEL

RESULTS = record.RESULTS / 'inference.json'
KEY = ('model', 'asked', 'batch', 'threads', 'machine')
SPARSITIES = (0.90, 0.95, 0.98)
BATCHES = (1, 8)
SIZE = 224


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--threads', type=int, required=True)
  parser.add_argument('--models', nargs='+', default=sizes.MODELS)
  parser.add_argument('--rounds', type=int, default=11)
  parser.add_argument('--no-write', action='store_true')
  args = parser.parse_args()
  origin = record.origin(('jax', 'onnxruntime', 'torch'))  # with all CPUs
  threads = bench.take_threads(args.threads)
  for name in args.models:
    for sparsity in SPARSITIES:
      model, variables = network(name, sparsity)
      layers = reading.network(model, variables)
      for batch in BATCHES:
        shape = (batch, SIZE, SIZE, 3)
        found = comparison.compare(layers, shape, threads, rounds=args.rounds)
        row = {'model': name, 'asked': sparsity, 'batch': batch}
        row |= {'threads': threads} | facts(found, shares(layers, found))
        print(table([row]).splitlines()[-1], flush=True)
        if not args.no_write:
          record.keep(RESULTS, [row | origin], KEY, table)


def network(name: str, sparsity: float, **small: Any) -> tuple[Any, Any]:
  """A dense model and variables with the zeros of a budget.

  Args:
    name: of the model.
    sparsity: which budget, of benchmarks.sizes.
    **small: sizes of the model other than the usual ones.

  Returns:
    (model, variables).
  """
  model = models.create(name, num_classes=1000, **small)
  variables = sizes.draw(name, **small)
  published = name == 'resnet50' and not small
  budget = sizes.SPARSITIES[sparsity] if published else 'erk'
  found = budgets.resolve(budget, sizes.shapes_of(variables), sparsity)
  rng = np.random.default_rng(1)
  arrays = dense_file.flatten(sizes.prune(variables, found))
  for path, x in arrays.items():
    kind = path.rsplit('/', 1)[-1]
    if kind == KERNEL:
      fan_in = np.count_nonzero(x) / x.shape[-1]
      arrays[path] = x * np.float32(np.sqrt(1 / max(fan_in, 1)))
    elif kind in ('var', 'scale'):
      arrays[path] = rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
    else:
      arrays[path] = x * np.float32(0.1)
  return model, jax.tree.map(np.asarray, dense_file.unflatten(arrays))


def shares(layers: Any, found: Comparison) -> dict[str, Any]:
  """What part of the network the sparse kernels computed."""
  positions = _positions(layers, found.images)
  dense = {
    node.name: positions[node.name] * node.kernel.size
    for node in layers
    if isinstance(node, Conv | Classifier)
  }
  sparse = [layer.name for layer in found.layers if layer.kernel.sparse]
  return {
    'sparse_layers': len(sparse),
    'layers': len(dense),
    'sparse_madds': sum(dense[n] for n in sparse) / sum(dense.values()),
  }


def _positions(layers: Any, images: tuple[int, ...]) -> dict[str, int]:
  from str_jax.inference import network as networks

  made = networks.shapes(layers, images)
  return {
    name: 1 if len(shape) == 2 else shape[1] * shape[2]
    for name, shape in made.items()
  }


def facts(found: Comparison, share: dict[str, Any]) -> dict[str, Any]:
  """What is recorded of a comparison."""
  kernels = found.layers
  weights = sum(layer.weights for layer in kernels)
  return {
    'sparsity': 1 - sum(layer.nonzero for layer in kernels) / weights,
    'backend': found.backend,
    'speedup': found.speedup,
    'programs': [dataclasses.asdict(row) for row in found.rows],
    **share,
  }


def table(rows: list[dict[str, Any]]) -> str:
  """The rows as Markdown."""
  programs = ('str_jax', 'str_jax, dense', 'ONNX Runtime, dense')
  programs += ('PyTorch, dense', 'XLA, dense')
  lines = []
  for row in sorted(
    rows, key=lambda r: (r['model'], r['threads'], r['batch'], r['asked'])
  ):
    by = {p['program']: p for p in row['programs']}
    best = min(row['programs'][1:], key=lambda p: p['ratio'])
    lines.append(
      [
        row['model'],
        row['threads'],
        row['batch'],
        f'{row["sparsity"]:.2%}',
        f'**{row["speedup"]:.2f}** ({best["least"]:.2f}-{best["most"]:.2f})',
        *(f'{by[p]["seconds"] * 1e3:.2f}' if p in by else '' for p in programs),
        f'{row["sparse_layers"]} of {row["layers"]}, {row["sparse_madds"]:.0%}',
        f'{max(p["difference"] for p in row["programs"]):.0e}',
      ]
    )
  header = ('model', 'threads', 'batch', 'zeros', 'best dense over ours')
  header += tuple(f'{p}, ms' for p in programs)
  header += ('sparse layers, madds', 'logits differ by')
  return record.markdown(header, lines)


if __name__ == '__main__':
  main()
