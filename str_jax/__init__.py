"""Learnable sparsity for JAX and Flax: STR, ST-3 and their relatives."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from str_jax import (
    budgets,
    compaction,
    flops,
    functional,
    inference,
    interop,
    methods,
    models,
    nn,
    nnx,
    optim,
    paths,
    quantile,
    report,
    variables,
  )
  from str_jax.functional import (
    hard_threshold,
    soft_threshold,
    straight_through,
  )
  from str_jax.variables import (
    add_thresholds,
    effective_params,
    freeze,
    update_thresholds,
  )

__version__ = '0.1.0'

_MODULES = (
  'budgets',
  'compaction',
  'flops',
  'functional',
  'inference',
  'interop',
  'methods',
  'models',
  'nn',
  'nnx',
  'optim',
  'paths',
  'quantile',
  'report',
  'variables',
)
_FUNCTIONS = {
  'hard_threshold': 'functional',
  'soft_threshold': 'functional',
  'straight_through': 'functional',
  'add_thresholds': 'variables',
  'effective_params': 'variables',
  'freeze': 'variables',
  'update_thresholds': 'variables',
}

__all__ = [
  'add_thresholds',
  'budgets',
  'compaction',
  'effective_params',
  'flops',
  'freeze',
  'functional',
  'hard_threshold',
  'inference',
  'interop',
  'methods',
  'models',
  'nn',
  'nnx',
  'optim',
  'paths',
  'quantile',
  'report',
  'soft_threshold',
  'straight_through',
  'update_thresholds',
  'variables',
]


def __getattr__(name: str) -> Any:
  """Loads a part when it is asked for.

  The input pipeline's worker processes import this package too, and need
  nothing of it but the data.
  """
  if name in _MODULES:
    return importlib.import_module(f'str_jax.{name}')
  if name in _FUNCTIONS:
    module = importlib.import_module(f'str_jax.{_FUNCTIONS[name]}')
    return getattr(module, name)
  raise AttributeError(f"module 'str_jax' has no attribute {name!r}")
