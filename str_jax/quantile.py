"""Order statistics of the magnitudes of a whole network, by counting.

Non-negative floats are ordered as their bits are, so a binary search over the
31 bits of a float32 finds any order statistic with at most 31 passes that
count. Nothing is sorted, gathered or copied into one vector; with sharded
weights one scalar a pass crosses devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import functional

_INF_BITS = 0x7F800000  # of float32 infinity, above every finite magnitude
_NEAR = 1 << 14  # in float32's steps: 0.2% to 0.4% of a magnitude
_LIMBS = 5  # totals are exact up to 2**80, in base 2**16


def kth_magnitude(
  weights: Any,
  k: int | jax.Array,
  *,
  uses: Sequence[int] | None = None,
  scales: Sequence[float] | None = None,
  near: jax.Array | None = None,
) -> jax.Array:
  r"""The k-th smallest magnitude of all weights together, exactly.

  .. math:: c = \min \{ c \ge 0 :
     \sum_l u_l \, \#\{ i : |w_{l,i}| \le c \, \sigma_l \} \ge k \}

  Args:
    weights: a pytree of float arrays of any shapes, float32, bfloat16 or
      float16, sharded or not.
    k: rank from 1 to the number of weights (of uses, where given); 0 or less
      gives 0. A Python int is exact to any size, and so is a :func:`rank`; a
      traced integer up to 2**31 - 1; a traced float to float32's precision.
    uses: for each leaf, in the order of ``jax.tree.leaves``, how often each
      of its weights counts (its multiply-adds, say); 1 by default.
    scales: for each leaf, the factor its own threshold has over c, a
      positive float; 1 by default, and then c is one of the magnitudes.
    near: a float32 scalar close to c, such as the last step's: within 0.2%
      it spares half of the passes, elsewhere it costs two more.

  Returns:
    c, a float32 scalar; infinity when k exceeds the total.

  Raises:
    ValueError: no weights, or uses or scales of another length.

  >>> import jax.numpy as jnp
  >>> weights = {'a': jnp.array([[0.5, -3.0]]), 'b': jnp.array([-2.0, 1.0])}
  >>> float(kth_magnitude(weights, 3))
  2.0
  >>> float(kth_magnitude(weights, 3, uses=(2, 1)))
  1.0
  """
  leaves = _leaves(weights)
  uses = _per_leaf('uses', uses, leaves, 1)
  scales = _per_leaf('scales', scales, leaves, 1.0)
  wanted = rank(k)

  def reaches(c: jax.Array) -> jax.Array:
    return ~_less(_weighted_total(_counts(leaves, c, scales), uses), wanted)

  return _smallest(reaches, (), near)


def kth_magnitudes(
  weights: Any,
  ks: Sequence[int] | jax.Array,
  *,
  near: jax.Array | None = None,
) -> jax.Array:
  r"""The k-th smallest magnitude of each array by itself, exactly.

  .. math:: t_l = \min \{ t \ge 0 : \#\{ i : |w_{l,i}| \le t \} \ge k_l \}

  All are found in the same 31 passes.

  Args:
    weights: a pytree of n float arrays, as in :func:`kth_magnitude`, of less
      than 2**32 weights each.
    ks: n integer ranks, one for each leaf in the order of
      ``jax.tree.leaves``; 0 gives 0.
    near: n values, as in :func:`kth_magnitude`.

  Returns:
    The magnitudes, float32 of shape (n,); infinity where k exceeds the size.

  Raises:
    ValueError: no weights, or ks of another length.

  >>> import jax.numpy as jnp
  >>> weights = [jnp.array([0.5, -3.0]), jnp.array([-2.0, 1.0])]
  >>> kth_magnitudes(weights, [2, 1]).tolist()
  [3.0, 1.0]
  """
  leaves = _leaves(weights)
  wanted = jnp.asarray(_per_leaf('ks', ks, leaves, 0), jnp.uint32)

  def reaches(t: jax.Array) -> jax.Array:
    return jnp.stack(_counts(leaves, t, (1.0,) * len(leaves))) >= wanted

  return _smallest(reaches, wanted.shape, near)


def _smallest(
  reaches: Callable[[jax.Array], jax.Array],
  shape: tuple[int, ...],
  near: jax.Array | None,
) -> jax.Array:
  """The smallest non-negative float32 that reaches, for each element."""

  def to_float(bits: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)

  def halve(bracket: tuple[jax.Array, jax.Array]):
    low, high = bracket
    middle = low + (high - low) // 2
    enough = reaches(to_float(middle))
    return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

  low, high = jnp.zeros(shape, jnp.int32), jnp.full(shape, _INF_BITS, 'int32')
  if near is not None:
    guess = jax.lax.bitcast_convert_type(near.astype(jnp.float32), jnp.int32)
    before = jnp.clip(guess - _NEAR, 0, _INF_BITS)
    after = jnp.clip(guess, 0, _INF_BITS - _NEAR) + _NEAR
    early, late = reaches(to_float(before)), ~reaches(to_float(after))
    low = jnp.where(early, low, jnp.where(late, after, before) + 1)
    high = jnp.where(early, before, jnp.where(late, high, after))
  _, bits = jax.lax.while_loop(
    lambda bracket: jnp.any(bracket[0] < bracket[1]), halve, (low, high)
  )
  return to_float(bits)


def count_up_to(
  weights: Any, c: jax.Array, *, scales: Sequence[float] | None = None
) -> jax.Array:
  r"""How many weights a threshold c zeroes.

  .. math:: \sum_l \#\{ i : |w_{l,i}| \le c \, \sigma_l \}

  Args:
    weights: a pytree of float arrays, less than 2**32 weights in all.
    c: a float32 scalar.
    scales: as in :func:`kth_magnitude`.

  Returns:
    A uint32 scalar.

  >>> import jax.numpy as jnp
  >>> int(count_up_to([jnp.array([1.0, -2.0, 4.0])], jnp.float32(2.0)))
  2
  """
  leaves = _leaves(weights)
  scales = _per_leaf('scales', scales, leaves, 1.0)
  return jnp.stack(_counts(leaves, c, scales)).sum(dtype=jnp.uint32)


def next_magnitude(
  weights: Any, c: jax.Array, *, scales: Sequence[float] | None = None
) -> jax.Array:
  r"""The smallest magnitude above c, in units of each leaf's scale.

  .. math:: \min \{ |w_{l,i}| / \sigma_l : |w_{l,i}| > c \, \sigma_l \}

  Args:
    weights: a pytree of float arrays.
    c: a float32 scalar.
    scales: as in :func:`kth_magnitude`.

  Returns:
    A float32 scalar, infinity when no weight is above.

  >>> import jax.numpy as jnp
  >>> float(next_magnitude([jnp.array([1.0, -2.0, 4.0])], jnp.float32(1.0)))
  2.0
  """
  leaves = _leaves(weights)
  scales = _per_leaf('scales', scales, leaves, 1.0)

  def smallest(w: jax.Array, scale: float) -> jax.Array:
    magnitude = jnp.abs(w).astype(jnp.float32) / np.float32(scale)
    above = functional.above(w, c * np.float32(scale))
    return jnp.min(jnp.where(above, magnitude, jnp.float32(np.inf)))

  return jnp.stack([smallest(w, s) for w, s in zip(leaves, scales)]).min()


def total_count(weights: Any, uses: Sequence[int] | None = None) -> int:
  """The number of weights, or of their uses, as an exact Python int.

  Args:
    weights: a pytree of arrays or shapes.
    uses: as in :func:`kth_magnitude`.

  Returns:
    ``sum(uses * size)`` over the leaves.

  >>> import jax.numpy as jnp
  >>> total_count([jnp.zeros((2, 3)), jnp.zeros(4)], uses=(10, 1))
  64
  """
  leaves = _leaves(weights)
  uses = _per_leaf('uses', uses, leaves, 1)
  return sum(u * w.size for w, u in zip(leaves, uses))


def _leaves(weights: Any) -> list[jax.Array]:
  leaves = jax.tree.leaves(weights)
  if not any(w.size for w in leaves):
    raise ValueError(
      'the magnitudes of at least one weight are needed, but the tree of '
      'weights is empty: pass the kernels of the network.'
    )
  return leaves


def _per_leaf(name: str, values: Any, leaves: list, default: Any) -> Sequence:
  if values is None:
    return (default,) * len(leaves)
  if len(values) != len(leaves):
    raise ValueError(
      f'{name} needs one number for each of the {len(leaves)} weight arrays, '
      f'got {len(values)}.'
    )
  return values


def _counts(
  leaves: list[jax.Array], c: jax.Array, scales: Sequence[float]
) -> list[jax.Array]:
  """How many weights of each leaf c zeroes, by the forward's comparison.

  c is one number, or one for each leaf.
  """
  cs = jnp.broadcast_to(c, (len(leaves),))
  return [
    jnp.sum(~functional.above(w, cs[i] * np.float32(s)), dtype=jnp.uint32)
    for i, (w, s) in enumerate(zip(leaves, scales))
  ]


# Totals such as ResNet50's 4.1e9 multiply-adds exceed int32 and the integers
# of float32, so they are kept as base-2**16 digits, lowest first.


def rank(k: int | jax.Array) -> jax.Array:
  """A rank as :func:`kth_magnitude` takes it, exact to any size.

  Ranks of one form can be chosen between under jit.

  Args:
    k: as in :func:`kth_magnitude`; a rank is returned as it is.

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


def _weighted_total(counts: list[jax.Array], uses: Sequence[int]) -> jax.Array:
  """``sum(uses * counts)`` in limbs: 16-bit by 16-bit products fit uint32."""
  limbs = [jnp.uint32(0)] * (_LIMBS + 1)
  for count, use in zip(counts, uses):
    for i, digit in enumerate((count & 0xFFFF, count >> 16)):
      for j, factor in enumerate((use & 0xFFFF, use >> 16)):
        if factor:
          product = digit * jnp.uint32(factor)
          limbs[i + j] = limbs[i + j] + (product & 0xFFFF)
          limbs[i + j + 1] = limbs[i + j + 1] + (product >> 16)
  carry = jnp.uint32(0)
  for i in range(_LIMBS):
    total = limbs[i] + carry
    limbs[i], carry = total & 0xFFFF, total >> 16
  return jnp.stack(limbs[:_LIMBS])


def _less(a: jax.Array, b: jax.Array) -> jax.Array:
  """``a < b`` for numbers in limbs."""
  result = jnp.bool_(False)
  for i in range(_LIMBS):  # the highest digit that differs decides, so last
    result = jnp.where(a[i] == b[i], result, a[i] < b[i])
  return result
