"""Layers in plain JAX, for any device; products with a matrix may be sparse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from str_jax.inference import network as networks
from str_jax.inference.network import (
  CSR,
  DENSE,
  Classifier,
  Conv,
  Kernel,
  MaxPool,
  Network,
  Node,
)


class Xla:
  """XLA's convolutions, and jaxlib's CSR kernel for 1x1 ones.

  A tensor is an array (batch, height, width, channels).

  Args:
    network: the layers.
    images: shape of the input.
  """

  name = 'XLA'

  def __init__(
    self, network: Network, images: tuple[int, int, int, int]
  ) -> None:
    self._shapes = networks.shapes(network, images)

  def kernels(self, node: Node) -> tuple[Kernel, ...]:
    """The kernels that can compute a layer, the dense one first.

    A convolution with a window has no sparse one here.
    """
    if isinstance(node, MaxPool):
      return ()
    windowed = isinstance(node, Conv) and node.kernel.shape[:2] != (1, 1)
    return (DENSE,) if windowed else (DENSE, CSR)

  def arrays(self, node: Node, kernel: Kernel) -> Any:
    """The weights of a layer as one of its kernels wants them."""
    if isinstance(node, MaxPool):
      return ()
    bias = jnp.asarray(node.bias)
    if not kernel.sparse:
      return jnp.asarray(node.kernel), bias
    return _csr(node.kernel.reshape(node.kernel.shape[-2:]).T), bias

  def chain(self, node: Node) -> tuple[Node, ...]:
    """The layers that may be computed together, the last one being this."""
    return (node,)

  def apply(
    self, node: Node, kernel: Kernel, arrays: Any, made: Mapping[str, jax.Array]
  ) -> jax.Array:
    """A layer's output, from those made before; only its settings are read."""
    x = made[node.source]
    if isinstance(node, MaxPool):
      window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
      padding = ((0, 0), (1, 1), (1, 1), (0, 0))
      lowest = np.float32(-np.inf)
      return jax.lax.reduce_window(
        x, lowest, jax.lax.max, window, strides, padding
      )
    weights, bias = arrays
    if isinstance(node, Classifier):
      return _product(jnp.mean(x, axis=(1, 2)), weights) + bias[np.newaxis]
    if kernel.sparse:
      y = _product(x[:, :: node.stride, :: node.stride], weights)
    else:
      half = weights.shape[0] // 2
      y = jax.lax.conv_general_dilated(
        x,
        weights,
        (node.stride,) * 2,
        [(half, half)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=weights.shape[-1] if node.depthwise else 1,
      )
    y = y + bias[np.newaxis, np.newaxis, np.newaxis]
    if node.add is not None:
      y = y + made[node.add]
    return jax.nn.relu(y) if node.relu else y

  def enter(self, images: jax.Array) -> jax.Array:
    """Images as tensors are here."""
    return images

  def leave(self, logits: jax.Array) -> jax.Array:
    """The classifier's output as (batch, classes)."""
    return logits

  def example(self, name: str) -> jax.Array:
    """A tensor of zeros of the shape of a layer's output, or of the input."""
    return jnp.zeros(self._shapes[name])


def _csr(matrix: np.ndarray) -> sparse.BCSR:
  """Made by hand: its own `fromdense` compiles a program for every shape."""
  found = matrix != 0
  starts = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
  values = jnp.asarray(matrix[found])
  columns = jnp.asarray(np.nonzero(found)[1], jnp.int32)
  parts = (values, columns, jnp.asarray(starts, jnp.int32))
  return sparse.BCSR(parts, shape=matrix.shape)


def _product(x: jax.Array, weights: Any) -> jax.Array:
  if not isinstance(weights, sparse.BCSR):
    return x @ weights
  flat = x.reshape(-1, x.shape[-1])
  return (weights @ flat.T).T.reshape(*x.shape[:-1], -1)
