"""Which fields of a config's ``method`` and ``model`` fit the one named."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from str_jax import methods, models
from str_jax.training.fields import Unwanted

_GROUP = 'method'
# Fields of the model that are no sizes: all models take them, or say why not.
_OF_ALL = tuple(inspect.signature(models.create).parameters)
_TARGETS = ('target', 'target_nonzero', 'target_flops', 'target_madds')
# Of any method: what follows its training.
_AFTER = ('freeze', 'finetune', 'rewind')
_FIELDS = {  # of settings that no field has the name of
  'target': (*_TARGETS, 'target_floor'),
  'start_step': ('start_steps', 'start_epochs'),
  'end_step': ('end_steps', 'end_epochs'),
  'every_steps': ('hold',),
}
_COURSE = ('start_step', 'end_step', 'every_steps', 'power')


def check_method(config: Any) -> None:
  """Checks that the fields that are set go with the method and each other.

  Args:
    config: the part ``method`` of a config.

  Raises:
    ValueError: an unknown method, a field that it does not have, or a target
      beside what it takes the place of.
  """
  name = config.name
  settings = methods.settings(name)
  is_set = [field for field in config if config[field] is not None]
  known = list(_of(settings, config))
  others = [
    field
    for field in is_set
    if field not in ('name', *known) and not field.startswith(_AFTER)
  ]
  if others:
    raise Unwanted(_has_no(config, others, known), _dotted(others))
  if any(field in is_set for field in _TARGETS):
    _check_alone(config, settings)
  elif 'end_step' in settings and 'sparsity' not in settings:
    course = {f for setting in _COURSE for f in _FIELDS.get(setting, [setting])}
    early = [
      field
      for field in is_set
      if field in course and (field, config[field]) != ('hold', 'step')
    ]
    if early:
      raise Unwanted(
        f'the method {name} has {", ".join(_dotted(early))} on the way to a '
        'target only: set a target too, as --config.method.target=0.9, or '
        'leave it out.',
        _dotted(early),
      )


def check_model(config: Any) -> None:
  """Checks that the sizes that are set are the model's.

  Args:
    config: the part ``model`` of a config.

  Raises:
    ValueError: an unknown model, or a size that it does not have.
  """
  sizes = models.sizes_of(config.name)
  others = [
    f'model.{name}'
    for name, value in config.items()
    if value is not None and name not in (*_OF_ALL, *sizes)
  ]
  if others:
    own = [name for name in sizes if name in config]
    raise Unwanted(
      f'the model {config.name} has no {", ".join(others)}; its sizes among '
      f'the fields are {", ".join(own) or "none"}.',
      others,
    )


def _of(settings: dict[str, Any], config: Any) -> Iterator[str]:
  """The config's fields for a method's settings."""
  for setting in settings:
    for field in _FIELDS.get(setting, [setting]):
      if field in config:
        yield field


def _dotted(fields: list[str]) -> list[str]:
  return [f'{_GROUP}.{field}' for field in fields]


def _has_no(config: Any, others: list[str], known: list[str]) -> str:
  """Says that a method does not have some fields, and what would do."""
  said = f'the method {config.name} has no {", ".join(_dotted(others))}'
  is_asked = any(config.get(target) is not None for target in _TARGETS)
  if 'sparsity' in others and 'target' in known and not is_asked:
    return f'{said}: ask for it by --config.method.target={config.sparsity:g}.'
  if known:
    return f'{said}; the fields of {config.name} are {", ".join(known)}.'
  having = [
    name
    for name in methods.names()
    if set(others) <= {*_of(methods.settings(name), config)}
  ]
  if having:
    return f'{said}: take one of {", ".join(having)}.'
  return f'{said}, nor any other field: leave them out.'


def _check_alone(config: Any, settings: dict[str, Any]) -> None:
  """A target takes the place of a sparsity and of a budget by layer."""
  sets = []
  if config.get('sparsity') is not None:
    sets.append('--config.method.sparsity=None')
  if (config.get('budget') or settings.get('budget', 'global')) != 'global':
    sets.append('--config.method.budget=global')
  if sets:
    raise ValueError(
      f'the method {config.name} takes a target alone, over the whole net: set '
      f'{" and ".join(sets)}.'
    )
