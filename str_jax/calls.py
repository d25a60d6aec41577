"""How anybody's model is called, beside its input."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from flax import linen as nn


def call_arguments(model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """What anybody's Linen model is called with beside its input.

  Args:
    model: a Linen model.
    kwargs: what the user says.

  Returns:
    That, with `train=False` where the model knows it and the user says nothing:
    a trained network's call.

  Raises:
    ValueError: no Linen model.
  """
  if not isinstance(model, nn.Module):
    if isinstance(model, type):
      raise ValueError(
        f'this needs an instance of a model, but got the class '
        f'{model.__name__}: pass {model.__name__}(...).'
      )
    name = type(model).__name__
    raise ValueError(
      'this needs a Linen model, an instance of flax.linen.Module, but got a '
      f'{name} of the module {type(model).__module__}: of an NNX class, '
      f'flax.nnx.bridge.to_linen({name}, ...) makes a Linen model.'
    )
  return not_training(model, kwargs)


def not_training(model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments of a call, with `train=False` where it is known and not said.

  Args:
    model: what is called.
    kwargs: what the user says.

  Returns:
    All keyword arguments.

  >>> not_training(lambda x, train: x, {}), not_training(lambda x: x, {})
  ({'train': False}, {})
  """
  known = inspect.signature(model).parameters
  return {**({'train': False} if 'train' in known else {}), **kwargs}
