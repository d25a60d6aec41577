"""The phases of a run: training, and what follows the freeze of its zeros."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from str_jax import methods
from str_jax.methods import Method
from str_jax.training import fields
from str_jax.training import schedule as schedules


@dataclasses.dataclass(frozen=True)
class Phase:
  """Steps from ``start`` up to ``stop``, trained with one method."""

  method: Method | None
  start: int
  stop: int


def create(
  config: Any, method: Method | None, per_epoch: int, main_steps: int
) -> tuple[Phase, ...]:
  """The phases of a run.

  The zeros are frozen after the last step of the schedule, where fine-tuning
  follows, or within the schedule, at ``method.freeze_steps | freeze_epochs``;
  there is one phase where neither is asked for.

  Args:
    config: a config, see configs/common.py.
    method: of the training, before the freeze.
    per_epoch: updates an epoch.
    main_steps: length of the schedule.

  Returns:
    One phase or two, the second with the method 'frozen'.

  Raises:
    ValueError: a length that is out of range, or contradicts another.
  """
  total = main_steps + _finetune_steps(config, per_epoch, main_steps)
  freeze = _freeze_step(config, method, per_epoch, main_steps)
  if freeze == total:
    return (Phase(method, 0, total),)
  return (
    Phase(method, 0, freeze),
    Phase(methods.Frozen(), freeze, total),
  )


def learning_rate(
  config: Any, per_epoch: int, main_steps: int
) -> schedules.Schedule:
  """The learning rate over all phases.

  Args:
    config: a config, see configs/common.py.
    per_epoch: updates an epoch.
    main_steps: length of the schedule.

  Returns:
    A function of the number of updates made so far: the schedule, and in the
    fine-tuning the schedule again from the step rewound to, a constant, or
    whatever the schedule gives beyond its end.

  Raises:
    ValueError: an unknown schedule, or a length that is out of range.
  """
  c = config.schedule
  main = schedules.create(
    c.name,
    c.learning_rate,
    total_steps=main_steps,
    steps_per_epoch=per_epoch,
    warmup_steps=fields.duration(config, 'schedule.warmup', per_epoch) or 0,
    hold=c.hold,
    boundaries_epochs=tuple(c.boundaries_epochs),
    factor=c.factor,
  )
  rewind = fields.duration(config, 'method.rewind', per_epoch)
  if rewind is not None:
    back = main_steps - rewind
    return lambda step: main(jnp.where(step < main_steps, step, step - back))
  fine = config.method.finetune_learning_rate
  if fine is None:
    return main
  return lambda step: jnp.where(step < main_steps, main(step), fine)


def _freeze_step(
  config: Any, method: Method | None, per_epoch: int, main_steps: int
) -> int:
  """After which step the zeros stay, were there a step after it."""
  freeze = fields.duration(config, 'method.freeze', per_epoch)
  if freeze is None:
    return main_steps
  if method is None:
    raise ValueError(
      'method.freeze is for a sparse method: dense has no zeros to keep.'
    )
  first = max(method.settled_step or 0, 1)
  if not first <= freeze < main_steps:
    raise ValueError(
      f'method.freeze must lie between step {first}, when the method has '
      f'reached its sparsity, and step {main_steps - 1}, the last but one of '
      f'the schedule, got step {freeze}.'
    )
  return freeze


def _finetune_steps(config: Any, per_epoch: int, main_steps: int) -> int:
  """The length of the fine-tuning: given, or of the rewound schedule."""
  c = config.method
  steps = fields.duration(config, 'method.finetune', per_epoch)
  rewind = fields.duration(config, 'method.rewind', per_epoch)
  rate = c.finetune_learning_rate
  if rewind is None:
    if steps and rate is None and config.schedule.name == 'cosine':
      raise ValueError(
        'method.finetune_learning_rate is needed for fine-tuning: the cosine '
        'schedule has come down to 0 by then.'
      )
    return steps or 0
  if steps is not None or rate is not None:
    raise ValueError(
      'method.rewind sets both length and learning rate of the fine-tuning: '
      'set method.finetune_steps, finetune_epochs and finetune_learning_rate '
      'to None.'
    )
  if rewind >= main_steps:
    raise ValueError(
      f'method.rewind must be a step before the end of the schedule of '
      f'{main_steps} steps, got step {rewind}.'
    )
  return main_steps - rewind
