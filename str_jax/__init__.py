"""Learnable sparsity for JAX and Flax: STR, ST-3 and their relatives."""

from str_jax import methods, optim, quantile
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

__all__ = [
  'add_thresholds',
  'effective_params',
  'freeze',
  'hard_threshold',
  'methods',
  'optim',
  'quantile',
  'soft_threshold',
  'straight_through',
  'update_thresholds',
]
