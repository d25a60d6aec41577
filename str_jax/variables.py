"""Where thresholds live: beside the weights of any pytree.

In the variables of a Flax Linen model a learned threshold is the leaf
``kernel_threshold`` beside its ``kernel`` in ``params``, and a computed one
the leaf of that name at the same path in the collection ``thresholds``. Any
other pytree of weights (an NNX state, a frozen dataclass) cannot take new
leaves, so there both kinds stand in a flat dict under ``thresholds``, keyed
by the path of their weight: ``{'params': tree, 'thresholds': {path: leaf}}``;
for a method that has both, each leaf is a pair (learned, computed), for one
that has none ().
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from str_jax.layout import is_flat, params_of, sparse_weights, to_dict
from str_jax.methods import Method
from str_jax.methods.base import Leaves
from str_jax.paths import (
  COLLECTION,
  THRESHOLD,
  Path,
  Where,
  counted,
  is_kernel,
  is_linen,
  named_leaves,
  path_names,
  select,
)


def add_thresholds(
  method: Method | None, variables: Any, where: Where = is_kernel
) -> Any:
  """Adds the method's threshold leaves to dense variables.

  Args:
    method: the method; None and methods without leaves change nothing.
    variables: variables of a Linen model, ``{'params': ..., ...}``, or any
      other pytree of weights.
    where: which leaves are weights to sparsify, from path and leaf; or
      patterns of paths, see `str_jax.paths.matching`.

  Returns:
    The variables with the leaves: of the same layout for Linen, else
    ``{'params': tree, 'thresholds': {path: leaf}}``.

  Raises:
    ValueError: ``where`` matches nothing, or has a pattern that does; what it
      matches is no array of floats, or in Linen variables not named
      ``kernel``; or thresholds are there already.

  >>> import jax.numpy as jnp, str_jax
  >>> variables = {'params': {'Dense_0': {'kernel': jnp.ones((2, 3))}}}
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> tree = add_thresholds(method, variables)['params']
  >>> tree['Dense_0']['kernel_threshold'].tolist()
  [[-5.0]]
  """
  if method is None:
    return variables
  linen = is_linen(variables)
  weights = named_leaves(variables['params'] if linen else variables)
  chosen = {path: weights[path] for path in select(variables, where).paths}
  if not chosen:
    known = ', '.join('/'.join(path) for path in weights)
    raise ValueError(
      'where= selects the weights to sparsify, but it matched none of these '
      f'leaves: {known}. By default it wants leaves named kernel.'
    )
  learned, computed = {}, {}
  for p, w in chosen.items():
    try:
      learned[p], computed[p] = method.init_learned(w), method.init_computed(w)
    except ValueError as error:
      raise ValueError(f'{"/".join(p)}: {error}') from error
  if linen:
    return _add_to_linen(variables, learned, computed)
  leaves = {}
  for p in chosen:
    both = tuple(x for x in (learned[p], computed[p]) if x is not None)
    # Of a method without leaves (), which says what where= selected.
    leaves['/'.join(p)] = both[0] if len(both) == 1 else both
  return {'params': variables, COLLECTION: leaves}


def effective_params(method: Method | None, variables: Any) -> Any:
  """What the forward pass sees: the dense layout, with exact zeros.

  Args:
    method: the method the thresholds belong to.
    variables: variables with thresholds, in either layout.

  Returns:
    The pytree of parameters without threshold leaves.

  Raises:
    ValueError: no thresholds in the variables, though the method has some.

  >>> import jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', init_value=0.0)
  >>> variables = {'params': {'kernel': jnp.array([[2.0, -0.25]])}}
  >>> variables = add_thresholds(method, variables)
  >>> effective_params(method, variables)['kernel'].tolist()
  [[1.5, -0.0]]
  """
  out = {}
  if method is not None:
    for path, entry in sparse_weights(method, variables).items():
      out[path] = method(entry.weight, *entry.leaves)
  return _replace(_without_learned(params_of(variables)), out)


def update_thresholds(
  method: Method | None, variables: Any, step: jax.Array | int
) -> Any:
  """Recomputes the computed thresholds at the end of a step.

  A method with a target also centres its learned thresholds here.

  Args:
    method: the method the thresholds belong to.
    variables: variables with thresholds, in either layout.
    step: the number of optimizer updates made so far.

  Returns:
    The variables with new thresholds; the same if none is computed.

  Raises:
    ValueError: ``step`` is not one number, or the thresholds are not there or
      another method's.

  >>> import jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('st3', sparsity=0.5, end_step=1)
  >>> variables = {'params': {'kernel': jnp.array([[3.0, -1.0, 2.0]])}}
  >>> variables = add_thresholds(method, variables)
  >>> variables = update_thresholds(method, variables, 1)
  >>> variables['thresholds']['kernel_threshold'].tolist()
  [[2.0]]
  """
  entries = sparse_weights(method, variables)
  if method is None or not entries:
    return variables
  step = jnp.asarray(step, jnp.result_type(step))  # of one type, int or array
  if step.ndim:
    raise ValueError(
      f'step should be one number, but is an array of shape {step.shape}: of a '
      'replicated step pass one copy, step[0].'
    )
  leaves = {'/'.join(p): e.leaves for p, e in entries.items()}
  params = named_leaves(variables['params'])
  dense = counted(params, entries) - entries.keys()
  update: Callable[..., Mapping[str, jax.Array]] = _update_compiled
  try:
    hash(method)
  except TypeError:  # it holds an array, traced perhaps
    update = _update
  new = update(
    method,
    tuple(leaves),
    tuple(e.weight for e in entries.values()),
    tuple(leaves.values()),
    step,
    tuple(('/'.join(p), params[p].size) for p in params if p in dense),
  )
  if not new:
    return variables
  learned = method.centre(leaves)
  if is_flat(variables):
    pairs = {p: (learned[p], t) if p in learned else t for p, t in new.items()}
    return {**variables, COLLECTION: pairs}
  at = {'/'.join(p): p[:-1] + (THRESHOLD,) for p in entries}
  return {
    **variables,
    'params': _replace(
      variables['params'], {at[p]: s for p, s in learned.items()}
    ),
    COLLECTION: traverse_util.unflatten_dict(
      {at[p]: t for p, t in new.items()}
    ),
  }


def _update(
  method: Method,
  names: tuple[str, ...],
  weights: tuple[jax.Array, ...],
  leaves: tuple[Leaves, ...],
  step: jax.Array,
  dense: tuple[tuple[str, int], ...],
) -> Mapping[str, jax.Array]:
  """What ``method.update`` gives for weights with these names."""
  new = method.update(
    dict(zip(names, weights, strict=True)),
    dict(zip(names, leaves, strict=True)),
    step,
    dict(dense),
  )
  return dict(new)


# Compiled once also where a training step is not: the search for a threshold
# is a loop, which would be compiled anew at every call.
_update_compiled = jax.jit(
  _update, static_argnames=('method', 'names', 'dense'), inline=True
)


def freeze(method: Method | None, variables: Any) -> Any:
  """Writes the effective weights back and drops the thresholds.

  The one place where weights are changed by something other than the
  optimizer. Go on with the method 'frozen' to keep the zeros.

  Args:
    method: the method the thresholds belong to.
    variables: variables with thresholds, in either layout.

  Returns:
    Dense variables for Linen, else the dense pytree of weights.

  ST-3 (WACV 2023), its released code: the end of pruning.

  >>> import jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', init_value=0.0)
  >>> variables = {'params': {'kernel': jnp.array([[2.0, -0.25]])}}
  >>> frozen = freeze(method, add_thresholds(method, variables))
  >>> frozen['params']['kernel'].tolist()
  [[1.5, 0.0]]
  """
  params = effective_params(method, variables)
  if method is not None:
    weights = named_leaves(params)
    chosen = sparse_weights(method, variables)
    params = _replace(params, {p: plain_zeros(weights[p]) for p in chosen})
  if is_flat(variables):
    return params
  rest = {k: v for k, v in variables.items() if k != COLLECTION}
  return {**rest, 'params': params}


def plain_zeros(w: jax.Array) -> jax.Array:
  """The weights with 0.0 for -0.0, which files pack worse.

  >>> plain_zeros(jnp.array([-0.0, -1.0])).tolist()
  [0.0, -1.0]
  """
  return jnp.where(w == 0, jnp.zeros_like(w), w)


def _add_to_linen(
  variables: Any, learned: dict[Path, Any], computed: dict[Path, Any]
) -> Any:
  params = traverse_util.flatten_dict(to_dict(variables['params']))
  thresholds = {}
  for path in learned:
    if not is_kernel(path, None):
      raise ValueError(
        f'in the variables of a Linen model a threshold stands beside a leaf '
        f'named kernel, but where= picks {"/".join(path)}: pick kernels alone, '
        "or pass variables['params'] and compute with str_jax.effective_params."
      )
    at = path[:-1] + (THRESHOLD,)
    if at in params or COLLECTION in variables:
      raise ValueError(
        f'thresholds are to be added at {"/".join(path)}, but the variables '
        'have some already: pass dense variables, or str_jax.freeze them.'
      )
    if learned[path] is not None:
      params[at] = learned[path]
    if computed[path] is not None:
      thresholds[at] = computed[path]
  out = {**variables, 'params': traverse_util.unflatten_dict(params)}
  if thresholds:
    out[COLLECTION] = traverse_util.unflatten_dict(thresholds)
  return out


def _without_learned(params: Any) -> Any:
  """Parameters without threshold leaves; other pytrees have none."""
  if not isinstance(params, Mapping):
    return params
  if not any(p[-1] == THRESHOLD for p in named_leaves(params)):
    return params
  flat = traverse_util.flatten_dict(to_dict(params))
  return traverse_util.unflatten_dict(
    {p: leaf for p, leaf in flat.items() if p[-1] != THRESHOLD}
  )


def _replace(tree: Any, new: dict[Path, Any]) -> Any:
  """The tree with the leaves at some paths replaced."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: new.get(path_names(path), leaf), tree
  )
