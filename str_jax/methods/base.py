"""The interface of a sparsity method: a pure function of weight and threshold.

A method is a frozen dataclass of numbers and strings: equal settings hash
equal, so a method may be a static argument and never retraces.
"""

from __future__ import annotations

import abc
import dataclasses
import types
from collections.abc import Mapping

import jax

from str_jax.methods import numeric

Leaves = tuple[jax.Array, ...]
NONE_DENSE: Mapping[str, int] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
  """``effective = method(w, *leaves)``, the weight that the layer uses.

  The leaves are the method's own variables beside one weight: a learned
  threshold, which the optimizer trains, a computed one, which ``update`` sets
  at the end of a step, both (in that order) or none.
  """

  def __post_init__(self) -> None:
    numeric.check(self)

  def init_learned(self, w: jax.Array) -> jax.Array | None:
    """The initial learned leaf of a weight, or None if the method has none."""
    del w
    return None

  def init_computed(self, w: jax.Array) -> jax.Array | None:
    """The initial computed leaf of a weight, or None if it has none."""
    del w
    return None

  @abc.abstractmethod
  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    """The effective weight, of the shape and type of ``w``."""

  @abc.abstractmethod
  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    """The threshold on ``abs(compared(w))``, broadcasting against it."""

  def compared(self, w: jax.Array) -> jax.Array:
    """What a threshold is compared with, by its magnitude; ``w`` by default.

    What is no larger than the threshold is zeroed: a weight or, where this
    has fewer entries than ``w``, against which it broadcasts, a group of them.
    """
    return w

  def update(
    self,
    weights: Mapping[str, jax.Array],
    leaves: Mapping[str, Leaves],
    step: jax.Array,
    dense: Mapping[str, int] = NONE_DENSE,
  ) -> Mapping[str, jax.Array]:
    """The computed leaves after ``step`` updates.

    Args:
      weights: by path.
      leaves: of each weight, learned and computed.
      step: number of updates made so far.
      dense: by path, the number of weights of each layer without thresholds.

    Returns:
      The leaves by path of their weight; empty for a method without any.
    """
    del weights, leaves, step, dense
    return {}

  def centre(self, leaves: Mapping[str, Leaves]) -> Mapping[str, jax.Array]:
    """The learned leaves without what they have in common to no effect.

    Args:
      leaves: of each weight, learned and computed, by path.

    Returns:
      The learned leaves by path; empty where all of them has an effect.
    """
    del leaves
    return {}

  def __str__(self) -> str:
    """The settings that are not the default, those by layer only counted."""
    texts = []
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value == field.default:
        continue
      by_layer = isinstance(value, tuple)
      text = f'{len(value)} layers' if by_layer else f'{value!r}'
      texts.append(f'{field.name}={text}')
    return f'{type(self).__name__}({", ".join(texts)})'

  @property
  def settled_step(self) -> int | None:
    """The step from which the sparsity asked for holds; None: never known."""
    return 0
