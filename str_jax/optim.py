"""Weight decay set apart by kind of parameter, and updates that keep zeros.

Both are Optax transformations, to be put into an ``optax.chain``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from str_jax.paths import (
  COLLECTION,
  KERNEL,
  THRESHOLD,
  Path,
  named_leaves,
  path_names,
)

KINDS = ('kernels', 'thresholds', 'norms', 'biases')


def kind_of(path: Path, paths: set[Path]) -> str | None:
  """The kind of a parameter, by its name and its neighbours' names.

  Args:
    path: the parameter's path.
    paths: the paths of all parameters.

  Returns:
    'kernels', 'thresholds', 'norms' (a ``scale``, and the ``bias`` beside
    one), 'biases' (any other ``bias``), or None for other names.

  >>> paths = {('norm', 'scale'), ('norm', 'bias'), ('conv', 'kernel')}
  >>> [kind_of(path, paths) for path in sorted(paths)]
  ['kernels', 'norms', 'norms']
  """
  if path[-1] == THRESHOLD or COLLECTION in path[:-1]:
    return 'thresholds'
  if path[-1] == KERNEL:
    return 'kernels'
  if path[-1] == 'scale':
    return 'norms'
  if path[-1] == 'bias':
    return 'norms' if path[:-1] + ('scale',) in paths else 'biases'
  return None


def decay(
  kernels: float | None = None,
  thresholds: float | None = None,
  norms: float | None = None,
  biases: float | None = None,
  *,
  coupled: bool = True,
  learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformation:
  r"""Weight decay with a rate for each kind of parameter.

  .. math:: u \leftarrow u + \lambda_{kind}\, p \qquad \text{(coupled)}

  .. math:: u \leftarrow u - \eta_t\, \lambda_{kind}\, p \qquad
     \text{(decoupled)}

  Coupled decay comes first in a chain, before momentum, as in PyTorch's SGD
  and both papers; decoupled decay comes last, after the learning rate.

  Args:
    kernels: rate of the weights named ``kernel``; None is no decay.
    thresholds: rate of the learned thresholds.
    norms: rate of ``scale``, and of the ``bias`` beside one.
    biases: rate of every other ``bias``.
    coupled: whether decay is added to the gradient or taken from the
      parameter.
    learning_rate: the chain's own, for decoupled decay only.

  Returns:
    A transformation whose ``update`` needs the parameters.

  Raises:
    ValueError: a negative rate; at ``init``, a rate that is neither None nor
      0 for a kind that the parameters do not have.

  STR (ICML 2020), equations 4 and 5: weights and thresholds decay alike.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.array([2.0]), 'bias': jnp.array([3.0])}
  >>> tx = decay(kernels=0.1)
  >>> zero = {'kernel': jnp.zeros(1), 'bias': jnp.zeros(1)}
  >>> updates, _ = tx.update(zero, tx.init(params), params)
  >>> updates['kernel'].round(3).tolist(), updates['bias'].tolist()
  ([0.20000000298023224], [0.0])
  """
  rates = dict(zip(KINDS, (kernels, thresholds, norms, biases)))
  for kind, rate in rates.items():
    if rate is not None and not rate >= 0:
      raise ValueError(f'the decay of {kind} must be 0 or more, got {rate}.')

  def init(params: Any) -> optax.ScaleByScheduleState:
    paths = set(named_leaves(params))
    found = {kind_of(path, paths) for path in paths}
    for kind, rate in rates.items():
      if rate and kind not in found:
        raise ValueError(
          f'a decay of {rate} is set for {kind}, but none of the parameters '
          f'is one: set it to None, or check the names of the leaves, '
          f'{", ".join("/".join(path) for path in sorted(paths))}.'
        )
    return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

  def update(
    updates: Any, state: optax.ScaleByScheduleState, params: Any = None
  ) -> tuple[Any, optax.ScaleByScheduleState]:
    if params is None:
      raise ValueError(optax.NO_PARAMS_MSG)
    paths = set(named_leaves(params))
    step_size = (
      learning_rate(state.count) if callable(learning_rate) else learning_rate
    )

    def add(path: tuple[Any, ...], u: jax.Array, p: jax.Array) -> jax.Array:
      rate = rates.get(kind_of(path_names(path), paths) or '')
      if not rate:
        return u
      factor = rate if coupled else -step_size * rate
      return u + (factor * p).astype(u.dtype)

    updates = jax.tree_util.tree_map_with_path(add, updates, params)
    return updates, optax.ScaleByScheduleState(count=state.count + 1)

  return optax.GradientTransformation(init, update)


def keep_zeros() -> optax.GradientTransformation:
  r"""Zeroes the update of every kernel weight that is zero.

  .. math:: u \leftarrow u \cdot 1\{w \ne 0\}

  Put it first in a chain, so that gradient norms do not count the dropped
  gradients, and again last, where it holds back decay and momentum too.

  Returns:
    A transformation whose ``update`` needs the parameters.

  ST-3 (WACV 2023), its released code: fine-tuning with the mask frozen.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.array([0.0, 2.0])}
  >>> tx = keep_zeros()
  >>> updates = {'kernel': jnp.ones(2)}
  >>> tx.update(updates, tx.init(params), params)[0]['kernel'].tolist()
  [0.0, 1.0]
  """

  def update(
    updates: Any, state: optax.EmptyState, params: Any = None
  ) -> tuple[Any, optax.EmptyState]:
    if params is None:
      raise ValueError(optax.NO_PARAMS_MSG)

    def mask(path: tuple[Any, ...], u: jax.Array, w: jax.Array) -> jax.Array:
      if path_names(path)[-1] != KERNEL:
        return u
      return jnp.where(w != 0, u, jnp.zeros_like(u))

    return jax.tree_util.tree_map_with_path(mask, updates, params), state

  return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
