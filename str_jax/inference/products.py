"""Where an input meets a weight that is known, as a convolution of images.

So the kernels that know sparse convolutions compute any of them: a product with
a matrix is a convolution by one pixel, each row of the input being a pixel.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.inference.network import IMAGES, Conv
from str_jax.inference.program import PRODUCTS, Step, Value

_MOST_SIZE = 31  # of a window; as large a gap stands around the images


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
  """An operation as a convolution.

  Attributes:
    step: the operation.
    weight: its known operand.
    conv: the convolution, with the name of the weight.
    images: shape of its input, (batch, height, width, channels).
    enter: makes its input of the operation's.
    leave: makes the operation's result of its output.
  """

  step: Step
  weight: jax.Array
  conv: Conv
  images: tuple[int, int, int, int]
  enter: Callable[[jax.Array], jax.Array]
  leave: Callable[[jax.Array], jax.Array]

  @property
  def density(self) -> float:
    """The fraction of the weights that are not zero."""
    return np.count_nonzero(self.conv.kernel) / self.weight.size

  @property
  def input(self) -> Value:
    """The operand that is not known."""
    (x,) = (value for value in self.step.operands if not value.known)
    return x

  def dense(self, weight: jax.Array, x: jax.Array) -> jax.Array:
    """The operation as it is, on a weight and an input."""
    (result,) = self.step.run(
      [weight if value.known else x for value in self.step.operands]
    )
    return result


def product(
  step: Step, known: Mapping[int, jax.Array], most: float = 1.0
) -> Product | None:
  """The product that a step is.

  Args:
    step: of a program.
    known: arrays of its known values.
    most: the largest fraction of the weights that may not be zero.

  Returns:
    None where it is none, or none that is known as a convolution: of one
    group, with strides of 1 or 2 and no dilation.
  """
  read = _READERS.get(step.equation.primitive.name)
  pair = [value for value in step.operands if value.known]
  if read is None or len(step.operands) != 2 or len(pair) != 1:
    return None
  (weight,) = pair
  types = {value.aval.dtype for value in (*step.operands, *step.results)}
  array = known[weight.slot]
  if types != {jnp.dtype(jnp.float32)} or not array.size:
    return None
  if np.count_nonzero(array) > most * array.size:
    return None
  name = ', '.join(sorted(weight.names)) if weight.names else '<constant>'
  return read(step, name, array)


def _dot(step: Step, name: str, weight: jax.Array) -> Product | None:
  (of_both, batch) = step.equation.params['dimension_numbers']
  if any(batch):
    return None
  x_first = not step.operands[0].known
  of_x, of_w = of_both if x_first else of_both[::-1]
  x = step.operands[0 if x_first else 1]
  rows = [axis for axis in range(len(x.aval.shape)) if axis not in of_x]
  columns = [axis for axis in range(weight.ndim) if axis not in of_w]
  matrix = np.asarray(weight).transpose(*of_w, *columns)
  inner = math.prod(matrix.shape[: len(of_w)])
  matrix = matrix.reshape(inner, -1)
  of_rows = tuple(x.aval.shape[axis] for axis in rows)
  of_columns = tuple(weight.shape[axis] for axis in columns)
  pixels = math.prod(of_rows)
  if not pixels or not matrix.size:
    return None

  def enter(x: jax.Array) -> jax.Array:
    return x.transpose(*rows, *of_x).reshape(1, 1, pixels, inner)

  def leave(y: jax.Array) -> jax.Array:
    y = y.reshape(*of_rows, *of_columns)
    if x_first:
      return y
    first = len(of_rows)  # what was the matrix's own comes before them
    return y.transpose(*range(first, y.ndim), *range(first))

  conv = _conv(name, matrix[np.newaxis, np.newaxis], stride=1)
  return Product(step, weight, conv, (1, 1, pixels, inner), enter, leave)


def _convolution(step: Step, name: str, weight: jax.Array) -> Product | None:
  params = step.equation.params
  x = step.operands[0]
  numbers = params['dimension_numbers']
  strides = params['window_strides']
  if (
    x.known
    or len(strides) != 2
    or strides[0] != strides[1]
    or strides[0] not in (1, 2)
    or set((*params['lhs_dilation'], *params['rhs_dilation'])) != {1}
    or (params['feature_group_count'], params['batch_group_count']) != (1, 1)
  ):
    return None
  made, read, *window = numbers.rhs_spec
  kernel = np.asarray(weight).transpose(*window, read, made)
  size = max(kernel.shape[:2]) // 2 * 2 + 1
  if size > _MOST_SIZE:
    return None
  batch, features, *space = numbers.lhs_spec
  stride = strides[0]
  shape = [x.aval.shape[axis] for axis in (batch, *space, features)]
  (result,) = step.results
  out_batch, out_features, *out_space = numbers.out_spec
  out = [result.aval.shape[axis] for axis in out_space]
  fits = [
    _fit(n, count, low, stride, size)
    for n, count, (low, _) in zip(shape[1:3], out, params['padding'])
  ]
  pads = [(0, 0, 0), *(pad for pad, _ in fits), (0, 0, 0)]
  images = tuple(n + low + high for n, (low, high, _) in zip(shape, pads))
  if not min(images) or not min(result.aval.shape):
    return None
  firsts = [first for _, first in fits]

  def enter(x: jax.Array) -> jax.Array:
    x = x.transpose(batch, *space, features)
    return jax.lax.pad(x, np.float32(0), pads)

  def leave(y: jax.Array) -> jax.Array:
    y = y[:, firsts[0] : firsts[0] + out[0], firsts[1] : firsts[1] + out[1], :]
    places = (out_batch, *out_space, out_features)
    return y.transpose(*np.argsort(places).tolist())

  missing = [(0, size - n) for n in kernel.shape[:2]]
  kernel = np.pad(kernel, (*missing, (0, 0), (0, 0)))
  conv = _conv(name, kernel, stride)
  return Product(step, weight, conv, images, enter, leave)  # type: ignore[arg-type]


def _fit(
  n: int, count: int, low: int, stride: int, size: int
) -> tuple[tuple[int, int, int], int]:
  """Padding with which a convolution padded by half of its size serves.

  Output i of the one asked for lies around ``stride * i + half - low`` of the
  input, output j of the other one around ``stride * j`` of the padded input.

  Args:
    n: size of the input.
    count: of the outputs.
    low: its own padding before the first; negative where it leaves some out.
    stride: of both.
    size: of the window of both.

  Returns:
    The padding for `jax.lax.pad`, and which output is the first asked for.
  """
  offset = size // 2 - low
  before = -offset % stride
  before = max(before, before + -(offset + before) // stride * stride)
  first = (offset + before) // stride
  after = max(0, stride * (first + count - 1) + 1 - n - before)
  return (before, after, 0), first


def _conv(name: str, kernel: np.ndarray, stride: int) -> Conv:
  bias = np.zeros(kernel.shape[-1], np.float32)
  kernel = np.ascontiguousarray(kernel)
  return Conv(name, IMAGES, kernel, bias, stride, relu=False)


_READERS: dict[str, Callable[[Step, str, jax.Array], Product | None]] = dict(
  zip(PRODUCTS, (_dot, _convolution), strict=True)
)
