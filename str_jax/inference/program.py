"""A function whose weights are known, as a list of steps.

Whatever is computed of the weights alone (thresholding, say) is computed once,
so that zeros are seen where the input meets them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from str_jax.paths import THRESHOLD, Path, array_leaves, layer_name

# Operations that are the steps inside of them.
_CALLS = (
  *('jit', 'pjit', 'closed_call', 'core_call', 'remat', 'checkpoint'),
  *('custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr'),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
  """A value that does not depend on the input.

  Attributes:
    value: an array.
    names: of the weights that went into it.
  """

  value: jax.Array
  names: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Unknown:
  """A value that depends on the input.

  Attributes:
    slot: its number.
    aval: its shape and type.
  """

  slot: int
  aval: Any


Value = Known | Unknown


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
  """An operation on what depends on the input.

  Attributes:
    equation: as traced.
    operands: what goes in.
    results: what comes out.
  """

  equation: core.JaxprEqn
  operands: tuple[Value, ...]
  results: tuple[Unknown, ...]

  def run(self, operands: Sequence[Any]) -> list[Any]:
    """The operation on other values of the same shapes."""
    return _bind(self.equation, operands)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What a function does with its input.

  Attributes:
    inputs: one a leaf of the input.
    steps: in their order.
    outputs: one a leaf of the output.
    tree: of the output.
  """

  inputs: tuple[Unknown, ...]
  steps: tuple[Step, ...]
  outputs: tuple[Value, ...]
  tree: Any

  def known(self, replaced: Collection[int] = ()) -> Iterator[Known]:
    """Every known value that is read, as often as it is.

    Args:
      replaced: ids of the steps that do not count.
    """
    steps = [step for step in self.steps if id(step) not in replaced]
    for values in (*(step.operands for step in steps), self.outputs):
      yield from (value for value in values if isinstance(value, Known))

  def run(
    self,
    inputs: Sequence[Any],
    known: Mapping[int, Any],
    replaced: Mapping[int, Callable[[Any], Any]],
  ) -> Any:
    """The output.

    Args:
      inputs: the leaves of the input.
      known: the values of :meth:`known`, by their id; as they are where they
        are not in it.
      replaced: by the id of a step, what computes its one result of its one
        unknown operand.

    Returns:
      The output.
    """
    made: dict[int, Any] = {
      value.slot: x for value, x in zip(self.inputs, inputs, strict=True)
    }

    def get(value: Value) -> Any:
      if isinstance(value, Known):
        return known.get(id(value), value.value)
      return made[value.slot]

    for step in self.steps:
      call = replaced.get(id(step))
      if call is None:
        results = step.run([get(value) for value in step.operands])
      else:
        (x,) = (v for v in step.operands if isinstance(v, Unknown))
        results = [call(made[x.slot])]
      for result, value in zip(step.results, results, strict=True):
        made[result.slot] = value
    return jax.tree.unflatten(self.tree, [get(v) for v in self.outputs])


def trace(
  function: Callable[..., Any], weights: Any, inputs: Sequence[Any]
) -> Program:
  """Follows ``function(weights, *inputs)``, the weights being known.

  Args:
    function: of arrays alone, in any pytrees.
    weights: a pytree of arrays.
    inputs: pytrees of arrays, or of their shapes.

  Returns:
    The program.

  Raises:
    ValueError: a weight is no array.

  >>> import jax.numpy as jnp
  >>> layer = {'w': jnp.ones((3, 4)), 'b': jnp.ones(4)}
  >>> dense = lambda layer, x: x @ jnp.abs(layer['w']) + layer['b']
  >>> program = trace(dense, layer, [jnp.ones(3)])
  >>> [step.equation.primitive.name for step in program.steps]
  ['dot_general', 'add']
  """
  leaves = array_leaves(weights)
  jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(weights, *inputs)
  tracer = _Tracer()
  known = [
    Known(jnp.asarray(leaf), _names(path, weights))
    for path, leaf in leaves.items()
  ]
  given = tuple(tracer.unknown(aval) for aval in jaxpr.in_avals[len(known) :])
  consts = [Known(jnp.asarray(x)) for x in jaxpr.consts]
  outputs = tracer.follow(jaxpr.jaxpr, consts, [*known, *given])
  tree = jax.tree.structure(shapes)
  return Program(given, tuple(tracer.steps), tuple(outputs), tree)


def _names(path: Path, weights: Any) -> frozenset[str]:
  """The layer that a leaf is a weight of; none of thresholds and statistics."""
  if isinstance(weights, Mapping) and 'params' in weights:
    if path[0] != 'params' or path[-1] == THRESHOLD:
      return frozenset()
    path = path[1:]
  return frozenset({layer_name('/'.join(path))})


class _Tracer:
  """Takes the steps out of the calls around them, and does what it can."""

  def __init__(self) -> None:
    self.steps: list[Step] = []
    self._slots = 0

  def unknown(self, aval: Any) -> Unknown:
    self._slots += 1
    return Unknown(self._slots, aval)

  def follow(
    self,
    jaxpr: core.Jaxpr,
    consts: Sequence[Value],
    inputs: Sequence[Value],
  ) -> list[Value]:
    made: dict[Any, Value] = dict(
      zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True)
    )

    def get(atom: Any) -> Value:
      if isinstance(atom, core.Literal):
        aval: Any = atom.aval
        return Known(jnp.asarray(atom.val, aval.dtype))
      return made[atom]

    for equation in jaxpr.eqns:
      operands = [get(atom) for atom in equation.invars]
      results = self._equation(equation, operands)
      made.update(zip(equation.outvars, results, strict=True))
    return [get(atom) for atom in jaxpr.outvars]

  def _equation(
    self, equation: core.JaxprEqn, operands: list[Value]
  ) -> Sequence[Value]:
    params = equation.params
    inner = params.get('jaxpr', params.get('call_jaxpr'))
    if equation.primitive.name in _CALLS and inner is not None:
      consts = [Known(jnp.asarray(x)) for x in getattr(inner, 'consts', ())]
      return self.follow(getattr(inner, 'jaxpr', inner), consts, operands)
    known = [value for value in operands if isinstance(value, Known)]
    if len(known) == len(operands) and not equation.effects:
      names = frozenset[str]().union(*(value.names for value in known))
      values = _bind(equation, [value.value for value in known])
      return [Known(value, names) for value in values]
    results = tuple(self.unknown(var.aval) for var in equation.outvars)
    self.steps.append(Step(equation, tuple(operands), results))
    return results


def _bind(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
  primitive = equation.primitive
  params = primitive.get_bind_params(equation.params)
  results = primitive.bind(*operands, **params)
  return results if primitive.multiple_results else [results]
