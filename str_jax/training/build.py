"""The model and the method that a config describes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from str_jax import budgets, flops, layout, methods, models, paths
from str_jax import lowering as lowerings
from str_jax.methods import Method
from str_jax.training import fields, fitting, records

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_DURATIONS = ('start', 'end', 'freeze', 'finetune', 'rewind')
# Fields that are no settings themselves; settings are made of them here.
_TRANSLATED = ('name', 'hold', 'budget')
_TARGET = 'target'  # and what fields of a target begin with
# Of a run's length, where none is set: when the zeros of a target begin (others
# begin at once), and when any sparsity holds.
_START, _END = 0.05, 0.5


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a model is made for: the images' shape and the classes."""

  image_shape: tuple[int, ...]
  num_classes: int


def method(config: Any, **values: Any) -> Method | None:
  """The method of a config's part ``method``.

  Args:
    config: that part; fields that are None are left to the method.
    **values: further settings: steps, and uses for a target of FLOPs, which
      the forward pass does not need.

  Returns:
    The method; None for 'dense'.

  Raises:
    FileNotFoundError: the file of its budget is missing.
    ValueError: an unknown method, or fields that it does not have.
  """
  fitting.check_method(config)
  if config.get('budget') is not None:
    values['budget'] = _budget(config.budget)
  target = asked(config, values.pop('uses', None))
  if target is not None:
    values[_TARGET] = target
  values |= {
    k: v
    for k, v in config.items()
    if v is not None
    and k not in _TRANSLATED
    and not k.startswith((*_DURATIONS, _TARGET))
  }
  return methods.create(config.name, **values)


def asked(
  config: Any, uses: Mapping[str, int] | None = None
) -> methods.Target | None:
  """The target of a config's part ``method``; None where none is set.

  Args:
    config: that part.
    uses: multiply-adds of a weight of each layer, for a target of FLOPs.

  Returns:
    The target, from method.target, target_nonzero, target_flops, target_madds
    and target_floor.

  Raises:
    ValueError: more than one is set, or one out of range.
  """
  values = {
    field.name: config.get(_field_of(field.name))
    for field in dataclasses.fields(methods.Target)
    if field.name not in ('uses', 'floor')
  }
  values = {name: value for name, value in values.items() if value is not None}
  floor = config.get(f'{_TARGET}_floor')
  if not values:
    if floor is not None:
      raise ValueError(
        'method.target_floor is the least that a layer keeps on the way to a '
        'target: set a target too, or leave it out.'
      )
    return None
  if len(values) > 1:
    raise ValueError(
      'a run has one target, but '
      f'{" and ".join(f"method.{_field_of(name)}" for name in values)} are set.'
    )
  return methods.Target(**values, uses=uses, floor=floor or 0)


def _field_of(name: str) -> str:
  """The config's field of a target's."""
  return _TARGET if name == 'sparsity' else f'{_TARGET}_{name}'


def beside(config: Any) -> dict[str, Any]:
  """Settings of the method that hang on the optimizer and the model.

  Adam divides a weight's gradient by its usual size, so zeroed weights, which
  get a share of it, would move nearly as the others do: the method's own
  defaults are for it. With SGD others do better, see docs/targets.md. A
  pattern runs along the inputs of a kernel, which the model knows.

  Args:
    config: a config.

  Returns:
    Settings by name, which fields of the config's method go before.
  """
  if config.method.get('pattern') is not None:
    made = model(config, 1, None)
    inputs: Any = getattr(made, 'kernel_inputs', dict)()
    return {'inputs': inputs} if inputs else {}
  adam = config.optimizer.name in ('adam', 'adamw')
  if adam or config.method.name != 'str' or asked(config.method) is None:
    return {}
  return {'rescale': False, 'gradient_scale': 0.3}


