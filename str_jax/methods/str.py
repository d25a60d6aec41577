"""STR: soft thresholds that are learned (ICML 2020, arXiv 2002.03231)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import base

THRESHOLD_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'sigmoid': jax.nn.sigmoid,
  'exp': jnp.exp,
}
GRANULARITIES = ('layer', 'filter', 'weight', 'global')


@dataclasses.dataclass(frozen=True)
class STR(base.Method):
  r"""Soft-threshold weight reparameterization with a learned threshold.

  .. math:: S_g(w, s) = \mathrm{sign}(w)\,\max(|w| - k\,g(s), 0)

  The loss gradient reaches w where S is not zero, and s through every such
  weight: :math:`dL/ds = -k\,g'(s) \sum dL/dS\,\mathrm{sign}(w)\,1\{S \ne 0\}`.

  Args:
    init_value: s at the start. Far below zero, g(s) is zero and s moves by
      weight decay alone until about -10.
    g: 'sigmoid' (the paper's CNNs) or 'exp' (its low-rank RNNs).
    granularity: 'layer', one s for each weight array; 'filter', one for each
      of its output channels (the last axis); 'weight', one for each weight;
      'global', one for the net: every layer holds a copy, which
      :func:`str_jax.optim.tie_thresholds` keeps equal.
    slope: the factor k of the threshold.

  Raises:
    ValueError: an unknown g or granularity, or a slope that is not positive.

  STR, section 3, equations 1 to 6.

  >>> import jax.numpy as jnp
  >>> method = STR(init_value=0.0)                       # sigmoid(0) = 0.5
  >>> method(jnp.array([[2.0, -0.25]]), jnp.zeros((1, 1))).tolist()
  [[1.5, -0.0]]
  """

  init_value: float = -3200.0
  g: str = 'sigmoid'
  granularity: str = 'layer'
  slope: float = 1.0

  def __post_init__(self) -> None:
    for field, value, known in (
      ('g', self.g, tuple(THRESHOLD_FUNCTIONS)),
      ('granularity', self.granularity, GRANULARITIES),
    ):
      if value not in known:
        raise ValueError(
          f'STR needs {field} to be one of {", ".join(known)}, got {value!r}.'
        )
    if not self.slope > 0:
      raise ValueError(f'STR needs a slope above 0, got {self.slope}.')

  def init_learned(self, w: jax.Array) -> jax.Array:
    shape = (1,) * w.ndim
    if self.granularity == 'filter':
      shape = shape[:-1] + w.shape[-1:]
    if self.granularity == 'weight':
      shape = w.shape
    dtype = functional.at_least_float32(w.dtype)
    return jnp.full(shape, self.init_value, dtype)

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    return functional.soft_threshold(w, self.threshold(w, *leaves))

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del w
    (s,) = leaves
    return self.slope * THRESHOLD_FUNCTIONS[self.g](s)

  @property
  def settled_step(self) -> None:
    return None
