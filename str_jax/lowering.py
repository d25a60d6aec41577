"""Convolutions whose training step is fast on XLA:CPU.

XLA:CPU runs a wide dense convolution near the peak of a core, but one with few
channels, a weight gradient or anything depthwise several times below it. Here
the same sums are written as what it runs well: wider convolutions, matrix
products of what fits in the cache, sums of shifted images. Other devices, and
shapes not covered, get ``jax.lax.conv_general_dilated`` itself.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

NAMES = ('xla', 'cpu')

_Pair = tuple[Array, Array]
_NHWC = ('NHWC', 'HWIO', 'NHWC')
_PIXELS = 1024  # of dy in one matrix product: what it reads stays in the cache
_TERMS = 252  # of the sums that one step of a depthwise gradient unrolls


def conv_general_dilated(
  lhs: Array,
  rhs: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> Array:
  """``jax.lax.conv_general_dilated``, fast to train on XLA:CPU.

  y[n, h, w, o] = sum_ijc x[n, s h + i - p, s w + j - p, c] kernel[i, j, c, o]

  Equal to it within rounding, and so are its gradients. Covered are floating
  images NHWC with a kernel HWIO, no dilation, dense or depthwise with one
  filter a channel; all else is passed on as it came.

  What is covered has a gradient of its own: reverse mode only, no ``jax.jvp``.
  It loops over the batch, which shards badly: on a mesh of several devices
  keep ``jax.lax.conv_general_dilated``.

  Args:
    lhs: images, (batch, height, width, channels).
    rhs: kernel, (height, width, channels / groups, features).
    window_strides: over height and width.
    padding: 'SAME', 'VALID', or (low, high) for height and for width.
    **options: the other arguments of ``jax.lax.conv_general_dilated``.

  Returns:
    (batch, height, width, features).

  >>> x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))
  >>> layout = dict(dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  >>> conv_general_dilated(x, kernel, (2, 2), 'SAME', **layout).shape
  (2, 4, 4, 16)
  """
  window = _window(lhs, rhs, window_strides, padding, **options)
  if window is None:
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, **options
    )
  if window.matrix:
    sh, sw = window.strides
    lhs = lhs[:, ::sh, ::sw]
    window = dataclasses.replace(window, strides=(1, 1))
  return _conv(lhs, rhs, window)


@dataclasses.dataclass(frozen=True)
class _Window:
  """All of a convolution but its operands; hashable, as custom_vjp asks."""

  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]
  size: tuple[int, int]  # of the output
  matrix: bool  # a 1x1 kernel: one product for all pixels
  groups: int
  precision: Any

  def plain(self, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
      x,
      kernel,
      self.strides,
      self.pads,
      dimension_numbers=_NHWC,
      feature_group_count=self.groups,
      precision=self.precision,
    )

  def taps(self, padded: Array, kernel: Array) -> list[Array]:
    """For each (i, j) of the kernel, row-major, the pixels it meets."""
    (h, w), (sh, sw) = self.size, self.strides
    return [
      padded[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
      for i in range(kernel.shape[0])
      for j in range(kernel.shape[1])
    ]


def _window(
  x: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
  **others: Any,
) -> _Window | None:
  """The window of a convolution, None if it is not covered."""
  neutral = (None, 1, (1, 1), [1, 1])
  if x.ndim != 4 or any(value not in neutral for value in others.values()):
    return None
  layout, nhwc = (
    lax.conv_dimension_numbers(x.shape, kernel.shape, numbers)
    for numbers in (dimension_numbers, _NHWC)
  )
  inputs, features = kernel.shape[2:]
  groups, channels = feature_group_count, x.shape[3]
  dense = groups == 1 and inputs == channels
  depthwise = groups == channels == features and inputs == 1
  if layout != nhwc or not (dense or depthwise):
    return None
  sizes, taps = x.shape[1:3], kernel.shape[:2]
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(sizes, taps, strides, padding)
  (top, bottom), (left, right) = padding
  sh, sw = strides
  h = (sizes[0] + top + bottom - taps[0]) // sh + 1
  w = (sizes[1] + left + right - taps[1]) // sw + 1
  empty = min(h, w, *x.shape, *kernel.shape) < 1
  crops = min(top, bottom, left, right) < 0
  if empty or crops or not jnp.issubdtype(x.dtype, jnp.floating):
    return None
  pads = ((top, bottom), (left, right))
  matrix = dense and taps == (1, 1) and pads == ((0, 0), (0, 0))
  return _Window((sh, sw), pads, (h, w), matrix, groups, precision)


def _wide(x: Array) -> Any:
  """The type to sum in: float32 at least."""
  return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def _forward(x: Array, kernel: Array, window: _Window) -> Array:
  fast = _dense if window.groups == 1 else _depthwise
  return lax.platform_dependent(
    x, kernel, cpu=lambda x, k: fast(x, k, window), default=window.plain
  )


_conv = jax.custom_vjp(_forward, nondiff_argnums=(2,))


def _conv_fwd(x: Array, kernel: Array, window: _Window) -> tuple[Array, _Pair]:
  return _conv(x, kernel, window), (x, kernel)


def _conv_bwd(window: _Window, saved: _Pair, dy: Array) -> _Pair:
  return lax.platform_dependent(
    *saved,
    dy,
    cpu=lambda x, kernel, dy: _vjp(x, kernel, dy, window),
    default=lambda x, kernel, dy: jax.vjp(window.plain, x, kernel)[1](dy),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


def _vjp(x: Array, kernel: Array, dy: Array, window: _Window) -> _Pair:
  if window.groups == 1:
    dx = _dense_dx(x, kernel, dy, window)
    dk = _dense_dk(x, dy, kernel, window)
  else:
    (dx,) = jax.linear_transpose(lambda x: _depthwise(x, kernel, window), x)(dy)
    dk = _depthwise_dk(x, dy, kernel, window)
  return dx, dk.astype(kernel.dtype)


def _dense(x: Array, kernel: Array, window: _Window) -> Array:
  """A convolution; if it is narrow, m neighbours of a row at once.

  They are m times the features of one wider window, m times the stride on:
  more work, in registers that would else stay empty. A 1x1 kernel is a matrix.
  """
  _, _, channels, features = kernel.shape
  if window.matrix:
    pixels = x.reshape(-1, channels)
    y = lax.dot(pixels, kernel[0, 0], precision=window.precision)
    return y.reshape(-1, *window.size, features)
  m = max(1, (64 if channels < 16 else 32) // features)
  if m == 1 or window.size[1] % m:
    return window.plain(x, kernel)
  sh, sw = window.strides
  shifted = [
    jnp.pad(kernel, ((0, 0), (u * sw, (m - 1 - u) * sw), (0, 0), (0, 0)))
    for u in range(m)
  ]
  wider = dataclasses.replace(window, strides=(sh, m * sw))
  y = wider.plain(x, jnp.concatenate(shifted, -1))
  return y.reshape(-1, *window.size, features)


def _dense_dx(x: Array, kernel: Array, dy: Array, window: _Window) -> Array:
  """With stride 1, dy convolved with the kernel turned around."""
  if window.strides != (1, 1):
    return jax.linear_transpose(lambda x: window.plain(x, kernel), x)(dy)[0]
  (top, bottom), (left, right) = window.pads
  h, w = kernel.shape[0] - 1, kernel.shape[1] - 1
  back = dataclasses.replace(
    window,
    pads=((h - top, h - bottom), (w - left, w - right)),
    size=(x.shape[1], x.shape[2]),
  )
  return _dense(dy, kernel[::-1, ::-1].swapaxes(2, 3), back)


def _dense_dk(x: Array, dy: Array, kernel: Array, window: _Window) -> Array:
  """sum_nhw x[n, s h + i - p, s w + j - p, c] dy[n, h, w, o] as [i, j, c, o].

  Of a few images at a time, so that it stays in the cache, the taps are laid
  side by side: the sum is one matrix product.
  """
  n, h, w, features = dy.shape
  rows = kernel.size // features
  steps = 1 if window.matrix else max(1, min(n, n * h * w // _PIXELS))
  group = -(-n // steps)
  batch = (0, steps * group - n)  # zeros, so that every step is full
  x = jnp.pad(x, (batch, *window.pads, (0, 0)))
  dy = jnp.pad(dy, (batch, (0, 0), (0, 0), (0, 0)))

  def step(i: Array, total: Array) -> Array:
    images = lax.dynamic_slice_in_dim(x, i * group, group)
    columns = jnp.concatenate(window.taps(images, kernel), -1)
    a = lax.dynamic_slice_in_dim(dy, i * group, group).reshape(-1, features)
    b = columns.reshape(-1, rows)
    if rows < features:  # the smaller first is faster
      a, b = b, a
    return total + lax.dot_general(
      a,
      b,
      (((0,), (0,)), ((), ())),
      precision=window.precision,
      preferred_element_type=total.dtype,
    )

  zeros = jnp.zeros(sorted((rows, features)), _wide(x))
  total = lax.fori_loop(0, steps, step, zeros, unroll=steps == 1)
  # The barrier keeps XLA from turning the product around.
  total = total if rows < features else lax.optimization_barrier(total).T
  return total.reshape(kernel.shape)


def _depthwise(x: Array, kernel: Array, window: _Window) -> Array:
  """A sum of shifted images, each times its weight."""
  wide = _wide(x)
  x = jnp.pad(x.astype(wide), ((0, 0), *window.pads, (0, 0)))
  taps = window.taps(x, kernel)
  weights = kernel.astype(wide).reshape(-1, 1, 1, 1, kernel.shape[3])
  products = [tap * weight for tap, weight in zip(taps, weights, strict=True)]
  return functools.reduce(jnp.add, products).astype(kernel.dtype)


def _depthwise_dk(x: Array, dy: Array, kernel: Array, window: _Window) -> Array:
  """As ``_dense_dk`` with c = o, a block of rows at a time.

  The rows of a block are added one by one, in code unrolled: whole rows are
  long vectors, their sum over w waits for the end.
  """
  n, h, w, channels = dy.shape
  kh, kw, _, _ = kernel.shape
  most = max(1, min(h, _TERMS // (kh * kw)))
  rows = next(r for r in range(most, 0, -1) if h % r == 0)
  blocks = h // rows
  block = dataclasses.replace(window, size=(rows, w))
  x = jnp.pad(x, ((0, 0), *window.pads, (0, 0)))
  wide = _wide(x)

  def step(t: Array, total: list[Array]) -> list[Array]:
    image, row = t // blocks, t % blocks * rows
    reach = (1, (rows - 1) * window.strides[0] + kh, x.shape[2], channels)
    a = lax.dynamic_slice(x, (image, row * window.strides[0], 0, 0), reach)
    d = lax.dynamic_slice(dy, (image, row, 0, 0), (1, rows, w, channels))
    d = d.astype(wide)
    products = [tap * d for tap in block.taps(a.astype(wide), kernel)]
    sums = [functools.reduce(jnp.add, list(p[0])) for p in products]
    return [a + b for a, b in zip(total, sums, strict=True)]

  zeros = [jnp.zeros((w, channels), wide)] * (kh * kw)
  total = lax.fori_loop(0, n * blocks, step, zeros)
  return jnp.stack(total).sum(1).reshape(kernel.shape)
