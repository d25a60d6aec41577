"""What plain STR will do, before training: the course of s by decay alone.

Far below zero a threshold g(s) touches no weight and has no gradient: s moves
by decay alone, and whether a run becomes sparse at all is known beforehand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from str_jax import methods
from str_jax.training import plan as plans
from str_jax.training.decay_course import trajectory
from str_jax.training.plan import Plan

LEAVES_ZERO = 1 / (1 + math.exp(10))  # a threshold below zeroes no weight
REACHES_WEIGHTS = 1 / (1 + math.exp(5))  # from about here on, small ones
EXCEEDS_WEIGHTS = 1 / (1 + math.exp(2))  # more than most weights of a net
_INVERSES: dict[str, Callable[[float], float]] = {
  'sigmoid': lambda t: math.log(t / (1 - t)) if t < 1 else math.inf,
  'exp': math.log,
}
_LATE = 0.9  # of the training: what is reached then has no time to act
# Early is what exceeds weights before both. To begin where small weights are
# reached does no harm, and some hundred steps do however long a run is.
_EARLY, _EARLY_STEPS = 0.15, 200
_PROPOSED = 0.4  # of the training; the paper's ResNet50 runs are near it
_OVER = 0.1  # past 0, where decay draws s: momentum took it on
_MOST_DECAY, _LOWEST_INIT = 1e3, -1e5
_MOST_WEIGHT_DECAY = 1e-2  # what is more is for the thresholds alone


@dataclasses.dataclass(frozen=True)
class Proposal:
  """A field and the value that would do, or why none does.

  Attributes:
    field: of the config, dotted.
    value: of two significant digits; None where there is none.
    reason: why there is none.
  """

  field: str
  value: float | None = None
  reason: str = ''

  def __str__(self) -> str:
    if self.value is None:
      return f'no value of {self.field}'
    digits = '.1e' if self.field.endswith('decay') else 'g'
    return f'--config.{self.field}={self.value:{digits}}'


@dataclasses.dataclass(frozen=True)
class Forecast:
  """What decay alone makes of a run's s.

  Attributes:
    config: the run's config.
    method: STR without a target.
    learning_rates: of every step that trains thresholds.
    decay_field: the config's field of the thresholds' decay, dotted.
    decay: its value.
    course: s at the start and after every step.
  """

  config: Any
  method: methods.STR
  learning_rates: np.ndarray
  decay_field: str
  decay: float
  course: np.ndarray

  @property
  def steps(self) -> int:
    """Steps that train thresholds."""
    return len(self.learning_rates)

  def level(self, threshold: float) -> float:
    """The s that gives a threshold; infinite where none does."""
    s = _INVERSES[self.method.g](threshold / self.method.slope)
    return round(s, 9)

  def first(self, threshold: float) -> int | None:
    """The step after which thresholds are this large; None for never."""
    found = np.flatnonzero(self.course >= self.level(threshold))
    return int(found[0]) if len(found) else None

  @property
  def verdict(self) -> str:
    """'none' (0% sparse), 'late', 'early', 'over' (momentum) or 'fine'.

    Of a method on filters 'none' or 'unknown': their norms are the training's.
    """
    reached, exceeded = self.first(REACHES_WEIGHTS), self.first(EXCEEDS_WEIGHTS)
    if self.first(LEAVES_ZERO) is None:
      return 'none'
    if self.is_of_filters:
      return 'unknown'
    if reached is None or reached > _LATE * self.steps:
      return 'late'
    if np.nanmax(self.course) > max(self.course[0], 0) + _OVER:
      return 'over'
    if exceeded is None:
      return 'fine'
    early = exceeded < min(_EARLY * self.steps, _EARLY_STEPS)
    return 'early' if early else 'fine'

  @property
  def is_of_filters(self) -> bool:
    """Whether thresholds are on norms of filters, not on weights."""
    return isinstance(self.method, methods.STRGroup)

  @property
  def is_driven(self) -> bool:
    """Whether it is decay that brings thresholds to weights, in time."""
    return self.verdict == 'fine' and self.first(REACHES_WEIGHTS) != 0

  def proposals(self) -> tuple[Proposal, Proposal]:
    """The decay and the init_value that reach weights at 40% of training."""
    return self._decay(), self._init_value()

  def from_nearby(self) -> tuple[Proposal, Proposal] | None:
    """An init_value where thresholds leave zero, and the decay for it."""
    start = round(self.level(LEAVES_ZERO), 2)
    decay = self._with(self.decay, start)._decay()
    if decay.value is None:
      return None
    return Proposal('method.init_value', start), decay

  def _decay(self) -> Proposal:
    field, init = self.decay_field, self.method.init_value
    reason = self._stuck()
    if init >= self.level(REACHES_WEIGHTS):
      reason = reason or f's starts at {init:g}'
    elif self.config.optimizer.name == 'adam':
      reason = reason or 'adam moves s at its learning rate, whatever the decay'
    if reason:
      return Proposal(field, reason=reason)
    arrives = lambda decay: self._arrives(decay, init)
    decay = 1e-12
    while not arrives(10 * decay) and decay < _MOST_DECAY:
      decay *= 10
    value = _two_digits(_bisect(arrives, decay, 10 * decay))
    if not self._with(value, init).is_driven:
      return Proposal(field, reason=f's is too far off at {init:g}')
    if value > _MOST_WEIGHT_DECAY:
      field = 'optimizer.threshold_decay'
    return Proposal(field, value)

  def _init_value(self) -> Proposal:
    field, reason = 'method.init_value', self._stuck()
    if not self.decay:
      reason = reason or 's stays where it starts without decay'
    if reason:
      return Proposal(field, reason=reason)
    misses = lambda size: not self._arrives(self.decay, -size)
    size = -self.level(REACHES_WEIGHTS)
    while not misses(10 * size) and -size > _LOWEST_INIT:
      size *= 10
    value = -_two_digits(_bisect(misses, size, 10 * size))
    if value < _LOWEST_INIT:
      return Proposal(field, reason='so large a decay lifts any s sooner')
    if not self._with(self.decay, value).is_driven:
      moved = 1 + self._with(self.decay, -1.0).course[-1]
      return Proposal(field, reason=f'so small a decay moves it by {moved:.2%}')
    return Proposal(field, value)

  def _stuck(self) -> str:
    """Why decay cannot bring thresholds to weights; empty where it can."""
    if self.level(REACHES_WEIGHTS) >= 0:
      return f'a slope of {self.method.slope:g} keeps thresholds from weights'
    return '' if self._rates().any() else 'the learning rate is 0'

  def _rates(self) -> np.ndarray:
    return self.learning_rates[: max(round(_PROPOSED * self.steps), 1)]

  def _arrives(self, decay: float, init: float) -> bool:
    course = trajectory(self.config, self._rates(), decay, init)
    return bool(np.nanmax(course) >= self.level(REACHES_WEIGHTS))

  def _with(self, decay: float, init: float) -> Forecast:
    method = dataclasses.replace(self.method, init_value=init)
    course = trajectory(self.config, self.learning_rates, decay, init)
    return dataclasses.replace(self, method=method, decay=decay, course=course)


def create(config: Any, plan: Plan) -> Forecast | None:
  """The forecast of a run.

  Args:
    config: a config, see configs/common.py.
    plan: its plan.

  Returns:
    The forecast; None where s is no matter of decay: another method than
    STR, or STR with a target.

  Raises:
    ValueError: fields of the optimizer that cannot be used.
  """
  phase, c = plan.phases[0], config.optimizer
  if not isinstance(phase.method, methods.STR) or (
    phase.method.target is not None
  ):
    return None
  name = 'weight_decay' if c.threshold_decay is None else 'threshold_decay'
  decay = c[name]
  if decay:  # without, it says no more than that there is none
    plans.optimizer(config, plan, phase)
  rates = np.asarray(plan.learning_rate(jnp.arange(phase.stop)))
  rates = np.broadcast_to(rates, (phase.stop,))
  return Forecast(
    config=config,
    method=phase.method,
    learning_rates=rates,
    decay_field=f'optimizer.{name}',
    decay=decay,
    course=trajectory(config, rates, decay, phase.method.init_value),
  )


def warning(config: Any, plan: Plan) -> str | None:
  """One sentence for the start of a run that is headed for trouble.

  Args:
    config: a config, see configs/common.py.
    plan: its plan.

  Returns:
    What will happen and what to set; None where all is well, or not known:
    s may go on from another run's.
  """
  forecast = None if config.init_from else create(config, plan)
  if forecast is None or forecast.verdict in ('fine', 'unknown'):
    return None
  return f'{outlook(forecast)}; {advice(forecast)}.'


def outlook(forecast: Forecast) -> str:
  """What decay alone will do, in half a sentence."""
  f = forecast
  settings = (
    f'with {f.decay_field}={f.decay:g} and '
    f'method.init_value={f.method.init_value:g} s reaches'
  )
  reached, end = f.first(REACHES_WEIGHTS), f'{f.course[-1]:.4g} at the end'
  if f.verdict == 'none':
    level = f.level(LEAVES_ZERO)
    return (
      f'{settings} {end}, below {level:.3g} no weight is touched: 0% sparse'
    )
  if f.verdict == 'unknown':
    return (
      f'{settings} {end}; which filters die follows from their norms too, '
      'which only training shows'
    )
  if reached is None:
    level = f.level(REACHES_WEIGHTS)
    return f'{settings} {end}, below {level:.3g} few are zeroed: hardly sparse'
  early = f.verdict == 'early'
  threshold = EXCEEDS_WEIGHTS if early else REACHES_WEIGHTS
  step = f.first(threshold) or 0
  return f'{settings} {f.level(threshold):.3g} at {when(f, step)}' + {
    'late': ': too late to become sparse',
    'over': ', but momentum takes it past 0: all weights may be zeroed',
    'early': ': layers may lose all weights before they have learned',
  }.get(f.verdict, '')


def advice(forecast: Forecast) -> str:
  """What to set, in half a sentence."""
  if forecast.is_of_filters:
    return (
      'more optimizer.threshold_decay or a higher method.init_value raises '
      'thresholds sooner, method.slope all of them; --config.method.target=0.5 '
      'needs none of this'
    )
  proposals = forecast.proposals()
  reach = (
    f' reach {forecast.level(REACHES_WEIGHTS):.3g} at {_PROPOSED:.0%} of '
    'training'
  )
  good = [str(p) for p in proposals if p.value is not None]
  said = [f'{" or ".join(good)} would{reach}'] if good else []
  for proposal in proposals:
    if proposal.value is None:
      said.append(f'{proposal} would{"" if said else reach}: {proposal.reason}')
  both = None if good else forecast.from_nearby()
  if both is not None:
    said.append(f'{both[0]} with {both[1]} would')
  return '; '.join([*said, '--config.method.target=0.9 needs none of this'])


def when(forecast: Forecast, step: int) -> str:
  """A step, and where in the training it is."""
  share = step / forecast.steps
  return f'step {step:,} of {forecast.steps:,} ({share:.1%} of training)'


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
  """The number between two from which on something holds, to 0.2%."""
  while high > 1.002 * low:
    middle = math.sqrt(low * high)
    low, high = (low, middle) if holds(middle) else (middle, high)
  return high


def _two_digits(x: float) -> float:
  return float(f'{x:.1e}')
