"""ST-3 and ST-3 sigma: one threshold over the net, straight-through gradients.

WACV 2023, arXiv 2212.01076, as in its authors' released code.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from str_jax import functional, quantile
from str_jax.methods import base


@dataclasses.dataclass(frozen=True)
class ST3(base.Method):
  r"""Straight-through soft thresholding at a sparsity that one asks for.

  .. math::
     q = scale \cdot S(w, t_l), \qquad t_l = c\,\sigma_l, \qquad
     \partial L / \partial w = \partial L / \partial q

  c is the quantile of :math:`|w| / \sigma_l` over all weights of the net,
  recomputed after every step at the ratio
  :math:`p = sparsity\,(1 - (1 - \tau)^3)`, with :math:`\tau` going from 0 at
  ``start_step`` to 1 at ``end_step``; up to ``start_step`` the net is dense.

  Args:
    sparsity: final fraction of zeros, in [0, 1).
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds.
    by_shape: ST-3 sigma: :math:`\sigma_l = 1 / \sqrt{\sum dims}` of the
      weight's shape, in place of 1.
    rescale: make up for the pruned magnitude, channel by channel.
    hard: keep the weights above the threshold as they are.

  Raises:
    ValueError: sparsity outside [0, 1), or end_step not after start_step.

  >>> import jax.numpy as jnp
  >>> method = ST3(sparsity=0.5, start_step=0, end_step=1, rescale=False)
  >>> method(jnp.array([2.0, -0.25]), jnp.array([0.5])).tolist()
  [1.5, -0.0]
  """

  sparsity: float
  start_step: int = 0
  end_step: int = 1
  by_shape: bool = False
  rescale: bool = True
  hard: bool = False

  def __post_init__(self) -> None:
    if not 0 <= self.sparsity < 1:
      raise ValueError(
        'ST3 needs a sparsity (fraction of zeros) in [0, 1), got '
        f'{self.sparsity}; 90% is 0.9.'
      )
    if not 0 <= self.start_step < self.end_step:
      raise ValueError(
        'ST3 needs 0 <= start_step < end_step, got '
        f'start_step={self.start_step} and end_step={self.end_step}.'
      )

  def init_computed(self, w: jax.Array) -> jax.Array:
    return jnp.zeros((1,) * w.ndim, jnp.float32)

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    (t,) = leaves
    if self.hard:
      out = functional.hard_threshold(w, t)
    else:
      out = functional.soft_threshold(w, t)
    if self.rescale:
      out = out * functional.rescale(w, functional.above(w, t))
    # Zero is "no threshold yet", not a threshold: the layer is dense then,
    # bit for bit.
    return functional.straight_through(w, jnp.where(t > 0, out, w))

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del w
    return leaves[0]

  def scale(self, shape: tuple[int, ...]) -> float:
    r""":math:`\sigma_l` of a weight of this shape."""
    return 1 / math.sqrt(sum(shape)) if self.by_shape else 1.0

  def ratio(self, step: jax.Array) -> jax.Array:
    """The fraction of zeros after ``step`` updates, a float32 scalar."""
    progress = (step - self.start_step) / (self.end_step - self.start_step)
    left = 1 - jnp.clip(progress.astype(jnp.float32), 0, 1)
    return self.sparsity * (1 - left**3)

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, base.Leaves],
    step: jax.Array,
  ) -> Mapping[str, jax.Array]:
    kernels = list(weights.values())
    scales = [self.scale(w.shape) for w in kernels]
    rank, fraction = self._position(quantile.total_count(kernels), step)
    low = quantile.kth_magnitude(kernels, rank + 1, scales=scales)
    # The neighbour above is the same magnitude where more weights are tied.
    high = jnp.where(
      quantile.count_up_to(kernels, low, scales=scales) >= rank + 2,
      low,
      quantile.next_magnitude(kernels, low, scales=scales),
    )
    c = jnp.where(fraction > 0, low + fraction * (high - low), low)
    c = jnp.where(step > self.start_step, c, 0.0)
    return {
      path: jnp.full((1,) * w.ndim, c * jnp.float32(scale), jnp.float32)
      for (path, w), scale in zip(weights.items(), scales)
    }

  def _position(
    self, count: int, step: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Where ``(count - 1) * ratio`` falls: rank from 0, fraction beyond it.

    The final position is computed on the host: float32 cannot hold it for
    more than 16 million weights. On the ramp it may be off by a weight or
    two.
    """
    final = (count - 1) * self.sparsity
    moving = (count - 1) * self.ratio(step)
    ended = step >= self.end_step
    rank = jnp.where(
      ended, jnp.uint32(math.floor(final)), jnp.floor(moving).astype('uint32')
    )
    fraction = jnp.where(
      ended, jnp.float32(final % 1), moving - jnp.floor(moving)
    )
    return rank, fraction

  @property
  def settled_step(self) -> int:
    return self.end_step
