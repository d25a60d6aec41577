"""The sparsity methods, in one table of names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

from str_jax.methods.base import Method
from str_jax.methods.feather import Feather
from str_jax.methods.frozen import Frozen
from str_jax.methods.gmp import DNW, GMP
from str_jax.methods.group import STRGroup
from str_jax.methods.st3 import ST3
from str_jax.methods.str import STR
from str_jax.methods.target import Target

__all__ = [
  'DNW',
  'Feather',
  'Frozen',
  'GMP',
  'Method',
  'ST3',
  'STR',
  'STRGroup',
  'Target',
  'create',
  'names',
  'settings',
]

_METHODS: dict[str, Callable[..., Method] | None] = {
  'dense': None,
  'str': STR,
  'st3': ST3,
  'st3_sigma': functools.partial(ST3, by_shape=True),
  'feather': Feather,
  'gmp': GMP,
  'dnw': DNW,
  'str_group': functools.partial(STRGroup, rescale=False),
  'frozen': Frozen,
}


def names() -> tuple[str, ...]:
  """The names that :func:`create` knows.

  >>> 'st3' in names()
  True
  """
  return tuple(_METHODS)


def settings(name: str) -> dict[str, Any]:
  """The settings of a method: name to default, None where it has none.

  Args:
    name: one of :func:`names`.

  Returns:
    A dict in the order of the method's arguments; empty for 'dense'.

  Raises:
    ValueError: an unknown name.

  >>> settings('str')['g']
  'sigmoid'
  """
  factory = _lookup(name)
  if factory is None:
    return {}
  fixed = getattr(factory, 'keywords', {})
  method: Any = getattr(factory, 'func', factory)
  # As the method takes them: first those that may be given by their place.
  fields = sorted(
    dataclasses.fields(method), key=lambda field: bool(field.kw_only)
  )
  return {
    field.name: field.default for field in fields if field.name not in fixed
  }


def create(name: str, **values: Any) -> Method | None:
  """A method by its name.

  Args:
    name: one of :func:`names`; 'dense' is no method at all.
    **values: its settings; see each class.

  Returns:
    The method, or None for 'dense'.

  Raises:
    ValueError: an unknown name or setting, or a value out of range.

  >>> create('st3', sparsity=0.9, end_step=100).sparsity
  0.9
  >>> create('dense') is None
  True
  """
  factory = _lookup(name)
  known = settings(name)
  unknown = sorted(set(values) - set(known))
  if unknown:
    raise ValueError(
      f'the method {name} has no setting {", ".join(unknown)}; it has '
      f'{", ".join(known) or "none"}.{_in_code(values, known)}'
    )
  return None if factory is None else factory(**values)


def _in_code(values: dict[str, Any], known: Collection[str]) -> str:
  """How settings by the names of a config's fields are written in code."""
  asked = {
    field.name: values[f'target_{field.name}']
    for field in dataclasses.fields(Target)
    if f'target_{field.name}' in values
  }
  texts = []
  if asked and 'target' in known:
    if 'target' in values:
      asked = {'sparsity': values['target'], **asked}
    inside = ', '.join(f'{name}={value!r}' for name, value in asked.items())
    texts.append(f'target=str_jax.methods.Target({inside})')
  for name in ('start_step', 'end_step'):
    if f'{name}s' in values and name in known:
      texts.append(f'{name}={values[f"{name}s"]!r}')
  return f' In code it is {", ".join(texts)}.' if texts else ''


def _lookup(name: str) -> Callable[..., Method] | None:
  if name not in _METHODS:
    raise ValueError(
      f'there is no method {name!r}; the methods are {", ".join(_METHODS)}.'
    )
  return _METHODS[name]
