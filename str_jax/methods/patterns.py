"""N:M patterns: of every M consecutive inputs at most N weights stay."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import functional

# Zeroes no weight: it says that a pattern holds and its threshold is zero yet.
LEAST = float(np.finfo(np.float32).tiny)
Shape = tuple[int, ...]
# Where inputs lie: the axis in all kernels of three axes, or pairs of shape and
# axis.
Inputs = int | tuple[tuple[Shape, int], ...] | None


def parse(name: str, pattern: str) -> tuple[int, int]:
  """N and M of a pattern.

  Args:
    name: of the method, for the message.
    pattern: 'N:M'.

  Returns:
    (N, M).

  Raises:
    ValueError: it is none, or not 1 <= N < M.

  >>> parse('GMP', '2:4')
  (2, 4)
  """
  found = re.fullmatch(r'(\d+):(\d+)', str(pattern))
  n, m = map(int, found.groups()) if found else (0, 0)
  if not 1 <= n < m:
    raise ValueError(
      f"{name} needs a pattern 'N:M' with 1 <= N < M, N weights that stay of "
      f"every M inputs, such as '2:4', got {pattern!r}."
    )
  return n, m


def settle(name: str, inputs: Inputs | Mapping[Shape, int]) -> Inputs:
  """Where inputs lie, in one form, so that equal settings hash equal.

  Args:
    name: of the method, for the message.
    inputs: an axis for all kernels of three axes, or by shape; None for none.

  Returns:
    The axis, or pairs of shape and axis.

  Raises:
    ValueError: it is none of these, or a shape has no such axis.

  >>> settle('GMP', {(64, 4, 16): 0})
  (((64, 4, 16), 0),)
  """
  if inputs is None or isinstance(inputs, int):
    found: dict[Shape, int] = {(1, 1, 1): inputs or 0}
  else:
    try:
      found = {tuple(shape): axis for shape, axis in dict(inputs).items()}
    except (TypeError, ValueError):
      found = {}
  if not found or not all(
    isinstance(axis, int) and -len(shape) <= axis < len(shape)
    for shape, axis in found.items()
  ):
    raise ValueError(
      f'{name} needs inputs to be the axis of the inputs in kernels of three '
      'axes, such as -2, or an axis by shape, such as {(64, 4, 16): 0}, got '
      f'{inputs!r}.'
    )
  if inputs is None or isinstance(inputs, int):
    return inputs
  return tuple(sorted(found.items()))


def axis(pattern: str, shape: Shape, inputs: Inputs = None) -> int | None:
  """The axis of a weight along which a pattern runs.

  That is the axis of its inputs, the last but one of Flax's matrices and
  convolutions. Of three axes it may be another: a convolution over a sequence
  is (k, in, out), a map to the heads of an attention (in, heads, dim).

  Args:
    pattern: 'N:M'.
    shape: of the weight.
    inputs: where the inputs lie, see :func:`settle`.

  Returns:
    The axis; None where the weight has no pattern, for M does not divide its
    inputs: vectors, depthwise kernels, a first layer of 3 colours.

  Raises:
    ValueError: three axes, of which ``inputs`` says nothing.

  >>> axis('2:4', (3, 3, 8, 5)), axis('2:4', (3, 3, 3, 8))
  (2, None)
  >>> axis('2:4', (64, 4, 16), (((64, 4, 16), 0),)), axis('2:4', (3, 8, 5), -2)
  (0, 1)
  """
  _, m = parse('', pattern)
  rank = len(shape)
  found: int | None = -2
  if isinstance(inputs, tuple) and shape in dict(inputs):
    found = dict(inputs)[shape]
  elif rank == 3:
    found = inputs if isinstance(inputs, int) else None
  if rank < 2:
    return None
  if found is not None:
    return found % rank if shape[found] % m == 0 else None
  if shape[0] % m and shape[1] % m:
    return None
  raise ValueError(
    f'the pattern {pattern} runs along the inputs of a kernel, and three axes, '
    f'here {shape}, do not tell which they are: say inputs={{{shape}: 0}} if '
    "they are (in, heads, dim), as of the query, key and value of Flax's "
    f'attention, inputs={{{shape}: 1}} if (heads, dim, out), as of its out, '
    'inputs=-2 where all of three axes are (k, in, out), convolutions over '
    'sequences; or leave the layer without a method, by where=.'
  )


def constrain(
  pattern: str | None, w: jax.Array, inputs: Inputs = None
) -> jax.Array:
  """The weights with those zeroed that the pattern excludes.

  Args:
    pattern: 'N:M'; None excludes none.
    w: a weight; one that the pattern does not fit is left as it is.
    inputs: where the inputs lie, see :func:`settle`.

  Returns:
    An array of the shape and type of ``w``.

  Raises:
    ValueError: three axes, of which ``inputs`` says nothing.

  >>> import jax.numpy as jnp
  >>> constrain('1:2', jnp.array([[1.0], [-3.0]])).tolist()
  [[0.0], [-3.0]]
  """
  along = None if pattern is None else axis(pattern, w.shape, inputs)
  if pattern is None or along is None:
    return w
  n, m = parse('', pattern)
  if along == w.ndim - 2:
    return functional.keep_largest(w, n, m)
  moved = functional.keep_largest(jnp.moveaxis(w, along, -2), n, m)
  return jnp.moveaxis(moved, -2, along)
