"""What the methods share whose sparsity is asked for: budgets and the ramp."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from str_jax import budgets, quantile
from str_jax.methods import base
from str_jax.paths import KERNEL

Shares = tuple[tuple[str, float], ...]
_SPREADS = ('global', 'uniform', 'erk')  # of a sparsity over the layers


@dataclasses.dataclass(frozen=True)
class Pruning(base.Method):
  r"""Thresholds that zero a given number of the smallest magnitudes.

  .. math:: t = \min \{ t \ge 0 : \#\{ i : |w_i| \le t \} \ge p N \}

  over all weights of the net together or, with a budget, layer by layer:
  exactly :math:`\lceil p_l N_l \rceil` zeros in a layer, but for weights that
  are tied at the threshold.

  Args:
    sparsity: final fraction of zeros, in [0, 1); not needed with a budget
      that says it for every layer, which takes its place.
    budget: 'global', one threshold for the net; a budget by layer that
      :mod:`str_jax.budgets` knows by name, 'uniform', 'erk' or a published
      one; or the fraction of zeros of every layer by its path, a mapping or
      pairs.

  Raises:
    ValueError: a sparsity outside [0, 1), or an unknown budget.
  """

  sparsity: float | None = None
  budget: str | Shares | Mapping[str, float] = dataclasses.field(
    default='global', kw_only=True
  )

  def __post_init__(self) -> None:
    name = type(self).__name__
    if self.budget not in _SPREADS:  # then it says what is zero, to the layer
      object.__setattr__(self, 'budget', _shares(name, self.budget))
      object.__setattr__(self, 'sparsity', None)
    elif self.sparsity is None:
      raise ValueError(
        f'{name} needs sparsity, the fraction of zeros in [0, 1), or a budget '
        'that says it for every layer.'
      )
    if self.sparsity is not None and not 0 <= self.sparsity < 1:
      raise ValueError(
        f'{name} needs a sparsity (fraction of zeros) in [0, 1), got '
        f'{self.sparsity}; 90% is 0.9.'
      )

  def init_computed(self, w: jax.Array) -> jax.Array:
    return jnp.zeros((1,) * w.ndim, jnp.float32)

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del w
    return leaves[0]

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, base.Leaves],
    step: jax.Array,
  ) -> Mapping[str, jax.Array]:
    last = [leaves[path][-1].ravel()[0] for path in weights if leaves.get(path)]
    near = jnp.stack(last) if last else None  # where to look first
    if self.budget == 'global':
      thresholds = self._global_thresholds(weights, step, near)
    else:
      thresholds = list(self._layer_thresholds(weights, step, near))
    return {
      path: jnp.full((1,) * w.ndim, t, jnp.float32)
      for (path, w), t in zip(weights.items(), thresholds, strict=True)
    }

  def portion(self, step: jax.Array) -> jax.Array:
    """The part of the final sparsity that holds after ``step`` updates."""
    return jnp.ones_like(step, jnp.float32)

  def is_final(self, step: jax.Array) -> jax.Array:
    """Whether the final sparsity holds after ``step`` updates."""
    return jnp.ones_like(step, bool)

  def _global_thresholds(
    self,
    weights: Mapping[str, jax.Array],
    step: jax.Array,
    near: jax.Array | None,
  ) -> list[jax.Array]:
    """One threshold for the net, as a scalar for each weight."""
    kernels = list(weights.values())
    k = self._rank(quantile.total_count(kernels), step)
    near = None if near is None else near[0]
    return [quantile.kth_magnitude(kernels, k, near=near)] * len(kernels)

  def _rank(self, count: int, step: jax.Array) -> jax.Array:
    """How many of ``count`` are to be zero.

    The final number is computed on the host: float32 cannot hold it for more
    than 16 million weights. On the ramp it may be off by a weight or two.
    """
    assert self.sparsity is not None
    moving = jnp.floor(self.sparsity * count * self.portion(step))
    final = zeros(self.sparsity, count)
    return jnp.where(
      self.is_final(step), quantile.rank(final), quantile.rank(moving)
    )

  def _layer_thresholds(
    self,
    weights: Mapping[str, jax.Array],
    step: jax.Array,
    near: jax.Array | None,
  ) -> jax.Array:
    """A threshold for each weight."""
    sizes = {layer_name(path): w.size for path, w in weights.items()}
    shapes = {layer_name(path): w.shape for path, w in weights.items()}
    wanted = self.budget
    if not isinstance(wanted, str):
      wanted = dict(wanted)
    shares = budgets.resolve(wanted, shapes, self.sparsity)
    final = jnp.array([zeros(shares[k], n) for k, n in sizes.items()])
    moving = jnp.floor(final.astype(jnp.float32) * self.portion(step))
    ks = jnp.where(self.is_final(step), final, moving.astype(final.dtype))
    return quantile.kth_magnitudes(list(weights.values()), ks, near=near)


@dataclasses.dataclass(frozen=True)
class Ramped(Pruning):
  r"""Pruning whose sparsity rises from zero, fast at first.

  .. math:: p = sparsity\,(1 - (1 - \tau)^3)

  with :math:`\tau` going from 0 at ``start_step`` to 1 at ``end_step``; up to
  ``start_step`` the net is dense.

  Args:
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds.
    every_steps: p changes once in so many steps; the steps of an epoch, for
      a value held per epoch.

  Raises:
    ValueError: end_step not after start_step, every_steps less than 1.
  """

  start_step: int = 0
  end_step: int = 1
  every_steps: int = dataclasses.field(default=1, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    name = type(self).__name__
    if not 0 <= self.start_step < self.end_step:
      raise ValueError(
        f'{name} needs 0 <= start_step < end_step, got '
        f'start_step={self.start_step} and end_step={self.end_step}.'
      )
    if self.every_steps < 1:
      raise ValueError(
        f'{name} needs every_steps of 1 or more, got {self.every_steps}.'
      )

  def portion(self, step: jax.Array) -> jax.Array:
    held = step // self.every_steps * self.every_steps
    progress = (held - self.start_step) / (self.end_step - self.start_step)
    left = 1 - jnp.clip(progress.astype(jnp.float32), 0, 1)
    return 1 - left**3

  def is_final(self, step: jax.Array) -> jax.Array:
    return step >= self.settled_step

  @property
  def settled_step(self) -> int:
    return math.ceil(self.end_step / self.every_steps) * self.every_steps


def _shares(name: str, budget: str | Shares | Mapping[str, float]) -> Shares:
  """A budget in one form, so that equal settings hash equal."""
  if isinstance(budget, str):
    known = (*_SPREADS, *budgets.published())
    if budget not in known:
      raise ValueError(
        f'{name} needs budget to be one of {", ".join(known)}, or a fraction '
        f'of zeros for each layer, got {budget!r}.'
      )
    budget = budgets.load_published(budget)
  return tuple(sorted(dict(budget).items()))


def zeros(share: float, count: int) -> int:
  """The least number of zeros that makes up a share of ``count``.

  A product such as 0.07 * 100 = 7.000000000000001 is not to cost a weight.

  >>> zeros(0.07, 100), zeros(0.9, 25_502_912)
  (7, 22952621)
  """
  return math.ceil(round(share * count, 6))


def layer_name(path: str) -> str:
  """The name that reports give the layer of a weight, from its path.

  >>> layer_name('block/conv/kernel'), layer_name('layers/0')
  ('block/conv', 'layers/0')
  """
  layer, _, leaf = path.rpartition('/')
  return layer if leaf == KERNEL else path
