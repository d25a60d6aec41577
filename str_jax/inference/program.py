"""A function whose weights are known, as a list of steps.

Whatever is computed of the weights alone (thresholding, say) is computed once,
so that zeros are seen where the input meets them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from str_jax.paths import (
  COLLECTION,
  THRESHOLD,
  Path,
  array_leaves,
  is_linen,
  layer_name,
)

# Operations that are the steps inside of them.
_CALLS = (
  *('jit', 'pjit', 'closed_call', 'core_call', 'remat', 'remat2'),
  *('checkpoint', 'custom_jvp_call', 'custom_vjp_call'),
)
# Where a weight is wanted as it is, whatever it was made of.
PRODUCTS = ('dot_general', 'conv_general_dilated')


@dataclasses.dataclass(frozen=True)
class Value:
  """An array of the function's, without its numbers.

  Attributes:
    slot: its number.
    aval: its shape and type.
    known: whether it is made of weights and constants alone.
    names: of the weights that it is made of, where it is known.
  """

  slot: int
  aval: Any
  known: bool = False
  names: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
  """An operation.

  Attributes:
    equation: as traced.
    operands: what goes in.
    results: what comes out.
  """

  equation: core.JaxprEqn
  operands: tuple[Value, ...]
  results: tuple[Value, ...]

  def run(self, operands: Sequence[Any]) -> list[Any]:
    """The operation on arrays."""
    primitive = self.equation.primitive
    params = primitive.get_bind_params(self.equation.params)
    results = primitive.bind(*operands, **params)
    return results if primitive.multiple_results else [results]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """What a function does with its input.

  Attributes:
    inputs: one a leaf of the input.
    steps: in their order.
    outputs: one a leaf of the output.
    tree: of the output.
  """

  inputs: tuple[Value, ...]
  steps: tuple[Step, ...]
  outputs: tuple[Value, ...]
  tree: Any

  def reads(self, replaced: Collection[Step] = ()) -> set[int]:
    """The slots of the known values that are read.

    Args:
      replaced: steps that do not count.
    """
    skipped = {id(step) for step in replaced}
    steps = [step for step in self.steps if id(step) not in skipped]
    read = (*(step.operands for step in steps), self.outputs)
    return {v.slot for values in read for v in values if v.known}

  def run(
    self,
    inputs: Sequence[Any],
    known: Mapping[int, Any],
    replaced: Mapping[int, Callable[[Any], Any]],
  ) -> Any:
    """The output.

    Args:
      inputs: the leaves of the input.
      known: the arrays of :meth:`reads`, by slot.
      replaced: by the slot of its only result, what computes a step of its only
        operand that is not known.

    Returns:
      The output.
    """
    made = dict(known)
    made |= {v.slot: x for v, x in zip(self.inputs, inputs, strict=True)}
    for step in self.steps:
      call = replaced.get(step.results[0].slot) if step.results else None
      if call is None:
        results = step.run([made[value.slot] for value in step.operands])
      else:
        (x,) = (value for value in step.operands if not value.known)
        results = [call(made[x.slot])]
      for value, result in zip(step.results, results, strict=True):
        made[value.slot] = result
    return jax.tree.unflatten(self.tree, [made[v.slot] for v in self.outputs])


def trace(
  function: Callable[..., Any], weights: Any, inputs: Sequence[Any]
) -> tuple[Program, dict[int, jax.Array]]:
  """Follows ``function(weights, *inputs)``, the weights being known.

  Args:
    function: of arrays alone, in any pytrees.
    weights: a pytree of arrays.
    inputs: pytrees of arrays, or of their shapes.

  Returns:
    The program, and the arrays of the known values that it reads, by slot.

  Raises:
    ValueError: no function, or a weight is no array.

  >>> import jax.numpy as jnp
  >>> layer = {'w': jnp.ones((3, 4)), 'b': jnp.ones(4)}
  >>> dense = lambda layer, x: x @ jnp.abs(layer['w']) + layer['b']
  >>> program, known = trace(dense, layer, [jnp.ones(3)])
  >>> [step.equation.primitive.name for step in program.steps]
  ['dot_general', 'add']
  >>> [array.shape for array in known.values()]
  [(4,), (3, 4)]
  """
  leaves = _checked(function, weights)
  jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(weights, *inputs)
  tracer = _Tracer()
  own = [
    tracer.known(leaf, _names(path, weights)) for path, leaf in leaves.items()
  ]
  given = tuple(tracer.value(aval) for aval in jaxpr.in_avals[len(own) :])
  consts = [tracer.known(x) for x in jaxpr.consts]
  outputs = tracer.follow(jaxpr.jaxpr, consts, [*own, *given])
  steps, outputs = tracer.settled(outputs)
  tree = jax.tree.structure(shapes)
  program = Program(given, tuple(steps), tuple(outputs), tree)
  return program, tracer.compute(sorted(program.reads()))


def _checked(
  function: Callable[..., Any], weights: Any
) -> dict[Path, jax.Array]:
  """The leaves of the weights."""
  if not callable(function):
    raise ValueError(
      'the function comes first, then its weights and its inputs, but got a '
      f'{type(function).__name__} for it.'
    )
  leaves = array_leaves(weights)
  for path, leaf in leaves.items():
    if isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct):
      raise ValueError(
        'the weights should be arrays whose numbers are known, but '
        f'{"/".join(path) or "the weight"} is a {type(leaf).__name__}: build '
        'the function outside of jit, of trained weights.'
      )
  return leaves


def _names(path: Path, weights: Any) -> frozenset[str]:
  """The layer that a leaf is a weight of; none of thresholds and statistics."""
  if is_linen(weights) or (
    isinstance(weights, Mapping) and {'params', COLLECTION} <= {*weights}
  ):
    if path[0] != 'params' or path[-1] == THRESHOLD:
      return frozenset()
    path = path[1:]
  return frozenset({layer_name('/'.join(path))})


class _Tracer:
  """Takes the steps out of the calls around them; known ones stand apart."""

  def __init__(self) -> None:
    self._steps: list[Step] = []
    self._known: list[Step] = []  # on known values alone
    self._arrays: dict[int, jax.Array] = {}  # that known values start from
    self._slots = 0

  def value(self, aval: Any, **settings: Any) -> Value:
    """A new one."""
    self._slots += 1
    return Value(self._slots, aval, **settings)

  def known(self, x: Any, names: frozenset[str] = frozenset()) -> Value:
    """That of an array."""
    array = jnp.asarray(x)
    value = self.value(jax.typeof(array), known=True, names=names)
    self._arrays[value.slot] = array
    return value

  def follow(
    self,
    jaxpr: core.Jaxpr,
    consts: Sequence[Value],
    inputs: Sequence[Value],
  ) -> list[Value]:
    """The outputs of a jaxpr, whose steps are noted."""
    made: dict[Any, Value] = dict(
      zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True)
    )

    def get(atom: Any) -> Value:
      if isinstance(atom, core.Literal):
        aval: Any = atom.aval
        return self.known(jnp.asarray(atom.val, aval.dtype))
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
      consts = [self.known(x) for x in getattr(inner, 'consts', ())]
      return self.follow(getattr(inner, 'jaxpr', inner), consts, operands)
    known = all(value.known for value in operands) and not equation.effects
    names = frozenset[str]()
    if known:
      names = names.union(*(value.names for value in operands))
    results = tuple(
      self.value(var.aval, known=known, names=names) for var in equation.outvars
    )
    steps = self._known if known else self._steps
    steps.append(Step(equation, tuple(operands), results))
    return results

  def settled(self, outputs: Sequence[Value]) -> tuple[list[Step], list[Value]]:
    """The steps and the outputs, with those first that are not to be kept.

    A constant that was spread (a mask, zeros for a maximum) is larger than what
    it was made of: it is made again in every call, where XLA need not store it.
    """
    makers = {v.slot: step for step in self._known for v in step.results}
    steps: list[Step] = []
    again: dict[int, Value] = {}

    def settle(value: Value) -> Value:
      if value.slot in again:
        return again[value.slot]
      step = makers.get(value.slot) if value.known else None
      if step is None or not _spreads(step):
        return value
      operands = tuple(map(settle, step.operands))
      results = tuple(self.value(v.aval) for v in step.results)
      steps.append(Step(step.equation, operands, results))
      again.update(zip((v.slot for v in step.results), results, strict=True))
      return again[value.slot]

    for step in self._steps:
      if step.equation.primitive.name not in PRODUCTS:
        operands = tuple(map(settle, step.operands))
        step = dataclasses.replace(step, operands=operands)
      steps.append(step)
    return steps, [settle(value) for value in outputs]

  def compute(self, slots: Sequence[int]) -> dict[int, jax.Array]:
    """The arrays of known values; one program, which leaves out the rest."""

    def values(arrays: dict[int, jax.Array]) -> dict[int, jax.Array]:
      made = dict(arrays)
      for step in self._known:
        results = step.run([made[value.slot] for value in step.operands])
        made.update(zip((v.slot for v in step.results), results, strict=True))
      return {slot: made[slot] for slot in slots if slot not in arrays}

    made = jax.jit(values)(self._arrays) if self._known else {}
    return {s: made[s] if s in made else self._arrays[s] for s in slots}


def _spreads(step: Step) -> bool:
  sizes = [sum(v.aval.size for v in x) for x in (step.results, step.operands)]
  return sizes[0] > sizes[1]
