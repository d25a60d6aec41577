"""Any function of sparse weights on a CPU, beside the same one dense.

  pip install -e '.[train,onnx]' equinox
  python -m benchmarks.functions --threads=1
  python -m benchmarks.functions --threads=2

Models that `inference.build` does not know, through `inference.build_function`:
a vision transformer (ViT-small, 224 x 224 in patches of 16), the CIFAR networks
VGG-16 and WideResNet-34-2, and an Equinox MLP of three layers with 2,048
units, at 90, 95 and 98% zeros. Weights are drawn at random; of each layer but
the first one and the classifier the smallest are zero: where they lie makes no
difference to what is skipped. Programs run in one process, in turns, on the
CPUs that --threads leaves: ours, XLA's of the same function, and, of the Flax
models, which our export writes, ONNX Runtime's. Written to
benchmarks/results/functions.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from str_jax import models
from str_jax.commands import bench
from str_jax.inference import comparison, peers
from str_jax.interop import onnx
from str_jax.paths import named_leaves

RESULTS = record.RESULTS / 'functions.json'
KEY = ('model', 'asked', 'batch', 'threads', 'machine')
SPARSITIES = (0.90, 0.95, 0.98)
FLAX = {  # name, size of an image, classes, settings
  'ViT-small': ('vit_small', 224, 1000, {'patch': 16}),
  'VGG-16': ('vgg16', 32, 10, {}),
  'WideResNet-34-2': ('wrn_34_2', 32, 10, {}),
}
MLP = 'MLP (Equinox)'
_UNITS = 2048


@dataclasses.dataclass(frozen=True)
class Case:
  """A function, its weights, and the shape of its input."""

  function: Callable[[Any, jax.Array], jax.Array]
  weights: Any
  shape: tuple[int, ...]
  model: Any = None  # of Flax


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--threads', type=int, required=True)
  parser.add_argument('--models', nargs='+', default=[*FLAX, MLP])
  parser.add_argument('--batches', type=int, nargs='+', default=[1, 8])
  parser.add_argument('--rounds', type=int, default=11)
  args = parser.parse_args(arguments)
  origin = record.origin(('jax', 'onnxruntime', 'equinox'))  # with all CPUs
  threads = bench.take_threads(args.threads)
  for name in args.models:
    for sparsity in SPARSITIES:
      for batch in args.batches:
        row = {'model': name, 'asked': sparsity, 'batch': batch}
        row |= {'threads': threads}
        row |= measure(case(name, sparsity, batch), threads, args.rounds)
        print(table([row]).splitlines()[-1], flush=True)
        record.keep(RESULTS, [row | origin], KEY, table)


def case(name: str, sparsity: float, batch: int, **small: Any) -> Case:
  """A model with so many zeros.

  Args:
    name: of FLAX, or MLP.
    sparsity: of each layer but the first and the last.
    batch: examples of a call.
    **small: sizes other than the usual ones.

  Returns:
    The case.
  """
  if name == MLP:
    return _mlp(sparsity, batch, **small)
  arch, size, classes, settings = FLAX[name]
  size = small.pop('size', size)
  model = models.create(arch, num_classes=classes, **settings | small)
  shape = (batch, size, size, 3)
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
  variables = _drawn(variables, 'kernel', sparsity)
  apply = lambda variables, x: model.apply(variables, x, train=False)
  return Case(apply, variables, shape, model)


def _mlp(sparsity: float, batch: int, units: int = _UNITS) -> Case:
  import equinox as eqx

  net = eqx.nn.MLP(784, 10, units, depth=3, key=jax.random.key(0))
  arrays, rest = eqx.partition(net, eqx.is_inexact_array)
  arrays = _drawn(arrays, 'weight', sparsity)
  function = lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x)
  return Case(function, arrays, (batch, 784))


def _drawn(tree: Any, kind: str, sparsity: float) -> Any:
  """Weights at random, the smallest zero, at such a scale that sums keep it."""
  rng = np.random.default_rng(0)
  found = [path for path in named_leaves(tree) if path[-1] == kind]
  dense = {found[0], found[-1]} | {p for p in found if p[-2] == 'classifier'}
  leaves = []
  for path, leaf in named_leaves(tree).items():
    x = rng.normal(size=leaf.shape)
    if path in found:
      if path not in dense:
        x *= np.abs(x) > np.quantile(np.abs(x), sparsity)
      x *= np.sqrt(2 / (np.count_nonzero(x) / x.shape[-1]))
    elif path[-1] in ('scale', 'var'):
      x = rng.uniform(0.5, 1.5, x.shape)
    else:
      x *= 0.1
    leaves.append(jnp.asarray(x, jnp.float32))
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def measure(case: Case, threads: int, rounds: int) -> dict[str, Any]:
  """What is recorded of a case."""
  others = {}
  found = map(importlib.util.find_spec, ('jax2onnx', 'onnxruntime'))
  if case.model is not None and all(found):
    others['ONNX Runtime, dense'] = lambda x: peers.onnx_session(
      _onnx(case), x, threads
    )
  found = comparison.compare_function(
    case.function, case.weights, case.shape, others=others, rounds=rounds
  )
  sizes = [np.count_nonzero(w) for w in jax.tree.leaves(case.weights)]
  return {
    'nonzero': int(sum(sizes)),
    'speedup': found.speedup,
    'note': found.note,
    'sparse_layers': sum(layer.kernel.sparse for layer in found.layers),
    'layers': len(found.layers),
    'programs': [dataclasses.asdict(row) for row in found.rows],
  }


def _onnx(case: Case) -> bytes:
  """The case as an ONNX model."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'model.onnx'
    onnx.write(
      path, case.model, case.weights, case.shape[1:], batch=case.shape[0]
    )
    return path.read_bytes()


def table(records: list[dict[str, Any]]) -> str:
  """The results as Markdown."""
  lines = [
    '| model | threads | batch | zeros | times as fast as the best dense | '
    'ours, ms | XLA | ONNX Runtime | sparse layers |',
    '|---|---:|---:|---:|---:|---:|---:|---:|---:|',
  ]
  for r in records:
    rows = {row['program']: row for row in r['programs']}
    best = min(r['programs'][1:], key=lambda row: row['ratio'])
    times = ' | '.join(
      f'{rows[name]["seconds"] * 1e3:.2f}' if name in rows else ''
      for name in (comparison.OURS, 'XLA, dense', 'ONNX Runtime, dense')
    )
    lines.append(
      f'| {r["model"]} | {r["threads"]} | {r["batch"]} | {r["asked"]:.0%} | '
      f'**{best["ratio"]:.2f}** ({best["least"]:.2f}-{best["most"]:.2f}) | '
      f'{times} | {r["sparse_layers"]} of {r["layers"]} |'
    )
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  main()
