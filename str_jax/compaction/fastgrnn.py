"""Cuts the ranks that training zeroed out of a gated FastGRNN."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from str_jax.models import FastGRNN
from str_jax.paths import THRESHOLD, named_leaves
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
    ValueError: the model is no FastGRNN, has no gates, or has no method where
      the variables hold thresholds.

  STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create(
  ...   'fastgrnn', num_classes=2, hidden=4, gated=True)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5, 3, 1)))
  >>> ranks(model, variables)
  {'W': 3, 'U': 4}
  """
  if not isinstance(model, FastGRNN):
    raise ValueError(
      'ranks are those of a FastGRNN alone (str_jax.models), got a '
      f'{type(model).__name__}: its convolutions have none.'
    )
  if not model.gated:
    raise ValueError(
      'the ranks of a FastGRNN are those of its gates, but this one has none: '
      'make it with gated=True.'
    )
  if model.method is None and any(
    path[-1] == THRESHOLD for path in named_leaves(variables)
  ):
    raise ValueError(
      'the variables hold thresholds, but the model has no method: make it '
      'with the one they belong to, or pass str_jax.freeze(method, variables).'
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

  The gates that are left are multiplied into the first factor. Two factors of
  rank r have r (in + out) numbers: where that is no less than in * out, they
  are multiplied out into the full matrix, and its rank is then None. A matrix
  with no rank left is zero and has no parameters: its rank is then 0.

  Args:
    model: with ``gated=True`` and the method of the variables.
    variables: Linen collections, with the method's thresholds.

  Returns:
    (model, variables): the plain model, dense, never larger than one of full
    matrices, and its variables, as NumPy arrays.

  Raises:
    ValueError: as for :func:`ranks`.

  STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create(
  ...   'fastgrnn', num_classes=2, hidden=4, gated=True)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5, 3, 1)))
  >>> variables['params']['cell']['W']['kernel'] = jnp.array([0.0, 2.0, 0.0])
  >>> small, variables = compact(model, variables)
  >>> small.w_rank, small.u_rank  # U is 4 x 4, and all of its ranks are left
  (1, None)
  >>> jax.tree.map(jnp.shape, variables['params']['cell']['W'])
  {'down': {'kernel': (3, 1)}, 'up': {'kernel': (1, 4)}}
  """
  left: dict[str, int | None] = {**ranks(model, variables)}
  params = jax.tree.map(np.asarray, effective_params(model.method, variables))
  cell = {k: v for k, v in params['cell'].items() if k not in _MATRICES}
  for name, rank in left.items():
    if rank:
      cell[name] = _without_gates(**params['cell'][name])
      left[name] = rank if 'down' in cell[name] else None
  small = model.clone(
    method=None, gated=False, w_rank=left['W'], u_rank=left['U']
  )
  return small, {'params': {**params, 'cell': cell}}


def describe(model: Any, variables: Any) -> str:
  """What a gated FastGRNN comes to without its dead ranks, in a sentence.

  Args:
    model: any model.
    variables: its Linen collections, with the method's thresholds.

  Returns:
    The sentence; '' for a model without gates.

  >>> describe(None, {})
  ''
  """
  if not (isinstance(model, FastGRNN) and model.gated):
    return ''
  params = effective_params(model.method, variables)
  small = compact(model, variables)[1]['params']
  parts = [
    f'{name} has rank {rank} of {np.size(params["cell"][name]["kernel"])}'
    for name, rank in ranks(model, variables).items()
    if name in params['cell']
  ]
  before, after = (
    sum(np.size(leaf) for leaf in jax.tree.leaves(tree))
    for tree in (params, small)
  )
  return (
    'The weights counted are the gates of the ranks and the classifier: '
    f'{", ".join(parts)}, and without the dead ranks (str_jax.compaction) '
    f'{after:,} of {before:,} parameters are left.'
  )


def _without_gates(
  down: np.ndarray, kernel: np.ndarray, up: np.ndarray
) -> dict[str, Any]:
  """The leaves of a gated matrix as those of two layers, or of the one."""
  alive = kernel != 0
  down, up = down[:, alive] * kernel[np.newaxis, alive], up[alive]
  if down.size + up.size >= len(down) * up.shape[1]:
    return {'kernel': down @ up}
  return {'down': {'kernel': down}, 'up': {'kernel': up}}
