"""What a config means in numbers: steps, phases, model, optimizer."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import optax

from str_jax import methods, optim
from str_jax.methods import Method
from str_jax.training import build, fields, phases
from str_jax.training.phases import Phase
from str_jax.training.schedule import Schedule

_DRAWN = 0.02  # decay of the shares of a target's thresholds, docs/targets.md


@dataclasses.dataclass(frozen=True)
class Plan:
  """The numbers of a run.

  Attributes:
    steps_per_epoch: updates an epoch, the last partial batch counted.
    phases: the training, and what comes after the pattern is frozen, within
      the schedule or in fine-tuning, if anything does.
    settled_step: from which step on a checkpoint may be called the best.
    learning_rate: a function of the number of updates made so far.
    eval_every: steps between evaluations on validation.
    checkpoint_every: steps between checkpoints.
    kept_step: a step whose checkpoint stays; None for none.
  """

  steps_per_epoch: int
  phases: tuple[Phase, ...]
  settled_step: int
  learning_rate: Schedule
  eval_every: int
  checkpoint_every: int
  kept_step: int | None = None

  @property
  def total_steps(self) -> int:
    """The steps of all phases."""
    return self.phases[-1].stop

  def phase_of(self, step: int) -> int:
    """The index of the phase whose state a checkpoint of this step holds."""
    return sum(step > phase.stop for phase in self.phases)


def create(
  config: Any, train_size: int, inputs: build.Inputs | None = None
) -> Plan:
  """Works out the numbers of a run, and checks them.

  Args:
    config: a config, see configs/common.py.
    train_size: number of training examples.
    inputs: for a target of FLOPs.

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
  main_method = build.scheduled(config, per_epoch, main_steps, inputs)
  parts = phases.create(config, main_method, per_epoch, main_steps)
  settled = 0 if main_method is None else main_method.settled_step
  if settled is None:
    settled = min(parts[0].stop, math.ceil(0.9 * main_steps))
  for part in parts:  # now, not when the run comes to it
    _dense_decay(config.optimizer, part.method)
  kept = fields.duration(config, 'checkpoint_keep', per_epoch)
  if kept is not None and kept >= parts[-1].stop:
    raise ValueError(
      'checkpoint_keep, which imp.rewind sets too, must lie within the run of '
      f'{parts[-1].stop} steps, got step {kept}.'
    )
  return Plan(
    steps_per_epoch=per_epoch,
    phases=parts,
    settled_step=settled,
    learning_rate=phases.learning_rate(config, per_epoch, main_steps),
    eval_every=fields.every(config, 'eval_every', per_epoch, per_epoch),
    checkpoint_every=fields.every(
      config, 'checkpoint_every', per_epoch, max(main_steps // 10, 1)
    ),
    kept_step=kept,
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
    thresholds=threshold_decay(c, phase.method),
    norms=c.norm_decay,
    biases=c.bias_decay,
    dense_kernels=_dense_decay(c, phase.method),
    coupled=c.coupled,
    learning_rate=plan.learning_rate,
  )
  if c.name == 'sgd':
    core = optax.sgd(
      plan.learning_rate, momentum=c.momentum or None, nesterov=c.nesterov
    )
  elif c.name in ('adam', 'adamw'):
    if c.coupled == (c.name == 'adamw'):
      raise ValueError(
        f'optimizer.coupled must be {not c.coupled} for {c.name}: decay apart '
        'from the gradient is what sets adamw apart from adam.'
      )
    core = optax.adam(plan.learning_rate, b1=c.b1, b2=c.b2, eps=c.eps)
  else:
    raise ValueError(
      f'optimizer.name must be one of sgd, adam, adamw, got {c.name!r}.'
    )
  chain = [decay, core] if c.coupled else [core, decay]
  clip = None
  if c.clip_norm is not None:
    if not c.clip_norm > 0:
      raise ValueError(
        f'optimizer.clip_norm must be above 0, got {c.clip_norm}.'
      )
    clip = optax.clip_by_global_norm(c.clip_norm)
  if (
    isinstance(phase.method, methods.STR)
    and phase.method.granularity == 'global'
  ):
    clip = optim.tie_thresholds(clip)
  if clip is not None:
    chain.insert(0, clip)
  if isinstance(phase.method, methods.Frozen):
    chain = [optim.keep_zeros(), *chain, optim.keep_zeros()]
  return optax.chain(*chain)


def _dense_decay(config: Any, method: Method | None) -> float | None:
  """The decay of kernels that no learned threshold stands beside."""
  decay = config.get('dense_decay')
  if decay is not None and not isinstance(method, methods.STR):
    raise ValueError(
      'optimizer.dense_decay tells kernels apart by their learned thresholds, '
      f'but {"dense" if method is None else type(method).__name__} has none: '
      'leave it out, and with it method.freeze, finetune and rewind, which '
      'write the thresholds into the weights.'
    )
  return decay


def threshold_decay(config: Any, method: Method | None) -> float | None:
  """The decay of learned thresholds.

  Args:
    config: a config's part ``optimizer``.
    method: of the phase.

  Returns:
    The rate; None for a method without any.

  Raises:
    ValueError: thresholds that only decay can move, and none of it.
  """
  if not isinstance(method, methods.STR):
    return None
  decay = config.threshold_decay
  if method.target is not None:
    return _DRAWN if decay is None else decay
  if decay is None:
    decay = config.weight_decay
  if not decay and method.init_value < -100:
    raise ValueError(
      f'STR(init_value={method.init_value:g}) moves by weight decay alone, '
      'but threshold decay is 0: set optimizer.threshold_decay (or '
      'weight_decay), or start at about -5.'
    )
  return decay
