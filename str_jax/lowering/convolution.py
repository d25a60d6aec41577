"""The convolution: dense as ``lax``'s own or wider, and depthwise."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from str_jax.functional import at_least_float32
from str_jax.lowering import depthwise
from str_jax.lowering.window import Window, cover

_Pair = tuple[Array, Array]
_NHWC = ('NHWC', 'HWIO', 'NHWC')
_PIXELS = 1024  # of dy in one matrix product: what it reads stays in the cache


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
  covered = _covered(lhs, rhs, window_strides, padding, **options)
  if covered is None:
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, **options
    )
  if covered.matrix:
    sh, sw = covered.window.strides
    lhs = lhs[:, ::sh, ::sw]
    covered = covered.with_window(strides=(1, 1), inputs=lhs.shape[1:3])
  return _conv(lhs, rhs, covered)


@dataclasses.dataclass(frozen=True)
class _Convolution:
  """All of a convolution but its operands; hashable, as custom_vjp asks."""

  window: Window
  groups: int
  precision: Any

  @property
  def matrix(self) -> bool:
    """Whether it is one product for all pixels."""
    alone = self.window.taps == (1, 1) and self.window.pads == ((0, 0), (0, 0))
    return alone and self.groups == 1

  def with_window(self, **fields: Any) -> '_Convolution':
    window = dataclasses.replace(self.window, **fields)
    return dataclasses.replace(self, window=window)

  def plain(self, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
      x,
      kernel,
      self.window.strides,
      self.window.pads,
      dimension_numbers=_NHWC,
      feature_group_count=self.groups,
      precision=self.precision,
    )


def _covered(
  x: Array,
  kernel: Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  precision: Any = None,
  **others: Any,
) -> _Convolution | None:
  """The convolution, None if it is not covered."""
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
  window = cover(x, kernel.shape[:2], strides, padding)
  if window is None or features < 1:
    return None
  return _Convolution(window, groups, precision)


def _forward(x: Array, kernel: Array, conv: _Convolution) -> Array:
  fast = _dense if conv.groups == 1 else _depthwise
  return lax.platform_dependent(
    x, kernel, cpu=lambda x, k: fast(x, k, conv), default=conv.plain
  )


_conv = jax.custom_vjp(_forward, nondiff_argnums=(2,))


def _conv_fwd(
  x: Array, kernel: Array, conv: _Convolution
) -> tuple[Array, _Pair]:
  return _conv(x, kernel, conv), (x, kernel)


def _conv_bwd(conv: _Convolution, saved: _Pair, dy: Array) -> _Pair:
  return lax.platform_dependent(
    *saved,
    dy,
    cpu=lambda x, kernel, dy: _vjp(x, kernel, dy, conv),
    default=lambda x, kernel, dy: jax.vjp(conv.plain, x, kernel)[1](dy),
  )


_conv.defvjp(_conv_fwd, _conv_bwd)


def _depthwise(x: Array, kernel: Array, conv: _Convolution) -> Array:
  return depthwise.forward(x, kernel, conv.window)


def _vjp(x: Array, kernel: Array, dy: Array, conv: _Convolution) -> _Pair:
  if conv.groups == 1:
    return _dense_dx(x, kernel, dy, conv), _dense_dk(x, dy, kernel, conv)
  return depthwise.vjp(x, kernel, dy, conv.window)


def _dense(x: Array, kernel: Array, conv: _Convolution) -> Array:
  """A convolution; if it is narrow, m neighbours of a row at once.

  They are m times the features of one wider window, m times the stride on:
  more work, in registers that would else stay empty. A 1x1 kernel is a matrix.
  """
  _, kw, channels, features = kernel.shape
  size = conv.window.size
  if conv.matrix:
    pixels = x.reshape(-1, channels)
    y = lax.dot(pixels, kernel[0, 0], precision=conv.precision)
    return y.reshape(-1, *size, features)
  m = max(1, (64 if channels < 16 else 32) // features)
  if m == 1 or size[1] % m:
    return conv.plain(x, kernel)
  sh, sw = conv.window.strides
  shifted = [
    jnp.pad(kernel, ((0, 0), (u * sw, (m - 1 - u) * sw), (0, 0), (0, 0)))
    for u in range(m)
  ]
  wider = conv.with_window(strides=(sh, m * sw))
  y = wider.plain(x, jnp.concatenate(shifted, -1))
  return y.reshape(-1, *size, features)


def _dense_dx(x: Array, kernel: Array, dy: Array, conv: _Convolution) -> Array:
  """With stride 1, dy convolved with the kernel turned around."""
  if conv.window.strides != (1, 1):
    return jax.linear_transpose(lambda x: conv.plain(x, kernel), x)(dy)[0]
  (top, bottom), (left, right) = conv.window.pads
  h, w = kernel.shape[0] - 1, kernel.shape[1] - 1
  back = conv.with_window(
    pads=((h - top, h - bottom), (w - left, w - right)), inputs=dy.shape[1:3]
  )
  return _dense(dy, kernel[::-1, ::-1].swapaxes(2, 3), back)


def _dense_dk(x: Array, dy: Array, kernel: Array, conv: _Convolution) -> Array:
  """sum_nhw x[n, s h + i - p, s w + j - p, c] dy[n, h, w, o] as [i, j, c, o].

  Of a few images at a time, so that it stays in the cache, the taps are laid
  side by side: the sum is one matrix product.
  """
  n, h, w, features = dy.shape
  channels = x.shape[3]
  rows = kernel.size // features
  steps = 1 if conv.matrix else max(1, min(n, n * h * w // _PIXELS))
  group = -(-n // steps)
  batch = (0, steps * group - n)  # zeros, so that every step is full
  x = conv.window.pad(jnp.pad(x, (batch, *((0, 0),) * 3)))
  dy = jnp.pad(dy, (batch, (0, 0), (0, 0), (0, 0)))

  def step(i: Array, carry: _Pair) -> _Pair:
    total, columns = carry
    images = lax.dynamic_slice_in_dim(x, i * group, group)
    if conv.matrix:
      columns = images
    else:  # written in place: to concatenate them would copy each twice
      columns = lax.fori_loop(
        0,
        rows // channels,
        lambda tap, columns: lax.dynamic_update_slice_in_dim(
          columns, conv.window.meet_at(images, tap), tap * channels, 3
        ),
        columns,
      )
    a = lax.dynamic_slice_in_dim(dy, i * group, group).reshape(-1, features)
    b = columns.reshape(-1, rows)
    if rows <= features:  # the smaller first is faster
      a, b = b, a
    product = lax.dot_general(
      a,
      b,
      (((0,), (0,)), ((), ())),
      precision=conv.precision,
      preferred_element_type=total.dtype,
    )
    return total + product, columns

  wide = at_least_float32(x.dtype)
  zeros = jnp.zeros(sorted((rows, features)), wide)
  columns = jnp.zeros((group, h, w, rows), x.dtype)
  total, _ = lax.fori_loop(0, steps, step, (zeros, columns), unroll=steps == 1)
  # The barrier keeps XLA from turning the product around.
  total = total if rows <= features else lax.optimization_barrier(total).T
  return total.reshape(kernel.shape).astype(kernel.dtype)
