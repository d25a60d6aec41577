"""The course of a sparsity that is asked for: from zero up to all of it."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ramp:
  r"""Mixin: a part of what is asked for, fast rising at first.

  .. math:: p = sparsity\,(1 - (1 - \tau)^{power})

  with :math:`\tau` going from 0 at ``start_step`` to 1 at ``end_step``; up to
  ``start_step`` the net is dense.

  Args:
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds.
    every_steps: p changes once in so many steps; the steps of an epoch, for
      a value held per epoch.
    power: of the curve, 1 is a straight line.

  Raises:
    ValueError: end_step not after start_step, every_steps less than 1, a
      power that is not positive.

  Zhu and Gupta, 2017, arXiv 1710.01878, with power 3.
  """

  start_step: int = 0
  end_step: int = 1
  every_steps: int = 1
  power: float = 3

  def __post_init__(self) -> None:
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
    if not self.power > 0:
      raise ValueError(f'{name} needs a power above 0, got {self.power}.')
    if float(self.power).is_integer():  # multiplied out, not by logarithms
      object.__setattr__(self, 'power', int(self.power))

  def portion(self, step: jax.Array) -> jax.Array:
    """The part of what is asked for that holds after ``step`` updates."""
    held = step // self.every_steps * self.every_steps
    progress = (held - self.start_step) / (self.end_step - self.start_step)
    left = 1 - jnp.clip(progress.astype(jnp.float32), 0, 1)
    return 1 - left**self.power

  def is_final(self, step: jax.Array) -> jax.Array:
    """Whether all of it holds after ``step`` updates."""
    return step >= self.final_step

  @property
  def final_step(self) -> int:
    """The step from which all of it holds."""
    return math.ceil(self.end_step / self.every_steps) * self.every_steps
