"""Trained networks, faster on a CPU by their zeros."""

from str_jax.inference.executor import Executor, Layer, build
from str_jax.inference.functions import SparseFunction, build_function
from str_jax.inference.native import Missing

__all__ = [
  'Executor',
  'Layer',
  'Missing',
  'SparseFunction',
  'build',
  'build_function',
]
