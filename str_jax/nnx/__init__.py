"""Sparsity for Flax NNX: layers, and a wrapper for a whole model."""

from str_jax.nnx.functions import (
  effective_model,
  freeze,
  sparsity_report,
  to_variables,
  update_thresholds,
)
from str_jax.nnx.layers import (
  Conv,
  ConvTranspose,
  Einsum,
  Linear,
  LinearGeneral,
)
from str_jax.nnx.model import Sparse
from str_jax.nnx.thresholds import (
  ComputedThreshold,
  LearnedThreshold,
  Threshold,
)

__all__ = [
  'ComputedThreshold',
  'Conv',
  'ConvTranspose',
  'Einsum',
  'LearnedThreshold',
  'Linear',
  'LinearGeneral',
  'Sparse',
  'Threshold',
  'effective_model',
  'freeze',
  'sparsity_report',
  'to_variables',
  'update_thresholds',
]
