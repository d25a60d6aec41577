"""Layers by the C++ kernels, which know sparse weights of any window."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.inference import layout, native
from str_jax.inference import network as networks
from str_jax.inference.layout import LANES, Layout
from str_jax.inference.network import (
  DENSE,
  Classifier,
  Conv,
  Kernel,
  MaxPool,
  Network,
  Node,
)

# Eight vectors of sums want 32 registers, which not every CPU has.
_SPARSE = tuple(
  Kernel(sparse=True, vectors=vectors, blocked=blocked)
  for vectors in (8, 4)
  for blocked in (False, True)
)


class Planar:
  """Our kernels, on planes of channels.

  A tensor is an array (batch, size), see :class:`Layout`; for the classifier
  it is one image whose rows are the batch.

  Args:
    network: the layers.
    images: shape of the input.

  Raises:
    native.Missing: the kernels cannot be had on this machine.
  """

  name = 'C++'

  def __init__(
    self, network: Network, images: tuple[int, int, int, int]
  ) -> None:
    native.register()
    shapes = networks.shapes(network, images)
    self._batch = images[0]
    gaps = layout.gaps(network)
    self._layouts: dict[str, Layout] = {}
    for name, shape in shapes.items():
      if len(shape) == 4:
        _, height, width, channels = shape
        self._layouts[name] = Layout(channels, height, width, gaps[name])
    largest = max(layout.size for layout in self._layouts.values())
    if 4 * largest >= 1 << 31:  # 4: phases
      raise ValueError(
        f'images of shape {images} make a tensor of {largest:,} numbers, more '
        "than the kernels' offsets can count: take smaller images."
      )
    self._last = last = network[-1]
    self._before = _depthwise_before(network)
    self._entered: str | None = (
      None  # the layer that images enter as phases for
    )
    first = network[0]
    if isinstance(first, Conv) and first.stride == 2 and len(first.kernel) > 1:
      self._layouts[networks.IMAGES] = self._inner(first)
      self._entered = first.name
    if isinstance(last, Classifier):
      self._means = Layout(last.kernel.shape[0], 1, self._batch, gap=0)
      self._logits = Layout(last.kernel.shape[1], 1, self._batch, gap=0)

  def kernels(self, node: Node) -> tuple[Kernel, ...]:
    """The kernels that can compute a layer, the dense one first."""
    if isinstance(node, MaxPool):
      return ()
    if isinstance(node, Conv) and node.depthwise:
      return (DENSE,)
    channels = node.kernel.shape[-2]
    kernels: tuple[Kernel, ...] = (DENSE,) + tuple(
      kernel
      for kernel in _SPARSE
      if not kernel.blocked or channels > _block(kernel)
    )
    if node.name in self._before:
      kernels += tuple(
        dataclasses.replace(kernel, fused=True) for kernel in kernels
      )
    return kernels

  def chain(self, node: Node) -> tuple[Node, ...]:
    """The layers that may be computed together, the last one being this."""
    before = self._before.get(node.name)
    return (node,) if before is None else (before, node)

  def arrays(self, node: Node, kernel: Kernel) -> Any:
    """The weights of a layer as one of its kernels wants them."""
    if isinstance(node, MaxPool):
      return ()
    if isinstance(node, Conv) and node.depthwise:
      channels = node.kernel.shape[-1]
      weights = jnp.asarray(node.kernel.reshape(9, channels).T)
      return weights, jnp.asarray(node.bias)
    channels = node.kernel.shape[-2]
    if isinstance(node, Classifier):
      offsets = np.arange(channels) * self._means.plane
    elif kernel.fused:
      offsets = np.arange(channels) * kernel.vectors * LANES
    else:
      offsets = layout.offsets(node, self._inner(node)).reshape(-1)
    rows = np.moveaxis(node.kernel, (-1, -2), (0, 1))
    rows = rows.reshape(len(rows), -1)
    if kernel.sparse:
      taps = len(offsets) // channels  # of a channel
      block = _block(kernel) * taps if kernel.blocked else len(offsets)
      packed = layout.pack_sparse(rows, offsets, block)
    else:
      packed = layout.pack_dense(rows, offsets)
    window: Any = (np.zeros((0,), np.float32),) * 2
    if kernel.fused:
      window = self.arrays(self._before[node.name], DENSE)
    return tuple(map(jnp.asarray, (*packed, node.bias, *window)))

  def apply(
    self, node: Node, kernel: Kernel, arrays: Any, made: Mapping[str, jax.Array]
  ) -> jax.Array:
    """A layer's output, from those made before; only its settings are read."""
    x, source = made[node.source], self._layouts[node.source]
    if isinstance(node, MaxPool):
      return _ffi('MaxPool', (x,), source, self._layouts[node.name])
    if isinstance(node, Classifier):
      x = _ffi('Mean', (x,), source, self._means, images=1)
      return _product(kernel, x, arrays, None, self._means, self._logits)
    result = self._layouts[node.name]
    if node.depthwise:
      stride = np.int64(node.stride)
      operands = (x, *arrays)
      return _ffi(
        'Depthwise', operands, source, result, stride=stride, relu=node.relu
      )
    add = None if node.add is None else made[node.add]
    inner = self._inner(node)
    window_relu = False
    if kernel.fused:
      before = self._before[node.name]
      x, inner = made[before.source], self._layouts[before.source]
      window_relu = before.relu
    elif node.stride == 2 and node.name != self._entered:
      phases = np.int64(inner.channels // source.channels)
      x = _ffi('Phases', (x,), source, inner, phases=phases)
    return _product(
      kernel, x, arrays, add, inner, result, node.relu, window_relu
    )

  def enter(self, images: jax.Array) -> jax.Array:
    """Images as tensors are here."""
    layout = self._layouts[networks.IMAGES]
    phases = np.int64(layout.channels // images.shape[3])
    return _ffi('Enter', (images,), None, layout, phases=phases)

  def leave(self, output: jax.Array) -> jax.Array:
    """The last layer's output: (batch, classes), or images as they come."""
    if not isinstance(self._last, Classifier):
      result = self._layouts[self._last.name]
      shape = (self._batch, result.height, result.width, result.channels)
      return _call('Leave', (output,), shape, input=result.numbers())
    result = self._logits
    end = LANES + result.channels * result.plane
    planes = output[0, LANES:end].reshape(result.channels, result.plane)
    return planes[:, : self._batch].T

  def example(self, name: str) -> jax.Array:
    """A tensor of zeros of the shape of a layer's output, or of the input."""
    return jnp.zeros((self._batch, self._layouts[name].size))

  def _inner(self, node: Conv) -> Layout:
    """The layout that a convolution reads: of phases, with a stride."""
    source = self._layouts[node.source]
    if node.stride == 1 or node.name == self._entered:
      return source
    gap = self._layouts[node.name].gap
    phases = 1 if node.kernel.shape[0] == 1 else 4
    return dataclasses.replace(source.halved(phases), gap=gap)


def _block(kernel: Kernel) -> int:
  """Input channels whose tile fits the first cache."""
  return layout.CACHE // (kernel.vectors * LANES * 4)


def _depthwise_before(network: Network) -> dict[str, Conv]:
  """By name, the depthwise convolution that a 1x1 one alone reads."""
  made = {node.name: node for node in network}
  readers = collections.Counter(node.source for node in network)
  readers.update(
    node.add for node in network if isinstance(node, Conv) and node.add
  )
  pairs = {}
  for node in network:
    before = made.get(node.source)
    if (
      isinstance(node, Conv)
      and node.kernel.shape[:2] == (1, 1)
      and node.stride == 1
      and isinstance(before, Conv)
      and before.depthwise
      and before.stride == 1
      and readers[before.name] == 1
    ):
      pairs[node.name] = before
  return pairs


def _product(
  kernel: Kernel,
  x: jax.Array,
  arrays: Any,
  add: jax.Array | None,
  source: Layout,
  result: Layout,
  relu: bool = False,
  window_relu: bool = False,
) -> jax.Array:
  weights, index, bias, *window = arrays
  if add is None:
    add = jnp.zeros((0,), jnp.float32)
  return _ffi(
    'Product',
    (x, weights, index, bias, add, *window),
    source,
    result,
    dense=not kernel.sparse,
    vectors=np.int64(kernel.vectors),
    relu=relu,
    window_relu=window_relu,
  )


def _ffi(
  function: str,
  operands: tuple[jax.Array, ...],
  source: Layout | None,
  result: Layout,
  images: int | None = None,
  **settings: Any,
) -> jax.Array:
  """Calls a kernel, whose result has as many images as its operand."""
  shape = (len(operands[0]) if images is None else images, result.size)
  if source is not None:
    settings['input'] = source.numbers()
  settings['output'] = result.numbers()
  return _call(function, operands, shape, **settings)


def _call(
  function: str,
  operands: tuple[jax.Array, ...],
  shape: tuple[int, ...],
  **settings: Any,
) -> jax.Array:
  call = jax.ffi.ffi_call(
    native.target(function),
    jax.ShapeDtypeStruct(shape, jnp.float32),
    vmap_method='sequential',
  )
  return call(*operands, **settings)
