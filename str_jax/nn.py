"""Flax Linen layers whose kernel is thresholded before it is used.

They are Flax's own layers, with their names, arguments and variables, and one
field more: ``method``. Without a method each is the Flax layer, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from str_jax import lowering
from str_jax.methods import Method
from str_jax.paths import COLLECTION, KERNEL, THRESHOLD

__all__ = ['Conv', 'ConvTranspose', 'Dense', 'DenseGeneral', 'Sparse']


class Sparse(nn.Module):
  """Mixin: reads the parameter ``kernel`` through a method.

  Attributes:
    method: the sparsity method; None leaves the layer dense.
  """

  method: Method | None = None

  def param(
    self, name: str, init_fn: Callable[..., Any], *args: Any, **kwargs: Any
  ) -> Any:
    w = super().param(name, init_fn, *args, **kwargs)
    if self.method is None or name != KERNEL:
      return w
    return self.method(w, *self._leaves(self.method, w))

  def _leaves(self, method: Method, w: jax.Array) -> tuple[jax.Array, ...]:
    """The method's leaves of this kernel, made where they do not exist yet.

    By ``variable``, not ``param``, which would draw a random number and so
    change every parameter made after it.
    """
    try:
      initial = {
        'params': method.init_learned(w),
        COLLECTION: method.init_computed(w),
      }
    except ValueError as error:
      raise ValueError(f'/{"/".join(self.path)}: {error}') from error
    leaves = []
    for collection, value in initial.items():
      if value is None:
        continue
      if not (
        self.is_initializing() or self.has_variable(collection, THRESHOLD)
      ):
        raise ValueError(
          f'{type(method).__name__} needs the leaf {THRESHOLD} of '
          f'/{"/".join(self.path)} in {collection!r}, but the variables do '
          'not have it: add it with str_jax.add_thresholds(method, '
          'variables), and pass every collection to apply.'
        )
      leaves.append(
        self.variable(collection, THRESHOLD, lambda v=value: v).value
      )
    return tuple(leaves)


class Dense(Sparse, nn.Dense):
  """``flax.linen.Dense`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(..., in)``; returns ``(..., features)``.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> layer = Dense(4, method=method)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  >>> jax.tree.map(jnp.shape, variables)
  {'params': {'bias': (4,), 'kernel': (3, 4), 'kernel_threshold': (1, 1)}}
  """


class DenseGeneral(Sparse, nn.DenseGeneral):
  """``flax.linen.DenseGeneral`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs whose axes ``axis`` are contracted; returns them
  with ``features`` in place of those. The last axis of the kernel counts as
  its output channels.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('st3', sparsity=0.9)
  >>> layer = DenseGeneral((2, 4), use_bias=False, method=method)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  >>> jax.tree.map(jnp.shape, variables)['thresholds']
  {'kernel_threshold': (1, 1, 1)}
  """


class Conv(Sparse, nn.Conv):
  """``flax.linen.Conv`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(batch, *spatial, in)``; returns
  ``(batch, *spatial, features)``.

  Attributes:
    lowering: 'xla', or 'cpu' for convolutions that train faster on one CPU
      device (see :mod:`str_jax.lowering`; no forward-mode differentiation).

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('st3', sparsity=0.9)
  >>> layer = Conv(8, (3, 3), use_bias=False, method=method)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
  >>> jax.tree.map(jnp.shape, variables['params'])
  {'kernel': (3, 3, 3, 8)}
  >>> jax.tree.map(jnp.shape, variables['thresholds'])
  {'kernel_threshold': (1, 1, 1, 1)}
  """

  lowering: str = 'xla'

  def __post_init__(self) -> None:
    if self.lowering not in lowering.NAMES:
      raise ValueError(
        f'Conv needs lowering to be one of {", ".join(lowering.NAMES)}, got '
        f'{self.lowering!r}.'
      )
    if self.lowering == 'cpu' and self.conv_general_dilated is None:
      self.conv_general_dilated = lowering.conv_general_dilated
    super().__post_init__()


class ConvTranspose(Sparse, nn.ConvTranspose):
  """``flax.linen.ConvTranspose`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(batch, *spatial, in)``; returns
  ``(batch, *spatial, features)``. The last axis of the kernel counts as its
  output channels.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', granularity='filter')
  >>> layer = ConvTranspose(8, (2, 2), use_bias=False, method=method)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
  >>> jax.tree.map(jnp.shape, variables)
  {'params': {'kernel': (2, 2, 3, 8), 'kernel_threshold': (1, 1, 1, 8)}}
  """
