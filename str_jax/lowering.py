"""Convolutions whose training step is fast on XLA:CPU.

XLA:CPU runs a dense forward convolution near the peak of a core, yet its
weight gradient, and everything depthwise, several times below it. Here the
same sums are written so that they become matrix products and vector adds.
Values and gradients are those of `jax.lax.conv_general_dilated` within
rounding; on other devices, and for shapes not covered, they are its own.

Example:
  >>> import jax.numpy as jnp
  >>> x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 16))
  >>> conv_general_dilated(
  ...   x,
  ...   kernel,
  ...   (2, 2),
  ...   'SAME',
  ...   dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ... ).shape
  (2, 4, 4, 16)
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

NAMES = ('xla', 'cpu')
_NHWC = ('NHWC', 'HWIO', 'NHWC')


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: Any = None,
  preferred_element_type: Any = None,
) -> jax.Array:
  """`jax.lax.conv_general_dilated`, fast to train on XLA:CPU.

  y[n, h, w, o] = sum_ijc x[n, s h + i - p, s w + j - p, c] k[i, j, c, o]

  A 1x1 convolution is a slice and a matrix product. Others have a custom
  gradient, so they have no forward-mode AD (`jax.jvp`, `jax.hessian`). The
  gradient loops over the batch, which shards badly: on a mesh of several
  devices use `jax.lax.conv_general_dilated`.

  Covered: two spatial dimensions, NHWC and HWIO, no dilation, dense or
  depthwise (one filter a channel). All else is handed to
  `jax.lax.conv_general_dilated` as it came.

  Args:
    lhs: images, (batch, height, width, channels).
    rhs: kernel, (kernel height, kernel width, channels / groups, features).
    window_strides: the strides over height and width.
    padding: 'SAME', 'VALID' or (low, high) of height and of width.
    lhs_dilation: as in `jax.lax.conv_general_dilated`.
    rhs_dilation: as in `jax.lax.conv_general_dilated`.
    dimension_numbers: as in `jax.lax.conv_general_dilated`.
    feature_group_count: 1, or the number of channels for depthwise.
    batch_group_count: as in `jax.lax.conv_general_dilated`.
    precision: as in `jax.lax.conv_general_dilated`.
    preferred_element_type: as in `jax.lax.conv_general_dilated`.

  Returns:
    The images convolved, (batch, height, width, features).
  """
  plain = functools.partial(
    lax.conv_general_dilated,
    window_strides=window_strides,
    padding=padding,
    lhs_dilation=lhs_dilation,
    rhs_dilation=rhs_dilation,
    dimension_numbers=dimension_numbers,
    feature_group_count=feature_group_count,
    batch_group_count=batch_group_count,
    precision=precision,
    preferred_element_type=preferred_element_type,
  )
  groups = feature_group_count
  if (
    jnp.ndim(lhs) != 4
    or set(lhs_dilation or ()) - {1}
    or set(rhs_dilation or ()) - {1}
    or not jnp.issubdtype(lhs.dtype, jnp.floating)
    or batch_group_count != 1
    or preferred_element_type is not None
    or not _is_nhwc(lhs, rhs, dimension_numbers)
    or not (groups == 1 or groups == lhs.shape[3] == rhs.shape[3])
  ):
    return plain(lhs, rhs)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:3], rhs.shape[:2], window_strides, padding
    )
  (top, bottom), (left, right) = padding
  pads = ((top, bottom), (left, right))
  sh, sw = window_strides
  window = _Window((sh, sw), pads, groups, precision)
  if any(p < 0 for pad in window.pads for p in pad) or 0 in lhs.shape:
    return plain(lhs, rhs)
  if rhs.shape[:2] == (1, 1) and groups == 1 and not any(map(any, pads)):
    return lax.dot_general(
      lhs[:, ::sh, ::sw],
      rhs[0, 0],
      (((3,), (0,)), ((), ())),
      precision=precision,
    )
  return _conv(lhs, rhs, window)


@dataclasses.dataclass(frozen=True)
class _Window:
  """What a convolution is beside its operands; hashable, for custom_vjp."""

  strides: tuple[int, int]
  pads: tuple[tuple[int, int], ...]
  groups: int
  precision: Any

  def plain(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      x,
      kernel,
      self.strides,
      self.pads,
      dimension_numbers=_NHWC,
      feature_group_count=self.groups,
      precision=self.precision,
    )

  def pad(self, x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), *self.pads, (0, 0)))

  def taps(
    self, padded: jax.Array, size: tuple[int, ...], kernel: tuple[int, ...]
  ) -> list[jax.Array]:
    """For each (i, j) of the kernel, the pixels it meets, row-major."""
    (h, w), (sh, sw) = size, self.strides
    return [
      padded[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
      for i in range(kernel[0])
      for j in range(kernel[1])
    ]


def _is_nhwc(lhs: jax.Array, rhs: jax.Array, numbers: Any) -> bool:
  names = [
    lax.conv_dimension_numbers(lhs.shape, rhs.shape, n)
    for n in (numbers, _NHWC)
  ]
  return names[0] == names[1]


def _wide(x: jax.Array) -> Any:
  """The type to sum in: float32 at least."""
  return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def _forward(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
  if window.groups == 1:
    return window.plain(x, kernel)
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_depthwise, window=window),
    default=window.plain,
  )


_conv = jax.custom_vjp(_forward, nondiff_argnums=(2,))


def _conv_fwd(
  x: jax.Array, kernel: jax.Array, window: _Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _conv(x, kernel, window), (x, kernel)


def _conv_bwd(
  window: _Window, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = saved

  def plain(
    x: jax.Array, kernel: jax.Array, dy: jax.Array
  ) -> tuple[jax.Array, ...]:
    return jax.vjp(window.plain, x, kernel)[1](dy)

  def fast(
    x: jax.Array, kernel: jax.Array, dy: jax.Array
  ) -> tuple[jax.Array, ...]:
    forward = window.plain if window.groups == 1 else _depthwise_of(window)
    (dx,) = jax.linear_transpose(lambda x: forward(x, kernel), x)(dy)
    gradient = _dense_dw if window.groups == 1 else _depthwise_dw
    return dx, gradient(x, dy, kernel.shape[:2], window).astype(kernel.dtype)

  return lax.platform_dependent(x, kernel, dy, cpu=fast, default=plain)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _depthwise_of(window: _Window) -> Any:
  return functools.partial(_depthwise, window=window)


def _depthwise(x: jax.Array, kernel: jax.Array, window: _Window) -> jax.Array:
  """A depthwise convolution as a sum of shifted images."""
  size = jax.eval_shape(window.plain, x, kernel).shape[1:3]
  padded = window.pad(x.astype(_wide(x)))
  taps = window.taps(padded, size, kernel.shape[:2])
  weights = kernel.astype(padded.dtype).reshape(-1, 1, 1, 1, kernel.shape[3])
  products = [tap * weight for tap, weight in zip(taps, weights, strict=True)]
  return functools.reduce(jnp.add, products).astype(x.dtype)


def _dense_dw(
  x: jax.Array, dy: jax.Array, kernel: tuple[int, ...], window: _Window
) -> jax.Array:
  """dk[i, j, c, o] = sum x[n, s h + i - p, s w + j - p, c] dy[n, h, w, o].

  The shifted images of a few pictures are laid side by side, so that the sum
  is one matrix product; few, so that they stay in the cache.
  """
  n, h, w, features = dy.shape
  size = (h, w)
  padded = window.pad(x)

  def product(padded: jax.Array, dy: jax.Array) -> jax.Array:
    columns = jnp.concatenate(window.taps(padded, size, kernel), -1)
    return lax.dot_general(
      dy,
      columns,
      (((0, 1, 2), (0, 1, 2)), ((), ())),
      precision=window.precision,
      preferred_element_type=_wide(x),
    )

  group = min(n, max(1, 784 // (h * w)))

  def body(t: jax.Array, total: jax.Array) -> jax.Array:
    start = n % group + t * group
    return total + product(
      lax.dynamic_slice_in_dim(padded, start, group),
      lax.dynamic_slice_in_dim(dy, start, group),
    )

  first = product(padded[: n % group], dy[: n % group])
  total = lax.fori_loop(0, n // group, body, first)
  return total.T.reshape(*kernel, x.shape[3], features)


def _depthwise_dw(
  x: jax.Array, dy: jax.Array, kernel: tuple[int, ...], window: _Window
) -> jax.Array:
  """As `_dense_dw` with c = o, in blocks of rows, summed by unrolled adds."""
  n, h, w, channels = dy.shape
  kh, kw = kernel
  sh, sw = window.strides
  wide = _wide(x)
  padded = window.pad(x)
  rows = next(r for r in range(min(h, 28), 0, -1) if h % r == 0)
  blocks = h // rows

  def body(t: jax.Array, total: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    image, row = t // blocks, t % blocks * rows
    a = lax.dynamic_slice(
      padded,
      (image, row * sh, 0, 0),
      (1, (rows - 1) * sh + kh, padded.shape[2], channels),
    )[0].astype(wide)
    d = lax.dynamic_slice(dy, (image, row, 0, 0), (1, rows, w, channels))
    d = d[0].astype(wide)
    return tuple(
      total[i * kw + j]
      + sum(
        a[r * sh + i, j : j + (w - 1) * sw + 1 : sw] * d[r] for r in range(rows)
      )
      for i in range(kh)
      for j in range(kw)
    )

  zeros = (jnp.zeros((w, channels), wide),) * (kh * kw)
  total = lax.fori_loop(0, n * blocks, body, zeros)
  return jnp.stack(total).sum(1).reshape(kh, kw, 1, channels)
