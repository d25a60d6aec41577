"""ST-3 and ST-3 sigma: one threshold over the net, straight-through gradients.

WACV 2023, arXiv 2212.01076, as in its authors' released code.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from str_jax import functional, quantile
from str_jax.methods import pruning


@dataclasses.dataclass(frozen=True)
class ST3(pruning.Ramped):
  r"""Straight-through soft thresholding at a sparsity that one asks for.

  .. math::
     q = scale \cdot S(w, t_l), \qquad t_l = c\,\sigma_l, \qquad
     \partial L / \partial w = \partial L / \partial q

  c is the quantile of :math:`|w| / \sigma_l` over all weights of the net,
  recomputed after every step at the ratio
  :math:`p = sparsity\,(1 - (1 - \tau)^3)`, with :math:`\tau` going from 0 at
  ``start_step`` to 1 at ``end_step``; up to ``start_step`` the net is dense.
  It lies between two magnitudes, as the authors' code interpolates: the zeros
  are :math:`\lfloor (N - 1) p \rfloor + 1`.

  Args:
    sparsity: final fraction of zeros, in [0, 1).
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds.
    every_steps: the sparsity changes once in so many steps, its 'step' or
      'epoch' granularity; the threshold is recomputed after every step.
    by_shape: ST-3 sigma: :math:`\sigma_l = 1 / \sqrt{\sum dims}` of the
      weight's shape, in place of 1.
    rescale: make up for the pruned magnitude, channel by channel.
    hard: keep the weights above the threshold as they are.
    budget: 'global' as in the paper, or a budget by layer, see
      :mod:`str_jax.budgets`.
    target: in place of sparsity, a fraction of zeros or a :class:`Target`,
      met to the weight: c is then the least that reaches it.
    pattern: 'N:M', see :class:`str_jax.methods.pruning.Pruning`, as is inputs.

  Raises:
    ValueError: a setting out of range, or two that exclude each other.

  >>> import jax.numpy as jnp
  >>> method = ST3(sparsity=0.5, start_step=0, end_step=1, rescale=False)
  >>> method(jnp.array([2.0, -0.25]), jnp.array([0.5])).tolist()
  [1.5, -0.0]
  """

  by_shape: bool = False
  rescale: bool = True
  hard: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.budget != 'global' and self.by_shape:
      raise ValueError(
        'ST3 shares out the zeros over the layers by a budget or by_shape, but '
        'both are set: leave budget at global, or by_shape out.'
      )

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    (t,) = leaves
    eligible = self.compared(w)
    if self.hard:
      out = functional.hard_threshold(eligible, t)
    else:
      out = functional.soft_threshold(eligible, t)
    if self.rescale:
      out = out * functional.rescale(w, functional.above(eligible, t))
    # Zero is "no threshold yet", not a threshold: the layer is dense then,
    # bit for bit.
    return functional.straight_through(w, jnp.where(t > 0, out, w))

  def scale(self, shape: tuple[int, ...]) -> float:
    r""":math:`\sigma_l` of a weight of this shape."""
    return 1 / math.sqrt(sum(shape)) if self.by_shape else 1.0

  def _factor(
    self,
    kernels: list[jax.Array],
    scales: list[float],
    step: jax.Array,
    near: jax.Array | None,
  ) -> jax.Array:
    c = self._quantile(kernels, scales, step, near)
    return jnp.where(self.portion(step) > 0, c, 0.0)

  def _quantile(
    self,
    kernels: list[jax.Array],
    scales: list[float],
    step: jax.Array,
    near: jax.Array | None,
  ) -> jax.Array:
    rank, fraction = self._position(quantile.total_count(kernels), step)
    low = quantile.kth_magnitude(kernels, rank + 1, scales=scales, near=near)
    # The neighbour above is the same magnitude where more weights are tied.
    high = jnp.where(
      quantile.count_up_to(kernels, low, scales=scales) >= rank + 2,
      low,
      quantile.next_magnitude(kernels, low, scales=scales),
    )
    return jnp.where(fraction > 0, low + fraction * (high - low), low)

  def _position(
    self, count: int, step: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Where ``(count - 1) * p`` falls: rank from 0, fraction beyond it."""
    assert self.sparsity is not None
    final = (count - 1) * self.sparsity  # on the host, as in `_rank`
    moving = (count - 1) * (self.sparsity * self.portion(step))
    ended = self.is_final(step)
    rank = jnp.where(
      ended, jnp.uint32(math.floor(final)), jnp.floor(moving).astype('uint32')
    )
    fraction = jnp.where(
      ended, jnp.float32(final % 1), moving - jnp.floor(moving)
    )
    return rank, fraction
