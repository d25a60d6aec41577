"""The rows of the study: methods with the settings that were tried."""

from __future__ import annotations

import dataclasses
from typing import Any

Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
  """What rows are trained on.

  Attributes:
    config: of the trainer's, with its variant.
    targets: fractions of zeros.
    steps: lengths of a run.
    fields: of the config, for all rows.
  """

  config: str
  targets: str
  steps: str
  fields: Fields


DATA = {
  'digits': Data(
    'digits.py:dense',
    '0.8,0.9,0.95,0.98,0.99',
    '600,2400',
    {
      'validation': 480,
      'schedule.warmup_steps': 30,
      'optimizer.clip_norm': 3.0,  # else straight-through gradients diverge
    },
  ),
  'cifar10': Data(
    'cifar10.py:dense',
    '0.9,0.95,0.98',
    '800',
    {
      'model.name': 'resnet8',
      'validation': 40_000,  # 10,000 are left to train on
      'schedule.warmup_steps': 40,
      'schedule.warmup_epochs': None,
      'optimizer.clip_norm': 3.0,
    },
  ),
  'cifar10_all': Data(
    'cifar10.py:dense',
    '0.9,0.95,0.98',
    '7000',
    {
      'validation': 5_000,
      'schedule.warmup_steps': 350,
      'schedule.warmup_epochs': None,
      'optimizer.clip_norm': 3.0,
    },
  ),
}

# Everything said, so that a row stays what it is when a default changes.
_MASKED = {
  'method.name': 'str',
  'method.rate': 0.1,
  'method.gradient_scale': 0.0,
  'method.rescale': False,
  'method.power': 3.0,
  'optimizer.threshold_decay': 0.0,
}
_STRAIGHT = _MASKED | {
  'method.gradient_scale': 0.3,
  'method.rescale': True,
  'optimizer.threshold_decay': 0.02,
}
_UNSCALED = _STRAIGHT | {'method.rescale': False}
_ADAMW = {
  'optimizer.name': 'adamw',
  'optimizer.coupled': False,
  'optimizer.weight_decay': 1e-2,
  'schedule.learning_rate': 3e-3,
}
# Of STR with a target: what each row changes.
TARGETED: dict[str, Fields] = {
  'default': {'method.name': 'str'},  # what was chosen
  # TARGET's two: STR's own gradient, and one that also moves zeroed weights.
  'masked': _MASKED,
  'straight': _STRAIGHT,
  # How fast the shares move.
  **{
    f'masked rate {r:g}': _MASKED | {'method.rate': r} for r in (0.03, 0.3, 1)
  },
  **{
    f'straight rate {r:g}': _STRAIGHT | {'method.rate': r}
    for r in (0.0, 0.03, 0.3)
  },
  # The parts of the second, one at a time.
  'masked rescale': _MASKED | {'method.rescale': True},
  'masked drawn': _MASKED | {'optimizer.threshold_decay': 0.02},
  'masked rescale drawn': _MASKED
  | {'method.rescale': True, 'optimizer.threshold_decay': 0.02},
  **{
    f'straight share {x:g}': _STRAIGHT | {'method.gradient_scale': x}
    for x in (0.1, 0.6, 1)
  },
  'straight not rescaled': _UNSCALED,
  'straight not drawn': _STRAIGHT | {'optimizer.threshold_decay': 0.0},
  **{
    f'straight drawn {x:g}': _STRAIGHT | {'optimizer.threshold_decay': x}
    for x in (0.005, 0.1)
  },
  # A floor, filters, the way to the target.
  'masked floor': _MASKED | {'method.target_floor': 16},
  'straight floor': _STRAIGHT | {'method.target_floor': 16},
  'straight filter': _STRAIGHT | {'method.granularity': 'filter'},
  **{
    f'straight power {x:g}': _STRAIGHT | {'method.power': x} for x in (1, 2, 5)
  },
  # Zeroed weights that move a little, at the scale that they have.
  **{
    f'unscaled {name}': _UNSCALED | changed
    for name, changed in {
      'share 0.1': {'method.gradient_scale': 0.1},
      'share 0.6': {'method.gradient_scale': 0.6},
      'share 1': {'method.gradient_scale': 1.0},
      'not drawn': {'optimizer.threshold_decay': 0.0},
      'rate 0': {'method.rate': 0.0},
      'rate 0.3': {'method.rate': 0.3},
      'rate 1': {'method.rate': 1.0},
      'power 5': {'method.power': 5.0},
      'power 8': {'method.power': 8.0},
      'power 12': {'method.power': 12.0},
      'share 0.45 power 5': {
        'method.power': 5.0,
        'method.gradient_scale': 0.45,
      },
      'share 0.6 power 5': {'method.power': 5.0, 'method.gradient_scale': 0.6},
      'floor': {'method.target_floor': 16},
      'filter': {'method.granularity': 'filter'},
      'adamw': _ADAMW,
    }.items()
  },
  'masked adamw': _MASKED | _ADAMW,
  'straight adamw': _STRAIGHT | _ADAMW,
  'default adamw': {'method.name': 'str'} | _ADAMW,
  'default rescale adamw': {'method.name': 'str', 'method.rescale': True}
  | _ADAMW,
  'default masked rescale adamw': {
    'method.name': 'str',
    'method.rescale': True,
    'method.gradient_scale': 0.0,
  }
  | _ADAMW,
  'default share 0.1 rescale adamw': {
    'method.name': 'str',
    'method.rescale': True,
    'method.gradient_scale': 0.1,
  }
  | _ADAMW,
}
# As many FLOPs left as there would be weights.
FLOPS: dict[str, Fields] = {
  'default FLOPs': {'method.name': 'str'},
  'st3 FLOPs': {'method.name': 'st3'},
}
OTHERS: dict[str, Fields] = {
  'dense': {'method.name': 'dense'},
  'st3': {'method.name': 'st3'},
  'st3_sigma': {'method.name': 'st3_sigma'},
  # How much of it is the way there.
  'st3 power 8': {'method.name': 'st3', 'method.power': 8.0},
  'st3_sigma power 8': {'method.name': 'st3_sigma', 'method.power': 8.0},
  'gmp': {'method.name': 'gmp'},
  'feather': {'method.name': 'feather', 'method.gradient_scale': 1.0},
  'st3 adamw': {'method.name': 'st3'} | _ADAMW,
}
# Plain STR by its one dial: s, weights and norms decay alike from s = -10.
PLAIN = {f'str {x:g}': x for x in (4e-3, 8e-3, 1.2e-2, 1.6e-2, 2e-2)}


def names() -> list[str]:
  """All rows."""
  return [*TARGETED, *FLOPS, *OTHERS, *PLAIN]


def fields(row: str, target: float, steps: int) -> Fields:
  """What a row sets in the config, for a run of so many steps.

  Raises:
    KeyError: an unknown row.
  """
  if row in PLAIN:
    return {
      'method.name': 'str',
      'method.init_value': -10.0,
      'optimizer.weight_decay': PLAIN[row],
    }
  if row in TARGETED:
    return TARGETED[row] | {'method.target': target}
  if row in FLOPS:
    return FLOPS[row] | {'method.target_flops': round(1 - target, 6)}
  chosen = OTHERS[row]
  if row == 'dense':
    return chosen
  # On the same way as those with a target.
  way = {'method.start_steps': steps // 20, 'method.end_steps': steps // 2}
  return chosen | way | {'method.sparsity': target}
