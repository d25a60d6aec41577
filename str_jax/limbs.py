"""Counts beyond 2**32, exactly, where jax has 32 bits.

Totals such as ResNet50's 4.1e9 multiply-adds exceed int32 and the integers of
float32, so they are kept as digits in base 2**16, lowest first.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_LIMBS = 5  # totals are exact up to 2**80


def rank(k: int | jax.Array) -> jax.Array:
  """A rank as ``quantile.kth_magnitude`` takes it, exact to any size.

  Ranks of one form can be chosen between under jit.

  Args:
    k: as it takes it; a rank is returned as it is.

  Returns:
    The digits of k in base 2**16, lowest first, uint32 of shape (5,).

  >>> rank(4_089_184_256).tolist()
  [0, 62396, 0, 0, 0]
  """
  if isinstance(k, (int, np.integer)):
    digits = [(max(int(k), 0) >> 16 * i) & 0xFFFF for i in range(_LIMBS)]
    return jnp.array(digits, jnp.uint32)
  if k.ndim:
    return k
  k = jnp.maximum(k, jnp.zeros_like(k))
  if jnp.issubdtype(k.dtype, jnp.integer):
    k = k.astype(jnp.uint32)
    low = [k & 0xFFFF, k >> 16]
  else:  # float32 has 24 bits, so that taking off digits is exact
    k, low = jnp.floor(k.astype(jnp.float32)), []
    for _ in range(_LIMBS):
      rest = jnp.floor(k / 65536)
      low.append((k - rest * 65536).astype(jnp.uint32))
      k = rest
  zero = jnp.zeros((), jnp.uint32)
  return jnp.stack(low + [zero] * (_LIMBS - len(low)))


def weighted_total(counts: list[jax.Array], uses: Sequence[int]) -> jax.Array:
  """``sum(uses * counts)``: 16-bit by 16-bit products fit uint32.

  Args:
    counts: uint32 arrays of one shape.
    uses: for each, a factor below 2**32.

  Returns:
    Its limbs, along a new first axis.
  """
  limbs = [jnp.zeros_like(counts[0])] * (_LIMBS + 1)
  for count, use in zip(counts, uses):
    for i, digit in enumerate((count & 0xFFFF, count >> 16)):
      for j, factor in enumerate((use & 0xFFFF, use >> 16)):
        if factor:
          product = digit * jnp.uint32(factor)
          limbs[i + j] = limbs[i + j] + (product & 0xFFFF)
          limbs[i + j + 1] = limbs[i + j + 1] + (product >> 16)
  carry = jnp.zeros_like(counts[0])
  for i in range(_LIMBS):
    total = limbs[i] + carry
    limbs[i], carry = total & 0xFFFF, total >> 16
  return jnp.stack(limbs[:_LIMBS])


def less(a: jax.Array, b: jax.Array) -> jax.Array:
  """``a < b`` for numbers whose limbs stand along the first axis."""
  result = jnp.bool_(False)
  for i in range(_LIMBS):  # the highest digit that differs decides, so last
    result = jnp.where(a[i] == b[i], result, a[i] < b[i])
  return result
