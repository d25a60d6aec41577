"""The numbers among the settings of a method or a target: they are numbers."""

from __future__ import annotations

import numbers
import types
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WANTED = {int: 'a whole number', float: 'a number', types.NoneType: 'None'}


def check(settings: Any) -> None:
  """Checks each field whose type has a number in it.

  Numbers are Python's and NumPy's, and scalars of JAX, traced ones too; no
  bool is one. A whole number may be a float, such as 1e6.

  Args:
    settings: a dataclass.

  Raises:
    ValueError: a field is not of its type.

  >>> import dataclasses
  >>> Half = dataclasses.make_dataclass('Half', [('share', float | None)])
  >>> check(Half(np.float32(0.5)))
  >>> check(Half('0.5'))
  Traceback (most recent call last):
  ValueError: Half needs share to be a number or None, got '0.5' of type str:
    convert it first.
  """
  for name, kinds in _numeric(type(settings)).items():
    value = getattr(settings, name, None)  # or it is not there yet
    if hasattr(settings, name) and not any(_is(value, kind) for kind in kinds):
      wanted = [_WANTED.get(kind, f'a {kind.__name__}') for kind in kinds]
      raise ValueError(
        f'{type(settings).__name__} needs {name} to be '
        f'{" or ".join(wanted)}, got {value!r} of type '
        f'{type(value).__name__}: convert it first.'
      )


def _numeric(cls: type) -> dict[str, tuple[type, ...]]:
  """By field, the types that it may have, where a number is among them."""
  try:
    hints = typing.get_type_hints(cls)
  except NameError:  # of somebody's own method: types known to its file alone
    return {}
  found = {}
  for name, hint in hints.items():
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if union else (hint,)
    if {int, float} & {*kinds} and all(isinstance(k, type) for k in kinds):
      found[name] = kinds
  return found


def _is(value: Any, kind: type) -> bool:
  if kind not in (int, float):
    return isinstance(value, kind)
  if isinstance(value, jax.core.Tracer):
    number = np.integer if kind is int else np.number
    return value.ndim == 0 and jnp.issubdtype(value.dtype, number)
  if isinstance(value, (np.ndarray, np.generic, jax.Array)):
    if value.ndim:
      return False
    value = value.item()
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return False
  return kind is float or float(value).is_integer()
