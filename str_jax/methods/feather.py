"""Feather: a threshold between soft and hard, straight-through gradients."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import pruning
from str_jax.methods.target import Target


@dataclasses.dataclass(frozen=True)
class Feather(pruning.Ramped):
  r"""Global magnitude pruning through a cube-root threshold.

  .. math::
     q = \mathrm{sign}(w)\,(|w|^3 - t^3)^{1/3}\,1\{|w| > t\}, \qquad
     \partial L / \partial w = \partial L / \partial q \cdot
     \begin{cases} 1 & |w| > t \\ \theta & |w| \le t \end{cases}

  Near the threshold it shrinks as soft thresholding does, far above it leaves
  a weight as hard thresholding does.

  Args:
    sparsity: final fraction of zeros, in [0, 1).
    start_step: the step after which weights begin to be zeroed.
    end_step: the step from which the final sparsity holds; the paper's is
      half of the training.
    every_steps: the sparsity changes once in so many steps.
    budget: 'global', or see :mod:`str_jax.budgets`.
    gradient_scale: theta, the share of the gradient that zeroed weights get;
      by default the paper's rule, 1 up to a sparsity of 0.95, 0.5 above;
      needed with a budget that says the sparsity of every layer.
    pattern: 'N:M', see :class:`str_jax.methods.pruning.Pruning`, as is inputs.

  Raises:
    ValueError: a setting out of range.

  Feather (Glentis Georgoulakis et al., BMVC 2023, arXiv 2310.02448).

  >>> import jax.numpy as jnp
  >>> method = Feather(sparsity=0.5)
  >>> q = method(jnp.array([2.0, -0.25]), jnp.array([0.5]))
  >>> print(f'{q[0]:.4f} {q[1]:.1f}')  # (8 - 0.125)**(1/3)
  1.9895 0.0
  """

  gradient_scale: float | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.gradient_scale is None and self._zeros is None:
      raise ValueError(
        'Feather needs gradient_scale with a budget by layer or a target that '
        'is no fraction of zeros: the paper has 1.0 up to 95% zeros over all '
        'layers, 0.5 above.'
      )
    if self.gradient_scale is not None and not 0 <= self.gradient_scale <= 1:
      raise ValueError(
        f'Feather needs a gradient_scale in [0, 1], got {self.gradient_scale}.'
      )

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    (t,) = leaves
    dense = t <= 0  # "no threshold yet", bit for bit
    eligible = self.compared(w)
    keep = functional.above(eligible, t) | dense
    out = jnp.where(dense, w, functional.cubic_threshold(eligible, t))
    scale = jnp.where(keep, 1.0, self.theta).astype(w.dtype)
    # A factor on the gradient alone: theta * w has it, the value is `out`.
    return functional.straight_through(scale * w, out)

  @property
  def theta(self) -> float:
    """The share of the gradient that zeroed weights get."""
    if self.gradient_scale is not None:
      return self.gradient_scale
    assert self._zeros is not None
    return 0.5 if self._zeros > 0.95 else 1.0

  @property
  def _zeros(self) -> float | None:
    """The fraction of zeros asked for."""
    target = self.target
    return target.sparsity if isinstance(target, Target) else self.sparsity
