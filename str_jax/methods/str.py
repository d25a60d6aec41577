"""STR: soft thresholds that are learned (ICML 2020, arXiv 2002.03231)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import base, ramp
from str_jax.methods.target import Target

THRESHOLD_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'sigmoid': jax.nn.sigmoid,
  'exp': jnp.exp,
}
GRANULARITIES = ('layer', 'filter', 'weight', 'global')
_OF_TARGETS = GRANULARITIES[:2]
# With a target, as docs/targets.md found, like the defaults of rate and power.
# With what suits SGD best, 0.3 and no rescaling, a training by Adam fails.
_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class STR(ramp.Ramp, base.Method):
  r"""Soft-threshold weight reparameterization with a learned threshold.

  .. math:: S_g(w, s) = \mathrm{sign}(w)\,\max(|w| - k\,g(s), 0)

  The loss gradient reaches w where S is not zero, and s through every such
  weight: :math:`dL/ds = -k\,g'(s) \sum dL/dS\,\mathrm{sign}(w)\,1\{S \ne 0\}`.

  With a target the thresholds are

  .. math:: t_l = c\,e^{\sqrt{\rho}\,s_l}, \qquad dL/ds_l =
     -\sqrt{\rho}\,t_l \sum dL/dS\,\mathrm{sign}(w)\,1\{S \ne 0\}

  with one c for the net, found anew after every step so that the target is
  met: what is learned is how the layers share it. As only differences of s
  matter, their mean is kept at 0.

  Args:
    init_value: s at the start. Far below zero, g(s) is zero and s moves by
      weight decay alone until about -10. With a target it is not used.
    g: 'sigmoid' (the paper's CNNs) or 'exp' (its low-rank RNNs). With a
      target it is not used.
    granularity: 'layer', one s for each weight array; 'filter', one for each
      of its output channels (the last axis); 'weight', one for each weight;
      'global', one for the net: every layer holds a copy, which
      :func:`str_jax.optim.tie_thresholds` keeps equal. With a target, one of
      the first two.
    slope: the factor k of the threshold; 1 with a target.
    target: the fraction of zeros over all layers, or a :class:`Target`; None
      is the paper's method.
    rate: rho, with a target: SGD moves the logarithm of a threshold at this
      part of its learning rate.
    start_step: of the way to the target, see :class:`ramp.Ramp`, as are
      end_step, every_steps and power, 8 by default.
    gradient_scale: the share of the gradient that zeroed weights get; the
      paper's is 0, the default; with a target it is 0.1.
    rescale: make up for the pruned magnitude, channel by channel, as ST-3; by
      default with a target alone. These two serve Adam and SGD; with SGD alone
      0.3 and False are more accurate, and what the trainer sets there.

  Raises:
    ValueError: an unknown g or granularity, or a number out of range.

  STR, section 3, equations 1 to 6.

  >>> import jax.numpy as jnp
  >>> method = STR(init_value=0.0)                       # sigmoid(0) = 0.5
  >>> method(jnp.array([[2.0, -0.25]]), jnp.zeros((1, 1))).tolist()
  [[1.5, -0.0]]
  >>> method = STR(target=0.5, rescale=False)
  >>> s, t = jnp.zeros((1, 1)), jnp.full((1, 1), 0.5)    # learned, computed
  >>> method(jnp.array([[2.0, -0.25]]), s, t).tolist()
  [[1.5, -0.0]]
  """

  init_value: float = -3200.0
  g: str = 'sigmoid'
  granularity: str = 'layer'
  slope: float = 1.0
  target: Target | float | None = dataclasses.field(default=None, kw_only=True)
  rate: float = dataclasses.field(default=0.1, kw_only=True)
  power: float = dataclasses.field(default=8, kw_only=True)
  gradient_scale: float | None = dataclasses.field(default=None, kw_only=True)
  rescale: bool | None = dataclasses.field(default=None, kw_only=True)

  def __post_init__(self) -> None:
    base.Method.__post_init__(self)
    ramped = {field.name for field in dataclasses.fields(ramp.Ramp)}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      unset = field.name not in ramped or value == field.default
      if self.target is None and not unset:
        raise ValueError(
          f'STR has {field.name} on the way to a target only: set a target '
          f'too, or leave it out, got {value}.'
        )
    ramp.Ramp.__post_init__(self)
    for name, value, known in (
      ('g', self.g, tuple(THRESHOLD_FUNCTIONS)),
      ('granularity', self.granularity, GRANULARITIES),
    ):
      if value not in known:
        raise ValueError(
          f'STR needs {name} to be one of {", ".join(known)}, got {value!r}.'
        )
    if not self.slope > 0:
      raise ValueError(f'STR needs a slope above 0, got {self.slope}.')
    if not 0 <= self.theta <= 1:
      raise ValueError(
        f'STR needs a gradient_scale in [0, 1], got {self.gradient_scale}.'
      )
    if self.target is not None:
      self._check_target()
    if self.rescale == (self.target is not None):  # equal settings are equal
      object.__setattr__(self, 'rescale', None)

  def _check_target(self) -> None:
    if not isinstance(self.target, Target):
      object.__setattr__(self, 'target', Target(self.target))
    if self.granularity not in _OF_TARGETS:
      raise ValueError(
        'STR with a target needs granularity to be one of '
        f'{", ".join(_OF_TARGETS)}, got {self.granularity!r}.'
      )
    if self.slope != 1:
      raise ValueError(
        'STR with a target has thresholds of any size: leave slope at 1, got '
        f'{self.slope}.'
      )
    if not self.rate >= 0:
      raise ValueError(f'STR needs a rate of 0 or more, got {self.rate}.')

  @property
  def theta(self) -> float:
    """The share of the gradient that zeroed weights get."""
    if self.gradient_scale is not None:
      return self.gradient_scale
    return 0.0 if self.target is None else _SHARE

  @property
  def rescales(self) -> bool:
    """Whether the pruned magnitude is made up for."""
    return self.target is not None if self.rescale is None else self.rescale

  def init_learned(self, w: jax.Array) -> jax.Array:
    shape = (1,) * w.ndim
    if self.granularity == 'filter':
      shape = self._filters(w)
    if self.granularity == 'weight':
      shape = w.shape
    dtype = functional.at_least_float32(w.dtype)
    return jnp.full(shape, 0.0 if self.target else self.init_value, dtype)

  def _filters(self, w: jax.Array) -> tuple[int, ...]:
    """The shape of what has one entry for each filter of a weight."""
    return (1,) * (w.ndim - 1) + w.shape[-1:]

  def init_computed(self, w: jax.Array) -> jax.Array | None:
    if self.target is None:
      return None
    return jnp.zeros(self.init_learned(w).shape, jnp.float32)

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    t = self.threshold(w, *leaves)
    out = functional.soft_threshold(w, t)
    if not self.theta and not self.rescales:
      return out
    fixed = jax.lax.stop_gradient(w)
    keep = functional.above(fixed, t)
    scale = jnp.ones((), w.dtype)
    if self.rescales:
      scale = jnp.where(t > 0, functional.rescale(fixed, keep), scale)
      scale = jax.lax.stop_gradient(scale)
    share = jnp.where(keep, 1.0, self.theta).astype(w.dtype)
    # Its gradients are those of the weight and of the threshold, each alone.
    learns = share * w + scale * functional.soft_threshold(fixed, t)
    return functional.straight_through(learns, scale * out)

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del w
    s, *computed = leaves
    if self.target is None:
      return self.slope * THRESHOLD_FUNCTIONS[self.g](s)
    # The value is the computed one, exactly: what it was counted with. The
    # factor is 1 and has the gradient.
    (t,) = computed
    learns = self._scale(s - jax.lax.stop_gradient(s))
    return jax.lax.stop_gradient(t) * learns.astype(t.dtype)

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, base.Leaves],
    step: jax.Array,
    dense: Mapping[str, int] = base.NONE_DENSE,
  ) -> Mapping[str, jax.Array]:
    if not isinstance(self.target, Target):
      return {}
    centred = self.centre(leaves)
    # Computed once: a second exp might round another way.
    scales = jax.lax.optimization_barrier(
      [self._scale(centred[p]) * self._level(w) for p, w in weights.items()]
    )
    last = [leaves[p][-1] / x for p, x in zip(weights, scales, strict=True)]
    cs = self.target.factors(
      weights,
      dense,
      self.portion(step),
      compared=[self.compared(w) for w in weights.values()],
      scales=scales,
      near=jnp.stack([jnp.max(c) for c in last]).max(),
    )
    thresholds = [c * x for c, x in zip(cs, scales, strict=True)]
    return dict(zip(weights, thresholds, strict=True))

  def centre(
    self, leaves: Mapping[str, base.Leaves]
  ) -> Mapping[str, jax.Array]:
    if self.target is None:
      return {}
    learned = {path: s for path, (s, *_) in leaves.items()}
    mean = jnp.stack([jnp.mean(s) for s in learned.values()]).mean()
    return {path: s - mean for path, s in learned.items()}

  def _scale(self, s: jax.Array) -> jax.Array:
    return jnp.exp(math.sqrt(self.rate) * s.astype(jnp.float32))

  def _level(self, w: jax.Array) -> jax.Array | float:
    """What the threshold of a weight is a multiple of, besides the share."""
    del w
    return 1.0

  @property
  def settled_step(self) -> int | None:
    return None if self.target is None else self.final_step
