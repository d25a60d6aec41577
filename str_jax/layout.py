"""How thresholds lie in variables: beside the weights, or in a dict by path.

`str_jax/variables.py` says why there are two layouts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from str_jax.methods import Method
from str_jax.methods.base import Leaves
from str_jax.paths import COLLECTION, THRESHOLD, Path, is_kernel, named_leaves


@dataclasses.dataclass(frozen=True)
class SparseWeight:
  """A weight with its method's leaves."""

  weight: jax.Array
  leaves: Leaves


def sparse_weights(
  method: Method | None, variables: Any
) -> dict[Path, SparseWeight]:
  """The weights that the method thresholds, with their leaves, by path.

  Args:
    method: the method the thresholds belong to; None gives no weights.
    variables: variables with thresholds, in either layout.

  Returns:
    A dict in the order of the parameter tree.

  Raises:
    ValueError: no thresholds in the variables, though the method has some.
  """
  if method is None:
    return {}
  weights = named_leaves(params_of(variables))
  found = _leaves_by_path(variables, weights)
  if not found:
    kernels = {p: w for p, w in weights.items() if is_kernel(p, w)}
    if kernels and all(_has_no_leaves(method, w) for w in kernels.values()):
      return {p: SparseWeight(w, ()) for p, w in kernels.items()}
    raise ValueError(
      f'{type(method).__name__} needs its thresholds in the variables, but '
      'there are none: make them with str_jax.add_thresholds(method, '
      'variables) or by the init of a model with this method.'
    )
  w = weights[next(iter(found))]
  wanted = [x for x in _leaves_of(method, w) if x is not None]
  here = next(iter(found.values()))
  if len(here) != len(wanted):
    raise ValueError(
      f'{type(method).__name__} has {len(wanted)} thresholds a weight, but '
      f'these variables {len(here)}: pass the method that they were made with.'
    )
  return {p: SparseWeight(weights[p], leaves) for p, leaves in found.items()}


def _has_no_leaves(method: Method, w: jax.Array) -> bool:
  return _leaves_of(method, w) == (None, None)


def _leaves_of(method: Method, w: jax.Array) -> tuple[Any, Any]:
  """The shapes of a weight's leaves, learned and computed."""
  return jax.eval_shape(
    lambda w: (method.init_learned(w), method.init_computed(w)), w
  )


def params_of(variables: Any) -> Any:
  """The parameters of variables, in either layout.

  Args:
    variables: variables with thresholds or without.

  Returns:
    What stands under ``params``.

  Raises:
    ValueError: nothing does.

  >>> params_of({'params': {'kernel': 1}})
  {'kernel': 1}
  """
  if isinstance(variables, Mapping) and 'params' in variables:
    return variables['params']
  keys = list(variables) if isinstance(variables, Mapping) else []
  came = f'a dict of {", ".join(map(str, keys[:5]))}' if keys else ''
  raise ValueError(
    "variables should be a dict with 'params', as str_jax.add_thresholds "
    f'returns it, but got {came or f"a {type(variables).__name__}"}: pass all '
    "of it, not its params; dense weights as {'params': weights}; a model of "
    'Flax NNX to the functions of str_jax.nnx.'
  )


def _leaves_by_path(
  variables: Any, weights: dict[Path, Any]
) -> dict[Path, Leaves]:
  thresholds = variables.get(COLLECTION, {})
  if is_flat(variables):
    flat = {'/'.join(p): p for p in weights}
    return {
      flat[k]: x if isinstance(x := thresholds[k], tuple) else (x,)
      for k in flat
      if k in thresholds
    }
  computed = traverse_util.flatten_dict(to_dict(thresholds))
  found = {}
  for path in weights:
    at = path[:-1] + (THRESHOLD,)
    leaves = tuple(tree[at] for tree in (weights, computed) if at in tree)
    if is_kernel(path, None) and leaves:
      found[path] = leaves
  return found


def is_flat(variables: Any) -> bool:
  """Whether the thresholds are keyed by the paths of their weights."""
  if not isinstance(variables['params'], Mapping):
    return True
  paths = {'/'.join(p) for p in named_leaves(variables['params'])}
  thresholds = variables.get(COLLECTION)
  return thresholds is not None and all(
    key in paths and key != THRESHOLD for key in thresholds
  )


def to_dict(tree: Any) -> Any:
  """A nested mapping (a FrozenDict, say) as nested dicts."""
  if isinstance(tree, Mapping):
    return {key: to_dict(value) for key, value in tree.items()}
  return tree
