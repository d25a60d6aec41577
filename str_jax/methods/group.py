"""STR on whole filters: a soft threshold on the norm of each of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import base
from str_jax.methods.str import STR

GRANULARITIES = ('layer', 'filter', 'global')
# A norm is a sum, which rounds another way where it is summed in another order,
# on several devices say: what dies by less than this dies everywhere.
_MARGIN = 2e-6


@dataclasses.dataclass(frozen=True)
class STRGroup(STR):
  r"""Soft thresholds on the norms of filters, learned as STR's are.

  .. math:: G_g(w_f, s) = w_f\,\max(1 - k\,g(s) / \|w_f\|, 0)

  with the gradients that follow from it, through the norm too:
  :math:`dL/ds = -k\,g'(s) \sum_f \langle dL/dG_f, w_f \rangle / \|w_f\|` over
  the filters that are left. With a target the thresholds are

  .. math:: t_l = c\,\overline{\|w_f\|}\,e^{\sqrt{\rho}\,s_l}

  with the mean norm of the layer's filters and c the smallest by which no more
  weights (or multiply-adds) are kept than asked for, filter by filter: fewer,
  by less than one filter, but for filters whose norms tie.

  A filter is what makes one output channel, ``w[..., f]``, depthwise ones too.
  In a matrix (in, out), the kernel of a Dense layer, it is what reads one
  input, ``w[f]``: the classifier's outputs are the classes, while an input that
  is not read is a channel less of the layer before. Its norm is taken times
  :math:`\sqrt{in / out}`, what an output's would be were all inputs like it.
  Of a vector it is one weight.

  Behind a BatchNorm a filter's factor has no effect on the loss, so s moves by
  decay alone, and what the loss says of a filter that has all but died is
  noise, many times as large as the rest: see docs/structured.md.

  Args:
    init_value: s at the start, see :class:`STR`.
    g: 'sigmoid' or 'exp', as there.
    granularity: 'layer', one s for each weight array; 'filter', one for each
      of its filters; 'global', one for the net. With a target, one of the
      first two.
    slope: the factor k; 'sigmoid' comes to k / 2 by decay alone, and He's
      initialisation starts norms at about 1.4.
    target: see :class:`STR`, as are start_step, end_step and every_steps. Its
      floor, in weights, is rounded up to whole filters.
    rate: rho; 0 by default, equal shares. More is for networks without norms.
    power: of the way to the target, 3 by default.
    gradient_scale: the share of the gradient that dead filters get; none by
      default, with a target too.

  Raises:
    ValueError: as of :class:`STR`; granularity 'weight'; rescale, for what is
      left of a filter is all of it.

  STR (ICML 2020), section 3, with the norm of a filter in place of abs(w).

  >>> import jax.numpy as jnp
  >>> method = STRGroup(init_value=0.0, slope=5.0)         # 5 sigmoid(0) = 2.5
  >>> w = jnp.array([[[3.0, 0.6], [-4.0, 0.8]]])
  >>> method(w, jnp.zeros((1, 1, 1))).tolist()
  [[[1.5, 0.0], [-2.0, 0.0]]]
  """

  rate: float = dataclasses.field(default=0.0, kw_only=True)
  power: float = dataclasses.field(default=3, kw_only=True)

  def __post_init__(self) -> None:
    if self.granularity not in GRANULARITIES:
      raise ValueError(
        'STRGroup needs granularity to be one of '
        f'{", ".join(GRANULARITIES)}, got {self.granularity!r}.'
      )
    if self.rescale:
      raise ValueError(
        'STRGroup has no rescale: what is left of a filter is all of it.'
      )
    super().__post_init__()

  @property
  def theta(self) -> float:
    return self.gradient_scale or 0.0

  def compared(self, w: jax.Array) -> jax.Array:
    norms = functional.norm(w, _axes(w))
    if w.ndim != 2:
      return norms
    return norms * jnp.asarray(math.sqrt(w.shape[0] / w.shape[1]), norms.dtype)

  def _level(self, w: jax.Array) -> jax.Array:
    return jnp.mean(self.compared(w))

  def _filters(self, w: jax.Array) -> tuple[int, ...]:
    axes = _axes(w)
    return tuple(1 if i in axes else n for i, n in enumerate(w.shape))

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    t, norms = self.threshold(w, *leaves), self.compared(w)
    out = functional.group_threshold(w, t, norms)
    if not self.theta:
      return out
    dead = jnp.where(functional.above(norms, t), jnp.zeros_like(w), w)
    return functional.straight_through(out + self.theta * dead, out)

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, base.Leaves],
    step: jax.Array,
    dense: Mapping[str, int] = base.NONE_DENSE,
  ) -> Mapping[str, jax.Array]:
    new = super().update(weights, leaves, step, dense)
    return {path: t * jnp.float32(1 + _MARGIN) for path, t in new.items()}


def _axes(w: jax.Array) -> tuple[int, ...]:
  """Those that a filter extends over."""
  return (1,) if w.ndim == 2 else tuple(range(w.ndim - 1))
