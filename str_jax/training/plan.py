"""What a config means in numbers: steps, phases, model, optimizer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from str_jax import lowering as lowerings
from str_jax import methods, models, optim
from str_jax.methods import Method
from str_jax.training import fields
from str_jax.training import schedule as schedules

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_DURATIONS = ('start', 'end', 'finetune')


@dataclasses.dataclass(frozen=True)
class Phase:
  """Steps from ``start`` up to ``stop``, trained with one method."""

  method: Method | None
  start: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """The numbers of a run.

  Attributes:
    steps_per_epoch: updates an epoch, the last partial batch counted.
    phases: the training, and the fine-tuning after it if there is one.
    settled_step: from which step on a checkpoint may be called the best.
    learning_rate: a function of the number of updates made so far.
    eval_every: steps between evaluations on validation.
    checkpoint_every: steps between checkpoints.
  """

  steps_per_epoch: int
  phases: tuple[Phase, ...]
  settled_step: int
  learning_rate: schedules.Schedule
  eval_every: int
  checkpoint_every: int

  @property
  def total_steps(self) -> int:
    """The steps of all phases."""
    return self.phases[-1].stop

  def phase_of(self, step: int) -> int:
    """The index of the phase whose state a checkpoint of this step holds."""
    return sum(step > phase.stop for phase in self.phases)


def create(config: Any, train_size: int) -> Plan:
  """Works out the numbers of a run, and checks them.

  Args:
    config: a config, see configs/common.py.
    train_size: number of training examples.

  Returns:
    A :class:`Plan`.

  Raises:
    ValueError: a field that is missing, out of range or contradictory.
  """
  fields.check(config)
  if config.batch_size > train_size:
    raise ValueError(
      f'batch_size must be at most the {train_size} training images, got '
      f'{config.batch_size}.'
    )
  per_epoch = math.ceil(train_size / config.batch_size)
  main_steps = fields.duration(config, 'total', per_epoch)
  if not main_steps or main_steps < 1:
    raise ValueError(
      'the length of the run is needed: set total_steps or total_epochs to '
      'more than 0.'
    )
  main_method = _scheduled(config.method, per_epoch, main_steps)
  finetune = fields.duration(config.method, 'finetune', per_epoch) or 0
  phases = [Phase(main_method, 0, main_steps)]
  if finetune:
    rate = config.method.finetune_learning_rate
    if rate is None and config.schedule.name == 'cosine':
      raise ValueError(
        'method.finetune_learning_rate is needed for fine-tuning: the cosine '
        'schedule has come down to 0 by then.'
      )
    phases.append(Phase(methods.Frozen(), main_steps, main_steps + finetune))
  settled = 0 if main_method is None else main_method.settled_step
  return Plan(
    steps_per_epoch=per_epoch,
    phases=tuple(phases),
    settled_step=math.ceil(0.9 * main_steps) if settled is None else settled,
    learning_rate=_learning_rate(config, per_epoch, main_steps),
    eval_every=fields.every(config, 'eval_every', per_epoch, per_epoch),
    checkpoint_every=fields.every(
      config, 'checkpoint_every', per_epoch, max(main_steps // 10, 1)
    ),
  )


def method(config: Any, **steps: int) -> Method | None:
  """The method of a config's part ``method``.

  Args:
    config: that part; fields that are None are left to the method.
    **steps: start_step and end_step, which the forward pass does not need.

  Returns:
    The method; None for 'dense'.

  Raises:
    ValueError: an unknown method, or fields that it does not have.
  """
  values = {
    k: v
    for k, v in config.items()
    if v is not None and k != 'name' and not k.startswith(_DURATIONS)
  }
  return methods.create(config.name, **values, **steps)


def model(config: Any, num_classes: int, method: Method | None) -> Any:
  """The config's model with a method in its layers.

  Args:
    config: a config.
    num_classes: of the data set.
    method: of the phase.

  Returns:
    A Linen module.

  Raises:
    ValueError: an unknown model, type, lowering or initialisation.
  """
  settings = dict(config.model)
  dtype, lowering = settings.pop('dtype'), settings.pop('lowering')
  if dtype not in _DTYPES:
    raise ValueError(
      f'model.dtype must be one of {", ".join(_DTYPES)}, got {dtype!r}.'
    )
  known = ('auto', *lowerings.NAMES)
  if lowering not in known:
    raise ValueError(
      f'model.lowering must be one of {", ".join(known)}, got {lowering!r}.'
    )
  if lowering == 'auto':
    # The CPU's own convolutions hold loops over the batch, which shard badly.
    alone = jax.default_backend() == 'cpu' and jax.device_count() == 1
    lowering = 'cpu' if alone else 'xla'
  return models.create(
    settings.pop('name'),
    num_classes=num_classes,
    method=method,
    dtype=_DTYPES[dtype],
    lowering=lowering,
    **settings,
  )


def optimizer(
  config: Any, plan: Plan, phase: Phase
) -> optax.GradientTransformation:
  """The Optax chain of a phase.

  Args:
    config: a config.
    plan: its plan.
    phase: one of the plan's phases.

  Returns:
    Clipping, decay, optimizer and learning rate in one transformation.

  Raises:
    ValueError: an unknown optimizer, or a value out of range.
  """
  c = config.optimizer
  decay = optim.decay(
    kernels=c.weight_decay,
    thresholds=_threshold_decay(c, phase.method),
    norms=c.norm_decay,
    biases=c.bias_decay,
    coupled=c.coupled,
    learning_rate=plan.learning_rate,
  )
  if c.name == 'sgd':
    core = optax.sgd(
      plan.learning_rate, momentum=c.momentum or None, nesterov=c.nesterov
    )
  elif c.name == 'adamw':
    if c.coupled:
      raise ValueError(
        'optimizer.coupled must be False for adamw: decay apart from the '
        'gradient is what sets it apart from Adam.'
      )
    core = optax.adam(plan.learning_rate, b1=c.b1, b2=c.b2, eps=c.eps)
  else:
    raise ValueError(
      f'optimizer.name must be one of sgd, adamw, got {c.name!r}.'
    )
  chain = [decay, core] if c.coupled else [core, decay]
  if c.clip_norm is not None:
    if not c.clip_norm > 0:
      raise ValueError(
        f'optimizer.clip_norm must be above 0, got {c.clip_norm}.'
      )
    chain.insert(0, optax.clip_by_global_norm(c.clip_norm))
  if isinstance(phase.method, methods.Frozen):
    chain = [optim.keep_zeros(), *chain, optim.keep_zeros()]
  return optax.chain(*chain)


def _threshold_decay(config: Any, method: Method | None) -> float | None:
  """The decay of learned thresholds; None for a method without any."""
  if not isinstance(method, methods.STR):
    return None
  decay = config.threshold_decay
  if decay is None:
    decay = config.weight_decay
  if not decay and method.init_value < -100:
    raise ValueError(
      f'STR(init_value={method.init_value:g}) moves by weight decay alone, '
      'but threshold decay is 0: set optimizer.threshold_decay (or '
      'weight_decay), or start at about -5.'
    )
  return decay


def _scheduled(config: Any, per_epoch: int, main_steps: int) -> Method | None:
  """The config's method with its durations, which only some methods have."""
  steps: dict[str, int] = {}
  for name in ('start', 'end'):
    value = fields.duration(config, name, per_epoch)
    if value is not None:
      steps[f'{name}_step'] = value
  if 'end_step' in methods.settings(config.name):
    end = steps.setdefault('end_step', main_steps // 2)
    if end > main_steps:
      raise ValueError(
        f'method.end must lie within the run of {main_steps} steps, or the '
        f'sparsity asked for is never reached; got step {end}.'
      )
  return method(config, **steps)


def _learning_rate(
  config: Any, per_epoch: int, main_steps: int
) -> schedules.Schedule:
  c = config.schedule
  main = schedules.create(
    c.name,
    c.learning_rate,
    total_steps=main_steps,
    steps_per_epoch=per_epoch,
    warmup_steps=fields.duration(c, 'warmup', per_epoch) or 0,
    hold=c.hold,
    boundaries_epochs=tuple(c.boundaries_epochs),
    factor=c.factor,
  )
  fine = config.method.finetune_learning_rate
  if fine is None:
    return main
  return lambda step: jnp.where(step < main_steps, main(step), fine)
