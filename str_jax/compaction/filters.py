"""How many filters of a network died, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from str_jax import flops as counts
from str_jax.compaction import cut
from str_jax.compaction import flow as flows
from str_jax.compaction.channels import Leaves, kernel
from str_jax.paths import kernels


@dataclasses.dataclass(frozen=True)
class Layer:
  """A convolution's row.

  Attributes:
    name: path of the layer.
    filters: its filters, that is its output channels.
    dead: those of them whose effective weights are all zero.
    left: filters of the layer in the compact network.
  """

  name: str
  filters: int
  dead: int
  left: int

  @property
  def removed(self) -> int:
    """Filters that compaction takes out, dead or not read any more."""
    return self.filters - self.left


@dataclasses.dataclass(frozen=True)
class DeadFilters:
  """Rows by layer in the order of use, and totals before and after.

  Attributes:
    rows: a row for each convolution.
    parameters: of the network, dense.
    parameters_left: of the compact network.
    flops: multiply-adds for one image; None where no shape was given.
    flops_left: of the compact network.
  """

  rows: tuple[Layer, ...]
  parameters: int
  parameters_left: int
  flops: int | None = None
  flops_left: int | None = None

  def to_dict(self) -> dict[str, Any]:
    """Rows and totals as plain numbers, for JSON."""
    rows = [
      {**dataclasses.asdict(row), 'removed': row.removed} for row in self.rows
    ]
    return {**dataclasses.asdict(self), 'rows': rows}

  def to_markdown(self) -> str:
    """The rows and the totals as a Markdown table and a sentence."""
    lines = [
      '| layer | filters | dead | removed | left |',
      '|---|' + '---:|' * 4,
    ]
    columns = ('filters', 'dead', 'removed', 'left')
    cells = [
      [row.name, *(getattr(row, c) for c in columns)] for row in self.rows
    ]
    cells += [['total', *(sum(x) for x in list(zip(*cells))[1:])]]
    lines += [f'| {" | ".join(map(str, row))} |' for row in cells]
    said = _left('parameters', self.parameters_left, self.parameters)
    if self.flops is not None and self.flops_left is not None:
      said += f', {_left("multiply-adds", self.flops_left, self.flops)}'
    return '\n'.join([*lines, '', f'Left: {said}.']) + '\n'


def dead_filters(
  model: Any, variables: Any, input_shape: Sequence[int] | None = None
) -> DeadFilters:
  r"""Counts the filters without a weight, and what is left without them.

  .. math:: dead_l = \#\{o : \|q_{l,o}\|_0 = 0\}

  Args:
    model: a convolutional network that :func:`str_jax.compaction.compact`
      knows, with the method of the variables.
    variables: its Linen collections, with the method's thresholds.
    input_shape: (height, width, channels) of one image, to count
      multiply-adds too.

  Returns:
    A :class:`DeadFilters`.

  Raises:
    ValueError: as for :func:`str_jax.compaction.compact`.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create('convnet', num_classes=2, widths=(4,))
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  >>> stem = variables['params']['stem']
  >>> stem['kernel'] = stem['kernel'].at[..., :3].set(0)
  >>> print(dead_filters(model, variables, (8, 8, 1)).to_markdown(), end='')
  | layer | filters | dead | removed | left |
  |---|---:|---:|---:|---:|
  | stem | 4 | 3 | 3 | 1 |
  | total | 4 | 3 | 3 | 1 |
  <BLANKLINE>
  Left: parameters 13 of 52 (25.00%), multiply-adds 578 of 2,312 (25.00%).
  """
  if type(model) not in flows.KNOWN:
    raise ValueError(
      'dead_filters is for the convolutional networks of str_jax.models, '
      f'{", ".join(known.__name__ for known in flows.KNOWN)}; got a '
      f'{type(model).__name__}.'
    )
  leaves = cut.dense_leaves(model, variables)
  small, after = cut.compact(model, variables)
  left = kernels(after['params'])
  rows = []
  for op in flows.of(model, cut.layers_of(leaves)).ops:
    if op.kind in ('conv', 'depthwise'):
      weight = leaves[kernel(op.layer)]
      alive = np.any(weight != 0, axis=(0, 1, 2))
      rows.append(
        Layer(
          op.layer,
          filters=alive.size,
          dead=int(np.sum(~alive)),
          left=left[op.layer].shape[-1],
        )
      )
  totals = {}
  if input_shape is not None:
    totals = {
      name: sum(counts.count(network, input_shape).values())
      for name, network in (('flops', model), ('flops_left', small))
    }
  return DeadFilters(
    tuple(rows),
    parameters=_parameters(leaves),
    parameters_left=sum(np.size(x) for x in jax.tree.leaves(after['params'])),
    **totals,
  )


def _parameters(leaves: Leaves) -> int:
  return sum(x.size for path, x in leaves.items() if path.startswith('params/'))


def _left(what: str, left: int, before: int) -> str:
  return f'{what} {left:,} of {before:,} ({left / before:.2%})'
