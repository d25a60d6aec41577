"""Thresholding operators: pure functions of a weight and a threshold.

Every operator works on arrays of any shape; the threshold broadcasts against
the weight. Arithmetic is done in float32 at least and the result has the
weight's type, so that a float32 threshold serves bfloat16 weights.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def at_least_float32(dtype: Any) -> jnp.dtype:
  """The type in which thresholds are kept and compared, for a weight's type.

  >>> import jax.numpy as jnp
  >>> at_least_float32(jnp.bfloat16) == jnp.float32
  True
  """
  with jax.numpy_dtype_promotion('standard'):
    return jnp.promote_types(dtype, jnp.float32)


def _widen(w: jax.Array, threshold: ArrayLike) -> tuple[jax.Array, jax.Array]:
  """Both operands in one type (explicit: promotion may be strict)."""
  dtype = at_least_float32(w.dtype)
  threshold = jnp.asarray(threshold)
  return w.astype(dtype), threshold.astype(dtype)


def soft_threshold(w: jax.Array, threshold: ArrayLike) -> jax.Array:
  r"""Shrinks every weight towards zero by the threshold.

  .. math:: S(w, t) = \mathrm{sign}(w)\,\max(|w| - t, 0)

  The gradient to w is :math:`1\{S \ne 0\}`, the gradient to t is
  :math:`-\mathrm{sign}(w)\,1\{S \ne 0\}`; at :math:`|w| = t` both are zero.

  Args:
    w: weights, any shape, a float type.
    threshold: non-negative, broadcasts against ``w``.

  Returns:
    The thresholded weights, of the shape and type of ``w``.

  STR (ICML 2020), equation 1.

  >>> import jax.numpy as jnp
  >>> soft_threshold(jnp.array([-2.0, -0.5, 0.0, 3.0]), 1.0).tolist()
  [-1.0, -0.0, 0.0, 2.0]
  """
  wide, threshold = _widen(w, threshold)
  out = jnp.sign(wide) * jax.nn.relu(jnp.abs(wide) - threshold)
  return out.astype(w.dtype)


def hard_threshold(w: jax.Array, threshold: ArrayLike) -> jax.Array:
  r"""Keeps the weights above the threshold as they are, zeroes the others.

  .. math:: H(w, t) = w \cdot 1\{|w| > t\}

  The gradient to w is the mask :math:`1\{|w| > t\}`; t gets none.

  Args:
    w: weights, any shape, a float type.
    threshold: non-negative, broadcasts against ``w``.

  Returns:
    The thresholded weights, of the shape and type of ``w``.

  The hard variant of ST-3 (WACV 2023).

  >>> import jax.numpy as jnp
  >>> hard_threshold(jnp.array([-2.0, -0.5, 3.0]), 1.0).tolist()
  [-2.0, 0.0, 3.0]
  """
  return jnp.where(above(w, threshold), w, jnp.zeros_like(w))


def cubic_threshold(w: jax.Array, threshold: ArrayLike) -> jax.Array:
  r"""Shrinks weights near the threshold most, those far above it hardly.

  .. math:: C(w, t) = \mathrm{sign}(w)\,(|w|^3 - t^3)^{1/3}\,1\{|w| > t\}

  The gradient grows without bound towards :math:`|w| = t`: it is meant for
  :func:`straight_through`.

  Args:
    w: weights, any shape, a float type.
    threshold: non-negative, broadcasts against ``w``.

  Returns:
    The thresholded weights, of the shape and type of ``w``.

  Feather (BMVC 2023), its family of operators with power 3.

  >>> import jax.numpy as jnp
  >>> cubic_threshold(jnp.array([-1.0, 0.5, 9.0]), 1.0).round(3).tolist()
  [0.0, 0.0, 8.996000289916992]
  """
  wide, threshold = _widen(w, threshold)
  magnitude = jnp.abs(wide)
  keep = magnitude > threshold
  # |w| (1 - r)^(1/3) (1 + r + r^2)^(1/3) with r = t / |w|: a cube of a small
  # weight would underflow, and 1 - r is not zero for any weight above t.
  safe = jnp.where(keep, magnitude, jnp.ones_like(magnitude))
  r = threshold / safe
  shrunk = magnitude * jnp.cbrt((safe - threshold) / safe * (1 + r + r * r))
  out = jnp.where(keep, jnp.sign(wide) * shrunk, jnp.zeros_like(wide))
  return out.astype(w.dtype)


def above(w: jax.Array, threshold: ArrayLike) -> jax.Array:
  """Mask of the weights that a threshold keeps: ``abs(w) > threshold``.

  Args:
    w: weights, any shape, a float type.
    threshold: non-negative, broadcasts against ``w``.

  Returns:
    A boolean array of the shape of ``w``.

  >>> import jax.numpy as jnp
  >>> above(jnp.array([-2.0, 1.0, 0.5]), 1.0).tolist()
  [True, False, False]
  """
  wide, threshold = _widen(w, threshold)
  return jnp.abs(wide) > threshold


def norm(w: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  r"""The Euclidean norm of each group of weights.

  .. math:: \|w_f\| = \sqrt{\sum_{i \in f} w_i^2}

  The gradient at a group of zeros is zero.

  Args:
    w: weights, any shape, a float type.
    axes: those that a group extends over; none makes each weight a group.

  Returns:
    The norms, float32 at least, of the shape of ``w`` with these axes of
    length 1.

  >>> import jax.numpy as jnp
  >>> norm(jnp.array([[3.0, 0.0], [-4.0, 2.0]]), (0,)).tolist()
  [[5.0, 2.0]]
  """
  wide = w.astype(at_least_float32(w.dtype))
  if not axes:
    return jnp.abs(wide)
  square = jnp.sum(wide * wide, axes, keepdims=True)
  some = square > 0
  root = jnp.sqrt(jnp.where(some, square, jnp.ones_like(square)))
  return jnp.where(some, root, jnp.zeros_like(root))


def group_threshold(
  w: jax.Array, threshold: ArrayLike, norms: jax.Array
) -> jax.Array:
  r"""Shrinks every group of weights, by the threshold's share of its norm.

  .. math:: G(w_f, t) = w_f \max(1 - t / n_f, 0)

  With :math:`n_f = \|w_f\|` the gradient to a group that is left is
  :math:`(1 - t/n_f)\,u + t\,w_f \langle w_f, u\rangle / n_f^3`, u the
  gradient to G, and that to t is :math:`-\langle w_f, u\rangle / n_f`; of a
  group that is not left both are zero.

  Args:
    w: weights, any shape, a float type.
    threshold: non-negative, broadcasts against ``norms``.
    norms: of the groups, see :func:`norm`; broadcast against ``w``, and pass
      the gradient on.

  Returns:
    The thresholded weights, of the shape and type of ``w``.

  STR (ICML 2020), equation 1, of a group in place of a weight.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3.0, 0.6], [-4.0, 0.8]])
  >>> group_threshold(w, 2.5, norm(w, (0,))).tolist()
  [[1.5, 0.0], [-2.0, 0.0]]
  """
  norms, threshold = _widen(norms, threshold)
  keep = norms > threshold
  safe = jnp.where(keep, norms, jnp.ones_like(norms))
  wide = w.astype(norms.dtype) * ((safe - threshold) / safe)
  return jnp.where(keep, wide, jnp.zeros_like(wide)).astype(w.dtype)


def keep_largest(w: jax.Array, n: int, m: int) -> jax.Array:
  r"""Zeroes all but the n largest of every m consecutive inputs.

  Inputs lie on the last axis but one, as those of Flax's kernels; of equal
  magnitudes the first is kept. The gradient reaches what is kept.

  Args:
    w: weights (..., in, out), a float type, with in a multiple of m.
    n: how many stay.
    m: of how many.

  Returns:
    The weights, of the shape and type of ``w``.

  Zhou et al., ICLR 2021, arXiv 2102.04010: N:M sparsity.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[1.0], [-3.0], [2.0], [2.0]])
  >>> keep_largest(w, 2, 4).ravel().tolist()
  [0.0, -3.0, 2.0, 0.0]
  """
  *front, inputs, outputs = w.shape
  groups = w.reshape(*front, inputs // m, m, outputs)
  magnitude = jnp.abs(groups)
  place = jnp.arange(m).reshape(*(1,) * len(front), 1, m, 1)
  larger = jnp.zeros(groups.shape, jnp.int32)
  for i in range(m):
    other = magnitude[..., i : i + 1, :]
    first = (other == magnitude) & (i < place)
    larger += ((other > magnitude) | first).astype(jnp.int32)
  kept = jnp.where(larger < n, groups, jnp.zeros_like(groups))
  return kept.reshape(w.shape)


@jax.custom_jvp
def straight_through(w: jax.Array, out: jax.Array) -> jax.Array:
  r"""The value of ``out`` with the gradient of ``w``.

  .. math:: y = out, \qquad \partial y / \partial w = 1

  Unlike ``w + stop_gradient(out - w)`` the value is exactly ``out``: zeros
  stay zeros.

  Args:
    w: the array that receives the gradient.
    out: the value to return, of the shape of ``w``; receives no gradient.

  Returns:
    ``out``.

  ST-3 (WACV 2023): the backward pass of every layer.

  >>> import jax
  >>> w = jax.numpy.array([0.1, 2.0])
  >>> jax.grad(lambda w: straight_through(w, 0 * w).sum())(w).tolist()
  [1.0, 1.0]
  """
  del w
  return out


straight_through.defjvp(
  lambda primals, tangents: (primals[1], tangents[0].astype(primals[1].dtype))
)


def rescale(w: jax.Array, mask: jax.Array) -> jax.Array:
  r"""Factor a channel that makes up for the magnitude pruned away from it.

  .. math::
     r = \frac{\overline{|w| m} + 10^{-6}}{\overline{|w|} + 10^{-6}}, \qquad
     scale = \frac{1.01}{r + 0.01}

  with means over all axes but the last, the output channels.

  Args:
    w: raw weights, output channels on the last axis.
    mask: the kept weights, boolean, of the shape of ``w``.

  Returns:
    The factors, of the shape of ``w`` with every axis but the last of
    length 1, between 1 (nothing pruned) and 101.

  ST-3 (WACV 2023), its released code.

  >>> import jax.numpy as jnp
  >>> w = jnp.array([[3.0, 1.0], [1.0, 1.0]])
  >>> rescale(w, jnp.array([[True, True], [False, True]])).shape
  (1, 2)
  """
  axes = tuple(range(w.ndim - 1))
  magnitude = jnp.abs(w).astype(at_least_float32(w.dtype))
  kept = jnp.where(mask, magnitude, jnp.zeros_like(magnitude))
  ratio = (kept.mean(axes, keepdims=True) + 1e-6) / (
    magnitude.mean(axes, keepdims=True) + 1e-6
  )
  return (1.01 / (ratio + 0.01)).astype(w.dtype)
