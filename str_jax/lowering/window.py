"""A window that slides over images, and what its taps meet."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array, lax

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Window:
  """Sizes over height and width; hashable, as custom_vjp asks.

  Attributes:
    taps: of the kernel.
    strides: between its positions.
    pads: (low, high) beside the images, none negative.
    inputs: height and width of the images.
  """

  taps: tuple[int, int]
  strides: tuple[int, int]
  pads: Pads
  inputs: tuple[int, int]

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the output."""
    h, w = (
      (length + low + high - taps) // stride + 1
      for length, (low, high), taps, stride in zip(
        self.inputs, self.pads, self.taps, self.strides, strict=True
      )
    )
    return h, w

  def pad(self, x: Array, value: float = 0) -> Array:
    """The images with what stands beside them."""
    pads = ((0, 0), *self.pads, (0, 0))
    return jnp.pad(x, pads, constant_values=value)

  def meet(self, padded: Array) -> list[Array]:
    """For each tap, row-major, the pixels it meets: (batch, *size, c)."""
    (h, w), (sh, sw) = self.size, self.strides
    return [
      padded[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
      for i in range(self.taps[0])
      for j in range(self.taps[1])
    ]

  def meet_at(self, padded: Array, tap: Array) -> Array:
    """The pixels that one tap meets; in a loop it is compiled once for all."""
    (h, w), (sh, sw) = self.size, self.strides
    i, j = tap // self.taps[1], tap % self.taps[1]
    batch, *_, channels = padded.shape
    reach = (batch, (h - 1) * sh + 1, (w - 1) * sw + 1, channels)
    return lax.dynamic_slice(padded, (0, i, j, 0), reach)[:, ::sh, ::sw]

  def spread(
    self,
    outputs: Sequence[Array],
    term: Callable[..., Array],
    fills: Sequence[float],
  ) -> Array:
    """The transpose of ``meet``: what the taps give back to the images.

    dx[a] = sum_i term_i(outputs[y]) over all taps i and positions y with
    stride * y + i - low = a

    As pixels a stride apart meet the same taps, each such phase is a sum of
    shifted outputs.

    Args:
      outputs: arrays (batch, *size, c).
      term: from a tap's number and its shift of each output to what it adds.
      fills: what stands beside each output.

    Returns:
      (batch, *inputs, c).
    """
    (kh, kw), (sh, sw) = self.taps, self.strides
    before = (kh - 1) // sh, (kw - 1) // sw
    # Positions of each phase: enough for the pixels that are asked for.
    count = [
      -(-(length + low) // stride)
      for length, (low, _), stride in zip(
        self.inputs, self.pads, self.strides, strict=True
      )
    ]
    edges = [
      (front, max(0, n - length))
      for front, n, length in zip(before, count, self.size, strict=True)
    ]
    wide = [
      jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=fill)
      for x, fill in zip(outputs, fills, strict=True)
    ]
    wide = lax.optimization_barrier(wide)  # padded once, not in every tap

    def shift(x: Array, i: int, j: int) -> Array:
      top, left = before[0] - i // sh, before[1] - j // sw
      return x[:, top : top + count[0], left : left + count[1]]

    phases = [
      [
        functools.reduce(
          jnp.add,
          [
            term(i * kw + j, *(shift(x, i, j) for x in wide))
            for i in range(r, kh, sh)
            for j in range(c, kw, sw)
          ],
        )
        for c in range(min(sw, kw))
      ]
      for r in range(min(sh, kh))
    ]
    zeros = jnp.zeros_like(phases[0][0])  # pixels that no tap meets
    rows = [
      jnp.stack(row + [zeros] * (sw - len(row)), 3)
      for row in phases + [[zeros]] * (sh - len(phases))
    ]
    batch, *_, channels = outputs[0].shape
    whole = (batch, count[0] * sh, count[1] * sw, channels)
    dx = jnp.stack(rows, 2).reshape(whole)
    (top, _), (left, _) = self.pads
    return dx[:, top : top + self.inputs[0], left : left + self.inputs[1]]


def cover(
  x: Array,
  taps: Sequence[int],
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
) -> Window | None:
  """The window over images, None for what no lowering here covers.

  Args:
    x: images, floating and (batch, height, width, channels) if covered.
    taps: of the kernel, over height and width.
    strides: over height and width.
    padding: 'SAME', 'VALID', or (low, high) for height and for width.

  Returns:
    The window; None as well where pixels are cropped off or none are left.
  """
  floating = jnp.issubdtype(x.dtype, jnp.floating)
  if x.ndim != 4 or len(taps) != 2 or not floating:
    return None
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:3], taps, strides, padding)
  (top, bottom), (left, right) = padding
  (kh, kw), (sh, sw) = taps, strides
  window = Window(
    (kh, kw), (sh, sw), ((top, bottom), (left, right)), (x.shape[1], x.shape[2])
  )
  crops = min(top, bottom, left, right) < 0
  empty = min(*window.size, *window.taps, *x.shape) < 1
  return None if crops or empty else window