def scheduled(
  config: Any, per_epoch: int, main_steps: int, inputs: Inputs | None
) -> Method | None:
  """The config's method with its course: what hangs on the run's length.

  Args:
    config: a config.
    per_epoch: steps an epoch.
    main_steps: length of the training, in steps.
    inputs: for a method that counts FLOPs.

  Returns:
    The method; None for 'dense'.

  Raises:
    ValueError: a field out of range, or one that the method does not have.
  """
  c = config.method
  fitting.check_method(c)
  values: dict[str, Any] = beside(config)
  for name in ('start', 'end'):
    value = fields.duration(config, f'method.{name}', per_epoch)
    if value is not None:
      values[f'{name}_step'] = value
  known = methods.settings(c.name)
  target = asked(c)
  if 'end_step' in known and (target is not None or 'sparsity' in known):
    values.setdefault('end_step', max(int(_END * main_steps), 1))
    if target is not None:
      start = min(int(_START * main_steps), values['end_step'] - 1)
      values.setdefault('start_step', start)
  if c.get('hold') not in (None, 'step', 'epoch'):
    raise ValueError(f'method.hold must be one of step, epoch, got {c.hold!r}.')
  if c.get('hold') == 'epoch':
    values['every_steps'] = per_epoch
  start, end = values.get('start_step', 0), values.get('end_step')
  if end is not None and start >= end:
    raise ValueError(
      'method.start must come before method.end, where the sparsity is '
      f'reached, got step {start} and step {end}.'
    )
  if target is not None and target.counts_flops:
    values['uses'] = _uses(config, inputs)
  created = method(c, **values)
  settled = created.settled_step if 'end_step' in known and created else 0
  if settled is not None and settled > main_steps:
    raise ValueError(
      f'method.end must lie within the run of {main_steps} steps, or the '
      f'sparsity asked for is never reached; got step {settled}.'
    )
  return created


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
  settings = {k: v for k, v in config.model.items() if v is not None}
  fitting.check_model(config.model)
  dtype = settings.pop('dtype')
  if dtype not in _DTYPES:
    raise ValueError(
      f'model.dtype must be one of {", ".join(_DTYPES)}, got {dtype!r}.'
    )
  return models.create(
    settings.pop('name'),
    num_classes=num_classes,
    method=method,
    dtype=_DTYPES[dtype],
    **settings | {'lowering': lowering(config)},
  )


def lowering(config: Any) -> str:
  """How the config's model computes its convolutions here.

  Args:
    config: a config.

  Returns:
    One of ``str_jax.lowering.NAMES``.

  Raises:
    ValueError: an unknown name.
  """
  name = config.model.lowering
  known = ('auto', *lowerings.NAMES)
  if name not in known:
    raise ValueError(
      f'model.lowering must be one of {", ".join(known)}, got {name!r}.'
    )
  if name != 'auto':
    return name
  # The CPU's own convolutions hold loops over the batch, which shard badly.
  alone = jax.default_backend() == 'cpu' and jax.device_count() == 1
  return 'cpu' if alone else 'xla'


def inline_budget(config: Any, directory: str | os.PathLike | None) -> None:
  """Puts what a budget file holds into the config, in place of its name.

  The run then goes on, and can be evaluated, without the file.

  Args:
    config: a config; its ``method.budget`` is changed.
    directory: the folder of the run; a run that is there already knows the
      budget, should the file be gone.

  Raises:
    FileNotFoundError: the file is missing.
    ValueError: it is damaged.
  """
  budget = config.method.get('budget')
  if budget is None or not budget.endswith('.csv'):
    return
  saved = None if directory is None else pathlib.Path(directory, 'config.json')
  if not os.path.exists(budget) and saved is not None and saved.exists():
    config.method.budget = records.read_json(saved)['method']['budget']
    return
  shares = budgets.read_csv(budget).items()
  config.method.budget = ','.join(f'{layer}={p!r}' for layer, p in shares)


def _budget(value: str) -> str | budgets.Budget:
  """A budget by its name, out of a CSV file, or written out."""
  if value.endswith('.csv'):
    return budgets.read_csv(value)
  if '=' not in value:
    return value
  pairs = [entry.rpartition('=') for entry in value.split(',')]
  try:
    shares = {layer: float(share) for layer, _, share in pairs}
  except ValueError:
    shares = {}
  if len(shares) < len(pairs):
    raise ValueError(
      'method.budget must be a name, a file NAME.csv or LAYER=SPARSITY,... '
      f'with every layer once, got {value!r}.'
    )
  return shares


def prunable(config: Any, inputs: Inputs) -> set[paths.Path]:
  """The weights of the layers to which a config's model gives a method.

  Args:
    config: a config.
    inputs: what the model is made for.

  Returns:
    Their paths.
  """
  probe = methods.STR()  # any one that leaves thresholds where it is taken
  return set(layout.sparse_weights(probe, _shapes(config, inputs, probe)))


def _uses(config: Any, inputs: Inputs | None) -> dict[str, int]:
  """The multiply-adds of each weight of a layer."""
  if inputs is None:
    raise ValueError('a target of FLOPs needs the shape of the images.')
  dense = model(config, inputs.num_classes, None)
  counts = flops.count(dense, inputs.image_shape)
  return flops.uses(counts, _shapes(config, inputs, None))


def _shapes(config: Any, inputs: Inputs, method: Method | None) -> Any:
  """The variables of the config's model, without their values."""
  made = model(config, inputs.num_classes, method)
  image = jax.ShapeDtypeStruct((1, *inputs.image_shape), jnp.float32)
  return jax.eval_shape(made.init, jax.random.key(0), image)
