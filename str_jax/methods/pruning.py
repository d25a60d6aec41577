"""What the methods share whose sparsity is asked for: budgets and the ramp."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import budgets, quantile
from str_jax.methods import base, patterns, ramp
from str_jax.methods.target import Target
from str_jax.paths import layer_name

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
    target: in place of sparsity, the fraction of zeros over all layers, dense
      ones too, or a :class:`Target`; with the budget 'global'.
    pattern: 'N:M', such as '2:4': of every M consecutive inputs of a kernel
      (its last axis but one) only the N largest weights may stay, from the
      first zeros on. They are zeroed before any other, so that a sparsity below
      that of the pattern is met by the pattern alone, and any above it to the
      weight. Weights whose inputs M does not divide have no pattern.
    inputs: for a pattern, the axis of the inputs where the shape of a kernel
      does not tell it: -2 if all kernels of three axes are convolutions over
      sequences, (k, in, out); else an axis by shape, a mapping or pairs, as
      ``{(64, 4, 16): 0, (4, 16, 64): 1}`` for Flax's attention, whose query,
      key and value are (in, heads, dim) and whose out is (heads, dim, out).

  Raises:
    ValueError: a sparsity outside [0, 1), an unknown budget or pattern, inputs
      without a pattern, or a target beside a sparsity or a budget.
  """

  sparsity: float | None = None
  budget: str | Shares | Mapping[str, float] = dataclasses.field(
    default='global', kw_only=True
  )
  target: Target | float | None = dataclasses.field(default=None, kw_only=True)
  pattern: str | None = dataclasses.field(default=None, kw_only=True)
  inputs: patterns.Inputs | Mapping[patterns.Shape, int] = dataclasses.field(
    default=None, kw_only=True
  )

  def __post_init__(self) -> None:
    super().__post_init__()
    name = type(self).__name__
    if self.pattern is not None:
      patterns.parse(name, self.pattern)
    elif self.inputs is not None:
      raise ValueError(
        f'{name} needs inputs for a pattern alone: set pattern too, or leave '
        'inputs out.'
      )
    object.__setattr__(self, 'inputs', patterns.settle(name, self.inputs))
    if self.target is not None and not isinstance(self.target, Target):
      object.__setattr__(self, 'target', Target(self.target))
    if self.target is not None:
      if self.sparsity is not None or self.budget != 'global':
        raise ValueError(
          f'{name} needs target alone, over the whole net: leave sparsity out '
          f"and set budget to 'global', got sparsity={self.sparsity} and "
          f'budget={self.budget!r}.'
        )
    elif self.budget not in _SPREADS:  # then it says what is zero, to the layer
      object.__setattr__(self, 'budget', _shares(name, self.budget))
      object.__setattr__(self, 'sparsity', None)
    elif self.sparsity is None:
      raise ValueError(
        f'{name} needs sparsity, the fraction of zeros in [0, 1), a target, or '
        'a budget that says it for every layer.'
      )
    if self.sparsity is not None and not 0 <= self.sparsity < 1:
      raise ValueError(
        f'{name} needs a sparsity (fraction of zeros) in [0, 1), got '
        f'{self.sparsity}; 90% is 0.9.'
      )

  def init_computed(self, w: jax.Array) -> jax.Array:
    self._axis(w)  # refused now, where it is not known
    return jnp.zeros((1,) * w.ndim, jnp.float32)

  def compared(self, w: jax.Array) -> jax.Array:
    return patterns.constrain(self.pattern, w, self._inputs)

  @property
  def _inputs(self) -> patterns.Inputs:
    return cast(patterns.Inputs, self.inputs)  # settled above

  def _axis(self, w: jax.Array) -> int | None:
    """Along which the pattern of a weight runs."""
    if self.pattern is None:
      return None
    return patterns.axis(self.pattern, w.shape, self._inputs)

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del w
    return leaves[0]

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, base.Leaves],
    step: jax.Array,
    dense: Mapping[str, int] = base.NONE_DENSE,
  ) -> Mapping[str, jax.Array]:
    last = [leaves[path][-1].ravel()[0] for path in weights if leaves.get(path)]
    near = jnp.stack(last) if last else None  # where to look first
    if self.budget == 'global':
      thresholds = self._global_thresholds(weights, step, near, dense)
    else:
      thresholds = list(self._layer_thresholds(weights, step, near))
    if self.pattern is not None:
      least = jnp.where(
        self.portion(step) > 0, jnp.float32(patterns.LEAST), 0.0
      )
      thresholds = [
        t if self._axis(w) is None else jnp.maximum(t, least)
        for t, w in zip(thresholds, weights.values(), strict=True)
      ]
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
    dense: Mapping[str, int],
  ) -> list[jax.Array]:
    """The thresholds c * scale of the weights, with one c for the net."""
    kernels = [self.compared(w) for w in weights.values()]
    scales = [self.scale(w.shape) for w in kernels]
    if near is not None:
      near = jnp.max(near / np.array(scales, np.float32))
    if isinstance(self.target, Target):
      cs = self.target.factors(
        weights,
        dense,
        self.portion(step),
        compared=kernels,
        scales=scales,
        near=near,
      )
    else:
      cs = [self._factor(kernels, scales, step, near)] * len(kernels)
    return [c * jnp.float32(scale) for c, scale in zip(cs, scales, strict=True)]

  def scale(self, shape: tuple[int, ...]) -> float:
    """What the threshold of a weight of this shape has over the net's."""
    del shape
    return 1.0

  def _factor(
    self,
    kernels: list[jax.Array],
    scales: list[float],
    step: jax.Array,
    near: jax.Array | None,
  ) -> jax.Array:
    """c for the sparsity asked for."""
    k = self._rank(quantile.total_count(kernels), step)
    return quantile.kth_magnitude(kernels, k, scales=scales, near=near)

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
    compared = [self.compared(w) for w in weights.values()]
    return quantile.kth_magnitudes(compared, ks, near=near)


@dataclasses.dataclass(frozen=True)
class Ramped(ramp.Ramp, Pruning):
  """Pruning whose sparsity rises from zero, see :class:`ramp.Ramp`."""

  start_step: int = 0
  end_step: int = 1

  def __post_init__(self) -> None:
    Pruning.__post_init__(self)
    ramp.Ramp.__post_init__(self)

  @property
  def settled_step(self) -> int:
    return self.final_step


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
