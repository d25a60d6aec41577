"""The kinds of NNX variables that thresholds are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from str_jax.methods import Method


class Threshold(nnx.Variable):
  """Any threshold, learned or computed: a filter for all of them.

  >>> from flax import nnx
  >>> import str_jax
  >>> method = str_jax.methods.create('str', target=0.9)  # has one of each
  >>> layer = str_jax.nnx.Linear(2, 3, rngs=nnx.Rngs(0), method=method)
  >>> list(nnx.state(layer, Threshold))
  ['computed_threshold', 'kernel_threshold']
  """


class LearnedThreshold(Threshold, nnx.Param):
  """A threshold that the optimizer trains: it is an ``nnx.Param``.

  >>> from flax import nnx
  >>> import str_jax
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> layer = str_jax.nnx.Linear(2, 3, rngs=nnx.Rngs(0), method=method)
  >>> list(nnx.state(layer, nnx.Param))
  ['bias', 'kernel', 'kernel_threshold']
  >>> list(nnx.state(layer, nnx.All(nnx.Param, nnx.Not(Threshold))))
  ['bias', 'kernel']
  """


class ComputedThreshold(Threshold):
  """A threshold that ``str_jax.nnx.update_thresholds`` sets.

  >>> from flax import nnx
  >>> import str_jax
  >>> method = str_jax.methods.create('st3', sparsity=0.9)
  >>> layer = str_jax.nnx.Linear(2, 3, rngs=nnx.Rngs(0), method=method)
  >>> list(nnx.state(layer, nnx.Param))
  ['bias', 'kernel']
  >>> list(nnx.state(layer, ComputedThreshold))
  ['computed_threshold']
  """


def initial(method: Method, w: Any) -> tuple[Threshold, ...]:
  """The thresholds of a weight at the start, in the order of its method.

  Args:
    method: the method.
    w: the weight, of which shape and type alone are looked at.

  Returns:
    The learned one and the computed one, as far as the method has them.

  Raises:
    ValueError: the method is none.
  """
  check(method)
  learned, computed = method.init_learned(w), method.init_computed(w)
  found: list[Threshold] = []
  if learned is not None:
    found.append(LearnedThreshold(learned))
  if computed is not None:
    found.append(ComputedThreshold(computed))
  return tuple(found)


def check(method: Any) -> None:
  """Raises a ValueError for what is no method."""
  if not isinstance(method, Method):
    raise ValueError(
      'method should be a method, as str_jax.methods.create(name, ...) gives '
      f'it, or None, but it is {method!r}.'
    )


KeyPath = tuple[Any, ...]
Read = Callable[
  [KeyPath, Method, nnx.Variable, tuple[Threshold, ...]], nnx.Variable
]


def effective(
  path: KeyPath,
  method: Method,
  weight: nnx.Variable,
  leaves: tuple[Threshold, ...],
) -> nnx.Variable:
  """A variable like a weight's, with what the forward pass sees of it.

  Args:
    path: of the weight, not looked at here.
    method: its method.
    weight: the raw weight, which stays as it is.
    leaves: its thresholds.

  Returns:
    A new variable of the weight's kind.
  """
  del path
  values = (leaf.get_value() for leaf in leaves)
  return weight.copy(method(weight.get_value(), *values))
