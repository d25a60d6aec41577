"""What is sparse, layer by layer and in total."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from str_jax.layout import params_of, sparse_weights
from str_jax.methods import Method
from str_jax.paths import counted, layer_name, named_leaves
from str_jax.variables import effective_params

COLUMNS = (
  'name',
  'shape',
  'weights',
  'nonzero',
  'sparsity',
  'threshold',
  'dense_flops',
  'flops',
)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A layer's row; FLOPs are multiply-adds for one example.

  Attributes:
    name: path of the layer, '/' between levels.
    shape: of its weight.
    weights: number of weights.
    nonzero: number of them that are not exactly zero.
    threshold: mean threshold, on abs(w) or what else the method compares with
      it (a filter's norm); None for a dense layer.
    dense_flops: multiply-adds without sparsity; None where not counted.
  """

  name: str
  shape: tuple[int, ...]
  weights: int
  nonzero: int
  threshold: float | None = None
  dense_flops: int | None = None

  @property
  def sparsity(self) -> float:
    """Fraction of zeros."""
    return 1 - self.nonzero / self.weights

  @property
  def flops(self) -> int | None:
    """Multiply-adds of the weights that are not zero."""
    if self.dense_flops is None:
      return None
    return self.dense_flops * self.nonzero // self.weights


@dataclasses.dataclass(frozen=True)
class Report:
  """Rows by layer, in the order of use where FLOPs are known, and totals."""

  rows: tuple[Layer, ...]

  @property
  def weights(self) -> int:
    """All convolution and classifier weights."""
    return sum(row.weights for row in self.rows)

  @property
  def nonzero(self) -> int:
    """Those of them that are not exactly zero."""
    return sum(row.nonzero for row in self.rows)

  @property
  def sparsity(self) -> float:
    """Fraction of zeros over all these weights."""
    return 1 - self.nonzero / self.weights

  @property
  def dense_flops(self) -> int | None:
    """Multiply-adds of the dense network for one example."""
    return _total(row.dense_flops for row in self.rows)

  @property
  def flops(self) -> int | None:
    """Multiply-adds of the weights that are not zero."""
    return _total(row.flops for row in self.rows)

  def to_dicts(self) -> list[dict[str, Any]]:
    """The rows as dicts of plain numbers, for JSON."""
    return [
      {column: getattr(row, column) for column in COLUMNS}
      | {'shape': list(row.shape)}
      for row in self.rows
    ]

  def to_csv(self) -> str:
    """The rows as CSV text with a header line."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for row in self.to_dicts():
      writer.writerow(row | {'shape': 'x'.join(map(str, row['shape']))})
    return out.getvalue()

  def to_markdown(self) -> str:
    """The rows and the totals as a Markdown table."""
    lines = [
      '| ' + ' | '.join(c.replace('_', ' ') for c in COLUMNS) + ' |',
      '|---|---|' + '---:|' * (len(COLUMNS) - 2),
    ]
    lines += ['| ' + ' | '.join(cells) + ' |' for cells in self.cells()]
    return '\n'.join(lines) + '\n'

  def cells(self) -> list[list[str]]:
    """The rows and the totals as text, for tables."""
    total = ['total', '']
    total += [f'{self.weights:,}', f'{self.nonzero:,}']
    total += [f'{self.sparsity:.2%}', '']
    total += [_count(self.dense_flops), _count(self.flops)]
    return [_cells(row) for row in self.rows] + [total]


def sparsity_report(
  method: Method | None,
  variables: Any,
  flops: Mapping[str, int] | None = None,
) -> Report:
  r"""Counts the exact zeros of every kernel as the forward pass sees it.

  .. math:: sparsity = 1 - \frac{\sum_l \|q_l\|_0}{\sum_l n_l}

  over all convolution and dense kernels, whether a method thresholds them or
  not, whatever else it thresholds, and weights of the same name as those.

  Args:
    method: the method of the variables; None for a dense network.
    variables: variables with the method's thresholds.
    flops: dense multiply-adds by layer, from :func:`str_jax.flops.count` or
      :func:`str_jax.flops.count_function`.

  Returns:
    A :class:`Report`.

  Raises:
    ValueError: the variables hold no kernel and no thresholds, or not the
      method's; or ``flops`` is of other layers.

  STR (ICML 2020), section 4: its sparsity and its FLOPs.

  >>> import jax.numpy as jnp
  >>> variables = {'params': {'fc': {'kernel': jnp.array([[0.0, 2.0]])}}}
  >>> report = sparsity_report(None, variables, flops={'fc': 2})
  >>> report.sparsity, report.nonzero, report.flops
  (0.5, 1, 1)
  """
  weights = _layers(method, variables, params_of(variables))
  if not weights:
    raise ValueError(
      'a report needs leaves named kernel in the parameters, or thresholds of '
      'others, but there are none.'
    )
  _check_layers(flops, weights)
  statistics = jax.device_get(layer_statistics(method, variables))
  rows = []
  for name in flops or weights:  # FLOPs come in the order of use
    w = weights[name]
    threshold = statistics['threshold'].get(name)
    rows.append(
      Layer(
        name=name,
        shape=tuple(w.shape),
        weights=w.size,
        nonzero=int(statistics['nonzero'][name]),
        threshold=None if threshold is None else float(threshold),
        dense_flops=None if flops is None else int(flops[name]),
      )
    )
  return Report(tuple(rows))


def _check_layers(
  flops: Mapping[str, int] | None, weights: Mapping[str, jax.Array]
) -> None:
  if flops is None or set(flops) == set(weights):
    return
  missing = ', '.join(name for name in weights if name not in flops)
  others = ', '.join(name for name in flops if name not in weights)
  raise ValueError(
    'flops= should have the multiply-adds of every layer of the variables, but '
    + ' and '.join(
      [f'has none of {missing}'] * bool(missing)
      + [f'has some of {others}, which they lack'] * bool(others)
    )
    + ': count them on the same model, with the same where=.'
  )


def from_dicts(rows: Iterable[Mapping[str, Any]]) -> Report:
  """The report whose :meth:`Report.to_dicts` gave these rows.

  Args:
    rows: with at least the fields of :class:`Layer`.

  Returns:
    The report.

  >>> row = {'name': 'fc', 'shape': [1, 2], 'weights': 2, 'nonzero': 1,
  ...        'threshold': None, 'dense_flops': 2}
  >>> from_dicts([row]).sparsity
  0.5
  """
  names = [field.name for field in dataclasses.fields(Layer)]
  return Report(
    tuple(
      Layer(**{name: row[name] for name in names} | {'shape': (*row['shape'],)})
      for row in rows
    )
  )


def layer_statistics(
  method: Method | None, variables: Any
) -> dict[str, dict[str, jax.Array]]:
  """Non-zeros and mean threshold of every layer, as device scalars.

  Args:
    method: as in :func:`sparsity_report`.
    variables: as in :func:`sparsity_report`.

  Returns:
    ``{'nonzero': {layer: uint32}, 'threshold': {layer: float32}}``; a dense
    layer has no threshold.

  >>> import jax.numpy as jnp
  >>> variables = {'params': {'fc': {'kernel': jnp.array([[0.0, 2.0]])}}}
  >>> int(layer_statistics(None, variables)['nonzero']['fc'])
  1
  """
  nonzero = {
    name: jnp.sum(w != 0, dtype=jnp.uint32)
    for name, w in _layers(
      method, variables, effective_params(method, variables)
    ).items()
  }
  threshold = {}
  if method is not None:
    for path, entry in sparse_weights(method, variables).items():
      t = method.threshold(entry.weight, *entry.leaves)
      threshold[layer_name('/'.join(path))] = jnp.mean(t)
  return {'nonzero': nonzero, 'threshold': threshold}


def _layers(
  method: Method | None, variables: Any, params: Any
) -> dict[str, jax.Array]:
  """What is counted of the parameters, by layer: see `sparsity_report`."""
  weights = named_leaves(params)
  included = counted(weights, sparse_weights(method, variables))
  return {
    layer_name('/'.join(path)): w
    for path, w in weights.items()
    if path in included
  }


def tied_weights(method: Method | None, variables: Any) -> int:
  """How many weights are exactly as large as their threshold, and so zero.

  A threshold over the net cannot tell them apart: it zeroes all or none.

  Args:
    method: as in :func:`sparsity_report`.
    variables: as in :func:`sparsity_report`.

  Returns:
    Their number; weights of a layer whose threshold is zero do not count.

  >>> import jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('st3', target=0.5)
  >>> variables = {'params': {'kernel': jnp.array([2.0, -1.0, 1.0, 3.0])}}
  >>> variables = str_jax.add_thresholds(method, variables)
  >>> tied_weights(method, str_jax.update_thresholds(method, variables, 1))
  2
  """
  count = 0
  for entry in sparse_weights(method, variables).values():
    assert method is not None
    t = method.threshold(entry.weight, *entry.leaves)
    compared = jnp.abs(method.compared(entry.weight))
    tied = jnp.sum((compared == t) & (t > 0))
    count += int(tied) * (entry.weight.size // compared.size)
  return count


def _total(values: Any) -> int | None:
  values = list(values)
  return None if None in values else sum(values)


def _count(value: int | None) -> str:
  return '' if value is None else f'{value:,}'


def _cells(row: Layer) -> list[str]:
  return [
    row.name,
    'x'.join(map(str, row.shape)),
    f'{row.weights:,}',
    f'{row.nonzero:,}',
    f'{row.sparsity:.2%}',
    '' if row.threshold is None else f'{row.threshold:.3g}',
    _count(row.dense_flops),
    _count(row.flops),
  ]
