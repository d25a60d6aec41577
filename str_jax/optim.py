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


def _is_learned(path: Path, paths: set[Path]) -> bool:
  """Whether a kernel has a learned threshold, in either layout."""
  flat = {
    (*path[:i], COLLECTION, '/'.join(path[i + 1 :])) for i in range(len(path))
  }
  at = {path[:-1] + (THRESHOLD,), *flat}
  return any(p in at or p[:-1] in at for p in paths)  # alone, or of a pair


def _some(paths: set[Path]) -> str:
  """Paths for a sentence; of many the first."""
  names = sorted('/'.join(path) for path in paths)
  return ', '.join(names[:12]) + (', ...' if len(names) > 12 else '')


def decay(
  kernels: float | None = None,
  thresholds: float | None = None,
  norms: float | None = None,
  biases: float | None = None,
  *,
  dense_kernels: float | None = None,
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
    dense_kernels: rate of the kernels without a learned threshold beside
      them; None is that of the others. Every threshold in a flat dict under
      ``thresholds`` counts as learned: pass none that is computed.
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
  rates['dense_kernels'] = dense_kernels
  for kind, rate in rates.items():
    if rate is not None and not rate >= 0:
      raise ValueError(f'the decay of {kind} must be 0 or more, got {rate}.')

  def kind_here(path: Path, paths: set[Path]) -> str | None:
    kind = kind_of(path, paths)
    if kind == 'kernels' and dense_kernels is not None:
      return kind if _is_learned(path, paths) else 'dense_kernels'
    return kind

  def init(params: Any) -> optax.ScaleByScheduleState:
    paths = set(named_leaves(params))
    found = {kind_here(path, paths) for path in paths}
    for kind, rate in rates.items():
      if rate and kind not in found:
        raise ValueError(
          f'a decay of {rate} is set for {kind}, but none of the parameters '
          'is one: set it to None, or check the names of the leaves, '
          f'{_some(paths)}.'
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
      rate = rates.get(kind_here(path_names(path), paths) or '')
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

  Raises:
    ValueError: at ``init``, none of the parameters is named ``kernel``.

  ST-3 (WACV 2023), its released code: fine-tuning with the mask frozen.

  >>> import jax.numpy as jnp
  >>> params = {'kernel': jnp.array([0.0, 2.0])}
  >>> tx = keep_zeros()
  >>> updates = {'kernel': jnp.ones(2)}
  >>> tx.update(updates, tx.init(params), params)[0]['kernel'].tolist()
  [0.0, 1.0]
  """

  def init(params: Any) -> optax.EmptyState:
    paths = set(named_leaves(params))
    if not any(path and path[-1] == KERNEL for path in paths):
      raise ValueError(
        'keep_zeros holds the zeros of leaves named kernel, but there are only '
        f"{_some(paths)}: keep the method 'frozen' around the weights instead."
      )
    return optax.EmptyState()

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

  return optax.GradientTransformation(init, update)


def tie_thresholds(
  inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
  r"""Trains all learned thresholds as one, of which every layer has a copy.

  .. math:: u_l \leftarrow \sum_j u_j \quad \text{for every threshold } s_l

  The gradient of a shared number is the sum of its copies' gradients. Put it
  first in a chain; equal copies then stay equal.

  Args:
    inner: runs before the sum is handed out, while it is counted once:
      clipping by the global norm, say.

  Returns:
    A transformation.

  STR (ICML 2020), its global threshold (STR-GS).

  >>> import jax.numpy as jnp
  >>> layer = {'kernel': jnp.ones(1), 'kernel_threshold': jnp.ones(1)}
  >>> tx = tie_thresholds()
  >>> updates = {'a': layer, 'b': layer}
  >>> updates, _ = tx.update(updates, tx.init(updates))
  >>> updates['b']['kernel'].tolist(), updates['b']['kernel_threshold'].tolist()
  ([1.0], [2.0])
  """
  inner = inner or optax.identity()

  def shared(updates: Any) -> dict[Path, jax.Array]:
    leaves = named_leaves(updates)
    paths = set(leaves)
    copies = {
      p: u for p, u in leaves.items() if kind_of(p, paths) == 'thresholds'
    }
    if not copies:
      raise ValueError(
        'thresholds are to be tied, but none of the parameters is one: leave '
        'tie_thresholds out, or add them with str_jax.add_thresholds.'
      )
    return copies

  def put(updates: Any, new: dict[Path, jax.Array]) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, u: new.get(path_names(path), u), updates
    )

  def total(copies: dict[Path, jax.Array]) -> jax.Array:
    return jnp.stack([jnp.sum(u) for u in copies.values()]).sum()

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    copies = shared(updates)
    first, *others = copies
    alone = {first: jnp.full_like(copies[first], total(copies))}
    alone |= {path: jnp.zeros_like(copies[path]) for path in others}
    updates, state = inner.update(put(updates, alone), state, params)
    copies = shared(updates)
    sums = {p: jnp.full_like(u, total(copies)) for p, u in copies.items()}
    return put(updates, sums), state

  return optax.GradientTransformation(inner.init, update)
