"""The depthwise convolution, one filter a channel, by its taps."""

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array, lax

from str_jax.functional import at_least_float32
from str_jax.lowering.window import Window

_ROWS = 28  # at most, that one step of a weight gradient adds up


def forward(x: Array, kernel: Array, window: Window) -> Array:
  """A sum of shifted images, each times its weight."""
  met = window.meet(window.pad(x.astype(at_least_float32(x.dtype))))
  products = [
    pixels * weight
    for pixels, weight in zip(met, _weights(kernel), strict=True)
  ]
  return functools.reduce(jnp.add, products).astype(kernel.dtype)


def vjp(
  x: Array, kernel: Array, dy: Array, window: Window
) -> tuple[Array, Array]:
  """The gradients to the images and to the kernel."""
  weights = _weights(kernel)
  dx = window.spread(
    (dy.astype(at_least_float32(dy.dtype)),),
    lambda tap, dy: dy * weights[tap],
    (0,),
  )
  return dx.astype(x.dtype), _dk(x, dy, kernel, window)


def _weights(kernel: Array) -> Array:
  """By tap, row-major.

  The product with the identity keeps XLA, which takes no product into a loop
  over pixels, from thresholding a weight anew for each of them.
  """
  taps = kernel.astype(at_least_float32(kernel.dtype)).reshape(
    -1, kernel.shape[3]
  )
  same = jnp.eye(len(taps), dtype=taps.dtype)
  exact = lax.dot(same, taps, precision=lax.Precision.HIGHEST)
  return exact.reshape(-1, 1, 1, 1, kernel.shape[3])


def _dk(x: Array, dy: Array, kernel: Array, window: Window) -> Array:
  """sum_nhw x[n, s h + i - p, s w + j - p, c] dy[n, h, w, c] as [i, j, 0, c].

  A block of rows at a time, tap by tap. The rows of a block are added one by
  one, in code unrolled: whole rows are long vectors, their sum over w waits
  for the end.
  """
  n, h, w, channels = dy.shape
  (kh, kw), stride = window.taps, window.strides[0]
  rows = next(r for r in range(min(h, _ROWS), 0, -1) if h % r == 0)
  blocks = h // rows
  x = window.pad(x)
  reach = (rows - 1) * stride + kh
  block = dataclasses.replace(
    window, pads=((0, 0), (0, 0)), inputs=(reach, x.shape[2])
  )
  wide = at_least_float32(x.dtype)

  def step(t: Array, total: Array) -> Array:
    image, row = t // blocks, t % blocks * rows
    a = lax.dynamic_slice(
      x, (image, row * stride, 0, 0), (1, reach, x.shape[2], channels)
    )
    d = lax.dynamic_slice(dy, (image, row, 0, 0), (1, rows, w, channels))

    def add(tap: Array) -> Array:
      products = block.meet_at(a, tap).astype(wide) * d.astype(wide)
      # Apart from the write of the result, it runs on several cores.
      return lax.optimization_barrier(functools.reduce(jnp.add, products[0]))

    return total + lax.map(add, jnp.arange(kh * kw))

  zeros = jnp.zeros((kh * kw, w, channels), wide)
  total = lax.fori_loop(0, n * blocks, step, zeros)
  return total.sum(1).reshape(kernel.shape).astype(kernel.dtype)
