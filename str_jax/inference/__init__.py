"""Trained networks, faster on a CPU by their zeros."""

from str_jax.inference.executor import Executor, Layer, build
from str_jax.inference.native import Missing

__all__ = ['Executor', 'Layer', 'Missing', 'build']
