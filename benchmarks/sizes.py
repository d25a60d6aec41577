"""What a network takes as a file: dense, gzipped, sparse.

  python -m benchmarks.sizes

Draws the weights of a whole ResNet50 and MobileNetV1 at random, norms and
classifier included, zeroes the smallest of every layer to the sparsities that
STR learned (ResNet50) or that ERK gives (MobileNetV1), and writes the files
that `python -m str_jax export` writes. Every sparse file is read back: float32
must be equal bit for bit, and a second writing must give the same bytes.
Minutes on one core; the sizes do not depend on the machine.
"""

from __future__ import annotations

import argparse
import gzip
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import record
from str_jax import budgets, models
from str_jax.interop import dense_file, sparse_file
from str_jax.paths import KERNEL, kernels

# The published budgets nearest to these sparsities; ERK has them exactly.
SPARSITIES = {
  0.80: 'str-resnet50-79.55',
  0.90: 'str-resnet50-90.23',
  0.95: 'str-resnet50-95.03',
  0.98: 'str-resnet50-98.05',
  0.99: 'str-resnet50-99.10',
}
MODELS = ('resnet50', 'mobilenet_v1')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--no-write', action='store_true')
  args = parser.parse_args()
  rows = []
  for name in MODELS:
    variables = draw(name)
    for sparsity, published in SPARSITIES.items():
      shapes = shapes_of(variables)
      budget = published if name == 'resnet50' else 'erk'
      shares = budgets.resolve(budget, shapes, sparsity)
      sizes = measure(prune(variables, shares))
      rows.append(
        {
          'model': name,
          'budget': budget,
          'asked': sparsity,
          **sizes,
          **record.origin(('jax', 'flax', 'safetensors')),
        }
      )
      print(table(rows[-1:]).splitlines()[-1], flush=True)
  if not args.no_write:
    key = ('model', 'asked')
    record.keep(record.RESULTS / 'sizes.json', rows, key, table)


def draw(name: str, **sizes: Any) -> Any:
  """Variables of a model for 1,000 classes, drawn at random."""
  model = models.create(name, num_classes=1000, **sizes)
  leaves = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape, np.float32), leaves
  )


def shapes_of(variables: Any) -> dict[str, tuple[int, ...]]:
  """The shapes of the weights by layer."""
  return {k: w.shape for k, w in kernels(variables['params']).items()}


def prune(variables: Any, shares: budgets.Budget) -> Any:
  """The variables with the smallest weights of each layer at zero."""
  arrays = dense_file.flatten(variables)
  for layer, share in shares.items():
    name = f'params/{layer}/{KERNEL}'
    w = arrays[name].copy()
    order = np.argsort(np.abs(w), axis=None)
    w.ravel()[order[: round(share * w.size)]] = 0
    arrays[name] = w
  return dense_file.unflatten(arrays)


def measure(variables: Any) -> dict[str, float]:
  """Bytes of every file, from a folder that is gone afterwards."""
  leaves = kernels(variables['params']).values()
  weights = sum(w.size for w in leaves)
  zeros = weights - sum(np.count_nonzero(w) for w in leaves)
  found = {'sparsity': zeros / weights}
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'dense.safetensors')
    dense_file.write(path, variables)
    found['dense'] = path.stat().st_size
    found['gzip'] = len(gzip.compress(path.read_bytes(), 6))
    for values in sparse_file.VALUES:
      path = pathlib.Path(folder, f'{values}.safetensors')
      sparse_file.write(path, variables, values)
      found[values] = path.stat().st_size
      again = sparse_file.read(path)[1]
      largest, mean = sparse_file.rounding(variables, again)
      if values == 'float32' and largest:
        raise SystemExit('float32 was read back with other weights')
      found[f'{values}_largest'], found[f'{values}_mean'] = largest, mean
      data = path.read_bytes()
      sparse_file.write(path, again, values)
      if path.read_bytes() != data:
        raise SystemExit(f'{values} was written again with other bytes')
  return found


def table(rows: list[dict[str, Any]]) -> str:
  """The rows as Markdown: megabytes, and shares of dense float32."""
  values = sparse_file.VALUES
  return record.markdown(
    (
      *('model', 'zeros', 'dense float32, MB', 'gzip of it'),
      *(f'sparse {v}' for v in values),
      *(f'rounding, {v}' for v in values[1:]),
    ),
    [
      [
        row['model'],
        f'{row["sparsity"]:.2%}',
        f'{row["dense"] / 1e6:.2f}',
        *(
          f'{row[kind] / 1e6:.2f} ({row[kind] / row["dense"]:.1%})'
          for kind in ('gzip', *values)
        ),
        *(f'{row[f"{kind}_mean"]:.2%}' for kind in values[1:]),
      ]
      for row in sorted(rows, key=lambda r: (r['model'], r['asked']))
    ],
  )


if __name__ == '__main__':
  main()
