"""Flax NNX layers whose kernel is thresholded before it is used.

They are Flax's own layers, with their names, arguments and variables, and one
argument more: ``method``. Without a method each is the Flax layer, bit for bit.
"""

from __future__ import annotations

from typing import Any

from flax import nnx

from str_jax.methods import Method
from str_jax.nnx import thresholds
from str_jax.paths import KERNEL, THRESHOLD

_NAMES: dict[type[thresholds.Threshold], str] = {
  thresholds.LearnedThreshold: THRESHOLD,
  thresholds.ComputedThreshold: 'computed_threshold',
}


class SparseLayer(nnx.Module):
  """Mixin: reads the parameter ``kernel`` through a method.

  Attributes:
    method: the sparsity method; None leaves the layer dense.
    kernel_threshold: where the method learns one, a ``LearnedThreshold``.
    computed_threshold: where it computes one, a ``ComputedThreshold``.
  """

  kernel: nnx.Param

  def __init__(
    self, *args: Any, method: Method | None = None, **kwargs: Any
  ) -> None:
    super().__init__(*args, **kwargs)
    self.method = method
    if method is None:
      return
    for leaf in thresholds.initial(method, self.kernel.get_value()):
      setattr(self, _NAMES[type(leaf)], leaf)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    layer = self
    if self.method is not None:
      layer = nnx.clone(self, variables=False)
      layer.open_(thresholds.effective)
    # Flax's own call, and not one that a subclass of ours may have.
    return super(SparseLayer, layer).__call__(*args, **kwargs)  # type: ignore[misc]

  def open_(self, read: thresholds.Read, path: thresholds.KeyPath = ()) -> None:
    """Makes a dense layer of this one, which is a clone, in place.

    Args:
      read: gives the kernel to put in.
      path: of this layer.
    """
    if self.method is None:
      return
    found = [name for name in _NAMES.values() if name in vars(self)]
    leaves = tuple(getattr(self, name) for name in found)
    kernel: Any = read((*path, KERNEL), self.method, self.kernel, leaves)
    self.kernel = kernel
    for name in found:
      delattr(self, name)
    self.method = None


class Linear(SparseLayer, nnx.Linear):
  """``flax.nnx.Linear`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(..., in_features)``; returns
  ``(..., out_features)``.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax, str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> layer = Linear(3, 4, rngs=nnx.Rngs(0), method=method)
  >>> jax.tree.map(lambda x: x.shape, nnx.to_pure_dict(nnx.state(layer)))
  {'bias': (4,), 'kernel': (3, 4), 'kernel_threshold': (1, 1)}
  """


class LinearGeneral(SparseLayer, nnx.LinearGeneral):
  """``flax.nnx.LinearGeneral`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs whose axes ``axis`` are contracted; returns them
  with ``out_features`` in place of those. The last axis of the kernel counts
  as its output channels.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('st3', sparsity=0.9)
  >>> layer = LinearGeneral(3, (2, 4), rngs=nnx.Rngs(0), method=method)
  >>> layer.computed_threshold.shape
  (1, 1, 1)
  """


class Einsum(SparseLayer, nnx.Einsum):
  """``flax.nnx.Einsum`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs, the left operand of ``einsum_str``; returns its
  result. The last axis of the kernel counts as its output channels.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax.numpy as jnp, str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> layer = Einsum('nd,dhk->nhk', (3, 2, 4), rngs=nnx.Rngs(0), method=method)
  >>> layer(jnp.ones((5, 3))).shape, layer.kernel_threshold.shape
  ((5, 2, 4), (1, 1, 1))
  """


class Conv(SparseLayer, nnx.Conv):
  """``flax.nnx.Conv`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(batch, *spatial, in_features)``; returns
  ``(batch, *spatial, out_features)``.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('str', granularity='filter')
  >>> layer = Conv(3, 8, (3, 3), rngs=nnx.Rngs(0), method=method)
  >>> layer.kernel.shape, layer.kernel_threshold.shape
  ((3, 3, 3, 8), (1, 1, 1, 8))
  """


class ConvTranspose(SparseLayer, nnx.ConvTranspose):
  """``flax.nnx.ConvTranspose`` with a sparsity method for its kernel.

  Args of ``__call__``: inputs ``(batch, *spatial, in_features)``; returns
  ``(batch, *spatial, out_features)``. The last axis of the kernel counts as
  its output channels.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('st3', sparsity=0.9)
  >>> layer = ConvTranspose(3, 8, (2, 2), rngs=nnx.Rngs(0), method=method)
  >>> layer.kernel.shape, layer.computed_threshold.shape
  ((2, 2, 3, 8), (1, 1, 1, 1))
  """
