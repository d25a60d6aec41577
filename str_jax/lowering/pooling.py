"""The max-pool."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from str_jax.lowering.window import Window, cover

_NO_TAP = 127  # the index of none: below it lie those of windows up to 11 x 11


def max_pool(
  inputs: Array,
  window_shape: Sequence[int],
  strides: Sequence[int] | None = None,
  padding: str | Sequence[tuple[int, int]] = 'VALID',
) -> Array:
  """``flax.linen.max_pool``, with a gradient that is fast on XLA:CPU.

  y[n, h, w, c] = max_ij x[n, s h + i - p, s w + j - p, c]

  Bit for bit equal to it, and so is its gradient, which goes to the first
  maximum of a window, row by row; but for the order in which a pixel's
  gradients are added. Covered are floating images NHWC and windows of less
  than 127 pixels, in reverse mode; all else is passed on as it came.

  Args:
    inputs: images, (batch, height, width, channels).
    window_shape: height and width.
    strides: over height and width; 1 by default.
    padding: 'SAME', 'VALID', or (low, high) for height and for width.

  Returns:
    (batch, height, width, channels).

  >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), (2, 2)).ravel()
  Array([ 5.,  7., 13., 15.], dtype=float32)
  """
  window = cover(inputs, window_shape, strides or (1, 1), padding)
  if window is None or math.prod(window_shape) >= _NO_TAP:
    return nn.max_pool(inputs, tuple(window_shape), strides, padding)
  return _pool(inputs, window)


def _plain(x: Array, window: Window) -> Array:
  return nn.max_pool(x, window.taps, window.strides, window.pads)


def _forward(x: Array, window: Window) -> Array:
  return lax.platform_dependent(
    x,
    cpu=lambda x: functools.reduce(jnp.maximum, _met(x, window)),
    default=lambda x: _plain(x, window),
  )


_pool = jax.custom_vjp(_forward, nondiff_argnums=(1,))


def _pool_fwd(x: Array, window: Window) -> tuple[Array, Array]:
  return _pool(x, window), x


def _pool_bwd(window: Window, x: Array, dy: Array) -> tuple[Array]:
  dx = lax.platform_dependent(
    x,
    dy,
    cpu=lambda x, dy: _dx(x, dy, window),
    default=lambda x, dy: jax.vjp(lambda x: _plain(x, window), x)[1](dy)[0],
  )
  return (dx,)


_pool.defvjp(_pool_fwd, _pool_bwd)


def _met(x: Array, window: Window) -> list[Array]:
  padded = window.pad(x, -jnp.inf)
  return window.meet(lax.optimization_barrier(padded))


def _dx(x: Array, dy: Array, window: Window) -> Array:
  """To the first maximum of each window."""
  met = _met(x, window)
  y = functools.reduce(jnp.maximum, met)
  first = jnp.full(y.shape, _NO_TAP, jnp.int8)
  for tap, pixels in reversed(list(enumerate(met))):
    first = jnp.where(pixels == y, jnp.int8(tap), first)

  def term(tap: int, first: Array, dy: Array) -> Array:
    return jnp.where(first == tap, dy, jnp.zeros_like(dy))

  return window.spread((first, dy), term, (_NO_TAP, 0))
