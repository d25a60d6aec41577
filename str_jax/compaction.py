"""Cuts out what training zeroed: a smaller model that computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from str_jax.models import FastGRNN
from str_jax.variables import effective_params

_MATRICES = ('W', 'U')


def ranks(model: FastGRNN, variables: Any) -> dict[str, int]:
  r"""The ranks of a gated FastGRNN's matrices: their gates that are not zero.

  .. math:: rank(W) = \|m_W\|_0, \qquad rank(U) = \|m_U\|_0

  Args:
    model: with ``gated=True`` and the method of the variables.
    variables: Linen collections, with the method's thresholds.

  Returns:
    ``{'W': rank, 'U': rank}``.

  Raises:
    ValueError: the model has no gates.

  STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create(
  ...   'fastgrnn', num_classes=2, hidden=4, gated=True)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5, 3, 1)))
  >>> ranks(model, variables)
  {'W': 3, 'U': 4}
  """
  if not model.gated:
    raise ValueError(
      'the ranks of a FastGRNN are those of its gates, but this one has none: '
      'make it with gated=True.'
    )
  cell = effective_params(model.method, variables)['cell']
  return {
    name: int(np.count_nonzero(cell[name]['kernel'])) if name in cell else 0
    for name in _MATRICES
  }


def compact(model: FastGRNN, variables: Any) -> tuple[FastGRNN, Any]:
  r"""The same FastGRNN without its dead ranks and without gates.

  .. math::
     (W_1 \odot 1 m^T)\,W_2 = \sum_{i : m_i \ne 0} (m_i w_{1,i})\, w_{2,i}^T

  The gates that are left are multiplied into the first factor. A matrix with
  no rank left is zero and has no parameters: its rank is then 0.

  Args:
    model: with ``gated=True`` and the method of the variables.
    variables: Linen collections, with the method's thresholds.

  Returns:
    (model, variables): the plain low-rank model of the ranks found, dense,
    and its variables, as NumPy arrays.

  Raises:
    ValueError: the model has no gates.

  STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create(
  ...   'fastgrnn', num_classes=2, hidden=4, gated=True)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5, 3, 1)))
  >>> variables['params']['cell']['W']['kernel'] = jnp.array([0.0, 2.0, 0.0])
  >>> small, variables = compact(model, variables)
  >>> small.w_rank, small.u_rank
  (1, 4)
  >>> jax.tree.map(jnp.shape, variables['params']['cell']['W'])
  {'down': {'kernel': (3, 1)}, 'up': {'kernel': (1, 4)}}
  """
  found = ranks(model, variables)
  params = effective_params(model.method, variables)
  cell = {k: v for k, v in params['cell'].items() if k not in _MATRICES}
  for name, rank in found.items():
    if rank:
      cell[name] = _without_gates(params['cell'][name])
  small = model.clone(
    method=None, gated=False, w_rank=found['W'], u_rank=found['U']
  )
  return small, {'params': {**params, 'cell': cell}}


def _without_gates(matrix: Any) -> dict[str, dict[str, np.ndarray]]:
  """The leaves of a gated matrix as those of the two layers it comes to."""
  down, gates, up = (np.asarray(matrix[k]) for k in ('down', 'kernel', 'up'))
  alive = gates != 0
  return {
    'down': {'kernel': down[:, alive] * gates[np.newaxis, alive]},
    'up': {'kernel': up[alive]},
  }
