"""Order statistics of the magnitudes of a whole network, by counting.

Non-negative floats are ordered as their bits are, so a search over the 31
bits of a float32 finds any order statistic by counting: 31 passes that halve,
or, on one device, 11 that count for 7 thresholds at once, at the cost of
reading the weights once. Nothing is sorted, gathered or copied into one
vector; with sharded weights one scalar a pass crosses devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import functional, limbs
from str_jax.limbs import rank

_bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype='int32')
_float = functools.partial(jax.lax.bitcast_convert_type, new_dtype='float32')
_INF_BITS = 0x7F800000  # of float32 infinity, above every finite magnitude
_NEAR = 1 << 14  # in float32's steps: 0.2% to 0.4% of a magnitude
_PARTS = 8  # of a bracket, on one device


def kth_magnitude(
  weights: Any,
  k: int | jax.Array,
  *,
  uses: Sequence[int] | None = None,
  scales: Sequence[Any] | None = None,
  near: jax.Array | None = None,
  most: Sequence[int] | None = None,
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
      positive float or an array that broadcasts against the leaf; 1 by
      default, and then c is one of the magnitudes.
    near: a float32 scalar close to c, such as the last step's: within 0.2%
      it spares half of the passes, elsewhere it costs one or two more.
    most: for each leaf, how many of its weights count at most; all by default.

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
  most = _per_leaf('most', most, leaves, None)

  def reaches(c: jax.Array) -> jax.Array:
    counts = [
      n if limit is None else jnp.minimum(n, jnp.uint32(limit))
      for n, limit in zip(_counts(leaves, c[:, None], scales), most)
    ]
    return ~limbs.less(limbs.weighted_total(counts, uses), wanted)

  return _smallest(reaches, (), near)


def kth_magnitudes(
  weights: Any,
  ks: Sequence[int] | jax.Array,
  *,
  scales: Sequence[Any] | None = None,
  near: jax.Array | None = None,
) -> jax.Array:
  r"""The k-th smallest magnitude of each array by itself, exactly.

  .. math:: t_l = \min \{ t \ge 0 :
     \#\{ i : |w_{l,i}| \le t\,\sigma_l \} \ge k_l \}

  All are found in the same passes.

  Args:
    weights: a pytree of n float arrays, as in :func:`kth_magnitude`, of less
      than 2**32 weights each.
    ks: n integer ranks, one for each leaf in the order of
      ``jax.tree.leaves``; 0 gives 0.
    scales: as in :func:`kth_magnitude`.
    near: n values, as there.

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
  scales = _per_leaf('scales', scales, leaves, 1.0)

  def reaches(t: jax.Array) -> jax.Array:
    counts = jnp.stack(_counts(leaves, t, scales), axis=1)
    return counts >= wanted[None]

  return _smallest(reaches, wanted.shape, near)


def pass_size() -> int:
  """For how many thresholds a reading of the weights counts here.

  >>> pass_size() >= 1
  True
  """
  return _PARTS - 1 if jax.device_count() == 1 else 1


def _smallest(
  reaches: Callable[[jax.Array], jax.Array],
  shape: tuple[int, ...],
  near: jax.Array | None,
) -> jax.Array:
  """The smallest float32 from 0 that reaches; several a call, on axis 0."""
  parts = pass_size() + 1
  at = jnp.arange(1, parts).reshape((-1,) + (1,) * len(shape))

  def narrow(bracket: tuple[jax.Array, jax.Array]):
    low, high = bracket[0][None], bracket[1][None]
    size, rest = (high - low) // parts, (high - low) % parts
    inner = low + size * at + rest * at // parts  # so that it fits int32
    enough = reaches(_float(inner))
    low = jnp.where(enough, low, inner + 1).max(0)
    return low, jnp.where(enough, inner, high).min(0)

  low, high = jnp.zeros(shape, jnp.int32), jnp.full(shape, _INF_BITS, 'int32')
  if near is not None:
    guess = _bits(near.astype(jnp.float32))
    before = jnp.clip(guess - _NEAR, 0, _INF_BITS)
    after = jnp.clip(guess, 0, _INF_BITS - _NEAR) + _NEAR
    early, soon = reaches(_float(jnp.stack([before, after])))
    low = jnp.where(early, low, jnp.where(soon, before, after) + 1)
    high = jnp.where(early, before, jnp.where(soon, after, high))
  _, bits = jax.lax.while_loop(
    lambda bracket: jnp.any(bracket[0] < bracket[1]), narrow, (low, high)
  )
  return _float(bits)


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
  counts, _ = _around(weights, c, scales)
  return jnp.stack(counts).sum(dtype=jnp.uint32)


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
  _, above = _around(weights, c, scales)
  return _float(jnp.stack(above).min())


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
  leaves: list[jax.Array], c: jax.Array, scales: Sequence[Any]
) -> list[jax.Array]:
  """How many weights of each leaf c zeroes, by the forward's comparison.

  c has a row for each value asked about, and a column for each leaf or all.
  """
  cs = jnp.broadcast_to(c, (len(c), len(leaves)))
  counts = []
  for i, (w, scale) in enumerate(zip(leaves, scales)):
    # Else abs(w), the same in every pass, is kept: a copy of the weights.
    factor = jnp.asarray(scale, jnp.float32)
    ts = cs[:, i].reshape(-1, *(1,) * factor.ndim) * factor[None]
    w, ts = jax.lax.optimization_barrier((w, ts))
    up_to = [~functional.above(w, t) for t in ts]
    parts = [(x.astype(jnp.uint32), np.uint32(0), jax.lax.add) for x in up_to]
    counts.append(jnp.stack(_reduce(parts)))
  return counts


def _around(
  weights: Any, c: jax.Array, scales: Sequence[float] | None
) -> tuple[Sequence[jax.Array], Sequence[jax.Array]]:
  """Of each leaf, the count up to c and the bits of the next magnitude."""
  leaves = _leaves(weights)
  both = []
  for w, s in zip(leaves, _per_leaf('scales', scales, leaves, 1.0)):
    above = functional.above(w, c * np.float32(s))
    bits = _bits(jnp.abs(w).astype(jnp.float32) / np.float32(s))
    bits = jnp.where(above, bits, jnp.int32(_INF_BITS))
    count = (~above).astype(jnp.uint32), np.uint32(0), jax.lax.add
    both.append(_reduce([count, (bits, np.int32(_INF_BITS), jax.lax.min)]))
  counts, smallest = zip(*both)
  return counts, smallest


def _reduce(parts: Sequence[tuple[jax.Array, Any, Callable]]) -> list[Any]:
  """Reduces arrays of one shape, each (array, initial value, operator).

  XLA:CPU writes the operand of a reduction to memory and reads it slowly, but
  fuses one of several operands. Sharded, that one would gather its results.
  """
  arrays, initial, operators = zip(*parts)
  axes = tuple(range(arrays[0].ndim))
  if jax.default_backend() == 'cpu' and jax.device_count() == 1:
    combine = lambda x, y: tuple(f(*z) for f, *z in zip(operators, x, y))
    out = jax.lax.reduce(arrays, initial, combine, axes)
    return jax.lax.optimization_barrier(out)  # else XLA drops unused results
  return [jax.lax.reduce(x, i, f, axes) for x, i, f in parts]
