"""N:M patterns: of every M consecutive inputs at most N weights stay."""

from __future__ import annotations

import re

import jax
import numpy as np

from str_jax import functional

# Zeroes no weight: it says that a pattern holds and its threshold is zero yet.
LEAST = float(np.finfo(np.float32).tiny)


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


def fits(pattern: str, w: jax.Array) -> bool:
  """Whether a weight has inputs that the pattern divides into groups.

  Args:
    pattern: 'N:M'.
    w: a weight; its last axis but one holds the inputs.

  Returns:
    Not so for vectors, depthwise kernels and a first layer of 3 colours.

  >>> import jax.numpy as jnp
  >>> fits('2:4', jnp.zeros((3, 3, 8, 5))), fits('2:4', jnp.zeros((3, 3, 3, 8)))
  (True, False)
  """
  _, m = parse('', pattern)
  return w.ndim > 1 and w.shape[-2] % m == 0


def constrain(pattern: str | None, w: jax.Array) -> jax.Array:
  """The weights with those zeroed that the pattern excludes.

  Args:
    pattern: 'N:M'; None excludes none.
    w: a weight; one that the pattern does not fit is left as it is.

  Returns:
    An array of the shape and type of ``w``.

  >>> import jax.numpy as jnp
  >>> constrain('1:2', jnp.array([[1.0], [-3.0]])).tolist()
  [[0.0], [-3.0]]
  """
  if pattern is None or not fits(pattern, w):
    return w
  return functional.keep_largest(w, *parse('', pattern))
