"""The fields of a config: their ranges, and lengths in steps or epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# A run may go on with these changed: they do not change its numbers.
FREE = (
  *('data_dir', 'num_workers', 'eval_batch_size', 'fsdp', 'skip_corrupt'),
  'wandb',
)


class Unwanted(ValueError):
  """Fields are set that should not be.

  Attributes:
    names: of the fields, dotted.
  """

  def __init__(self, sentence: str, names: Sequence[str]) -> None:
    super().__init__(sentence)
    self.names = tuple(names)


_RANGES = (  # of fields: from the first number, and below the second
  ('seed', 0, 2**31),
  ('batch_size', 1, math.inf),
  ('image_size', 1, 2**13),
  ('eval_batch_size', 1, math.inf),
  ('accumulate_steps', 1, math.inf),
  ('num_workers', 0, 512),
  ('fsdp', 1, math.inf),
  ('skip_corrupt', 0, math.inf),
  ('log_every_steps', 1, math.inf),
  ('label_smoothing', 0, 1),
  ('norm_batches', 0, math.inf),
  ('model.norm_momentum', 0, 1),
  ('model.w_rank', 1, math.inf),
  ('model.u_rank', 1, math.inf),
  ('method.finetune_learning_rate', 0, math.inf),
  ('optimizer.momentum', 0, 1),
  ('optimizer.b1', 0, 1),
  ('optimizer.b2', 0, 1),
  ('optimizer.eps', 0, math.inf),
  ('optimizer.weight_decay', 0, math.inf),
  ('optimizer.threshold_decay', 0, math.inf),
  ('optimizer.dense_decay', 0, math.inf),
  ('optimizer.norm_decay', 0, math.inf),
  ('optimizer.bias_decay', 0, math.inf),
  ('schedule.learning_rate', 0, math.inf),
  ('schedule.factor', 0, math.inf),
)


def check(config: Any) -> None:
  """Checks every field that has a range.

  Args:
    config: a config, see configs/common.py; None is in any range.

  Raises:
    ValueError: a field is out of its range.
  """
  for name, low, high in _RANGES:
    part, _, field = name.rpartition('.')
    # A field that is not there: a run's folder from before it was added.
    value = (config[part] if part else config).get(field)
    if value is not None and not low <= value < high:
      limit = f' and below {high}' if high < math.inf else ''
      raise ValueError(f'{name} must be {low} or more{limit}, got {value}.')


def duration(config: Any, name: str, steps_per_epoch: int) -> int | None:
  """A length in steps, from ``<name>_steps`` or ``<name>_epochs``.

  Args:
    config: a config.
    name: the fields' common part, dotted.
    steps_per_epoch: updates an epoch.

  Returns:
    The number of steps, or None where neither field is set.

  Raises:
    ValueError: both are set, or a negative length.

  >>> config = {'schedule': {'warmup_steps': None, 'warmup_epochs': 2.5}}
  >>> duration(config, 'schedule.warmup', 10)
  25
  """
  group, _, field = name.rpartition('.')
  part = config[group] if group else config
  steps, epochs = part.get(f'{field}_steps'), part.get(f'{field}_epochs')
  if steps is not None and epochs is not None:
    raise ValueError(
      f'{name} is set twice, as {name}_steps={steps} and as '
      f'{name}_epochs={epochs}: set one of them to None.'
    )
  value = steps if epochs is None else round(epochs * steps_per_epoch)
  if value is not None and value < 0:
    raise ValueError(
      f'{name}_{"steps" if epochs is None else "epochs"} must be 0 or more, '
      f'got {steps if epochs is None else epochs}.'
    )
  return value


def every(config: Any, name: str, steps_per_epoch: int, default: int) -> int:
  """The steps between two of a kind.

  Args:
    config: a config.
    name: the fields' common part, dotted.
    steps_per_epoch: updates an epoch.
    default: where neither field is set.

  Returns:
    The number of steps.

  Raises:
    ValueError: both are set, or they come to less than 1 step.
  """
  value = duration(config, name, steps_per_epoch)
  if value == 0:
    raise ValueError(
      f'{name}_steps or {name}_epochs must come to 1 step or more, got 0.'
    )
  return default if value is None else value
