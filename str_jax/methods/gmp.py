"""GMP and DNW: magnitude pruning, the baselines of both papers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import pruning

GRADIENTS = ('masked', 'straight')


@dataclasses.dataclass(frozen=True)
class GMP(pruning.Ramped):
  r"""Gradual magnitude pruning: the smallest weights, more and more of them.

  .. math:: q = w \cdot 1\{|w| > t\}, \qquad \partial L / \partial w =
     \partial L / \partial q \cdot \begin{cases} 1\{|w| > t\} &
     \text{masked} \\ 1 & \text{straight} \end{cases}

  Weights are compared anew after every step, so that one that was zeroed may
  come back.

  Args:
    sparsity: final fraction of zeros, in [0, 1).
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds.
    every_steps: the sparsity changes once in so many steps; the steps of an
      epoch, for STR's released GMP.
    budget: 'uniform' (STR's baseline), 'global' (ST-3's), 'erk', or the
      fraction of zeros of every layer by its path.
    gradient: 'masked' or 'straight'.
    pattern: 'N:M', see :class:`str_jax.methods.pruning.Pruning`, as is inputs.

  Raises:
    ValueError: a setting out of range.

  Zhu and Gupta, 2017, arXiv 1710.01878; STR (ICML 2020), section 4.

  >>> import jax.numpy as jnp
  >>> method = GMP(sparsity=0.5)
  >>> method(jnp.array([2.0, -0.25]), jnp.array([0.5])).tolist()
  [2.0, 0.0]
  """

  budget: str | pruning.Shares | Mapping[str, float] = dataclasses.field(
    default='uniform', kw_only=True
  )
  gradient: str = 'masked'

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.gradient not in GRADIENTS:
      raise ValueError(
        f'GMP needs gradient to be one of {", ".join(GRADIENTS)}, got '
        f'{self.gradient!r}.'
      )

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    (t,) = leaves
    # Zero is "no threshold yet": a weight of zero then learns like any other.
    out = functional.hard_threshold(self.compared(w), t)
    out = jnp.where(t > 0, out, w)
    if self.gradient == 'straight':
      return functional.straight_through(w, out)
    return out


@dataclasses.dataclass(frozen=True)
class DNW(pruning.Pruning):
  r"""Discovering neural wirings: hard pruning, straight-through gradients.

  .. math:: q = w \cdot 1\{|w| > t\}, \qquad
     \partial L / \partial w = \partial L / \partial q

  at the final sparsity from the first step on; for that, call
  :func:`str_jax.update_thresholds` with step 0 before training.

  Args:
    sparsity: fraction of zeros, in [0, 1).
    budget: 'uniform' (STR's baseline), 'global', 'erk', or the fraction of
      zeros of every layer by its path.
    pattern: 'N:M', see :class:`str_jax.methods.pruning.Pruning`, as is inputs.

  Raises:
    ValueError: a setting out of range.

  Wortsman et al., NeurIPS 2019, arXiv 1906.00586; STR (ICML 2020), section 4.

  >>> import jax
  >>> w, t = jax.numpy.array([2.0, -0.25]), jax.numpy.array([0.5])
  >>> jax.value_and_grad(lambda w: DNW(sparsity=0.5)(w, t).sum())(w)[1].tolist()
  [1.0, 1.0]
  """

  budget: str | pruning.Shares | Mapping[str, float] = dataclasses.field(
    default='uniform', kw_only=True
  )

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    return functional.straight_through(
      w, functional.hard_threshold(self.compared(w), leaves[0])
    )
