"""What meets in a computation: the multiply-adds of a trace, by layer.

A function is traced abstractly, and the data flow of the trace is followed from
its input and from its weights: where the two meet in a convolution, a dot
product or a product, the multiply-adds are those of the weight's layer. So a
weight may be thresholded on its way, and a convolution written as something
else. Nothing is computed.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend import core

# What went into a value of the trace: the input, whatever else beside it; else
# the weights of some layers; else nothing of interest.
Origin = frozenset[str]
_NOTHING: Origin = frozenset()
_INPUT: Origin = frozenset({'<input>'})
NO_LAYER = '<no layer>'  # whose multiply-adds are those of no weights
Counts = collections.Counter[str]


def multiply_adds(
  function: Callable[..., Any],
  weights: Any,
  layers: Sequence[str | None],
  *inputs: Any,
) -> Counts:
  """The multiply-adds of ``function(weights, *inputs)``, by layer.

  Args:
    function: of arrays alone, in any pytrees.
    weights: a pytree of arrays or of their shapes.
    layers: for each of its leaves in order, the layer that it is a weight of;
      None for what multiplies nothing.
    *inputs: pytrees of arrays or of their shapes.

  Returns:
    The multiply-adds of each layer, in the order of use. Those of two things
    computed of the input are `NO_LAYER`'s.

  Raises:
    ValueError: a weight meets the input never, or in a while loop, or it cannot
      be said which layer's multiply-adds an operation has.

  >>> import jax.numpy as jnp
  >>> layer, x = {'b': jnp.ones(4), 'w': jnp.ones((3, 4))}, jnp.ones(3)
  >>> dense = lambda layer, x: x @ layer['w'] + layer['b']
  >>> dict(multiply_adds(dense, layer, [None, 'dense'], x))
  {'dense': 12}
  """
  trace = jax.make_jaxpr(function)(weights, *inputs)
  origins = [
    _NOTHING if layer is None else frozenset({layer}) for layer in layers
  ]
  count = len(jax.tree.leaves(inputs))
  _, counts = _follow(trace.jaxpr, [*origins, *[_INPUT] * count])
  unused = sorted(_NOTHING.union(*origins) - set(counts))
  if unused:
    raise ValueError(
      'every weight should meet the input in a convolution or a product, for '
      'its multiply-adds to be counted, but those of these layers do not: '
      f'{", ".join(unused)}. Call them, or take them out of the model.'
    )
  return counts


def _merge(origins: Iterable[Origin]) -> Origin:
  """The origin of a value made of others."""
  union = _NOTHING.union(*origins)
  return _INPUT if _INPUT <= union else union


def _follow(
  jaxpr: core.Jaxpr, inputs: Sequence[Origin]
) -> tuple[list[Origin], Counts]:
  """Origins of a jaxpr's outputs, and the multiply-adds on the way."""
  known = dict(zip(jaxpr.invars, inputs, strict=True))

  def origins(atoms: Sequence[Any]) -> list[Origin]:
    return [
      _NOTHING if isinstance(a, core.Literal) else known.get(a, _NOTHING)
      for a in atoms
    ]

  counts: Counts = collections.Counter()
  for equation in jaxpr.eqns:
    outputs, met = _follow_equation(equation, origins(equation.invars))
    known.update(zip(equation.outvars, outputs, strict=True))
    counts.update(met)
  return origins(jaxpr.outvars), counts


def _follow_equation(
  equation: core.JaxprEqn, operands: list[Origin]
) -> tuple[list[Origin], Counts]:
  name, params = equation.primitive.name, equation.params
  if name == 'scan':
    return _follow_scan(equation, operands)
  if name == 'cond':
    return _follow_cond(params, operands)
  if name == 'while':
    _refuse_while(operands)
  inner = _body(params.get('jaxpr', params.get('call_jaxpr')))
  if inner is not None and len(inner.invars) == len(operands):
    return _follow(inner, operands)  # jit, checkpoint, custom_vjp, ...
  counts: Counts = collections.Counter()
  if name in _PRODUCTS and _INPUT in operands:
    kernels = _NOTHING.union(*operands) - _INPUT
    if len(kernels) > 1:
      raise ValueError(
        f'the kernels of {", ".join(sorted(kernels))} are mixed before they '
        'meet the input, so their multiply-adds cannot be told apart: apply '
        'each kernel to the input by itself.'
      )
    for layer in kernels:
      counts[layer] = _PRODUCTS[name](equation)
    if name == 'dot_general' and operands == [_INPUT, _INPUT]:
      counts[NO_LAYER] = _dot(equation)
  return [_merge(operands)] * len(equation.outvars), counts


def _refuse_while(operands: list[Origin]) -> None:
  kernels = _NOTHING.union(*operands) - _INPUT
  if kernels and _INPUT in operands:
    raise ValueError(
      f'the kernels of {", ".join(sorted(kernels))} meet the input in a while '
      'loop, whose number of steps nobody knows, so their multiply-adds cannot '
      'be counted: use a scan, or a loop of a fixed number of steps.'
    )


def _body(jaxpr: Any) -> Any:
  """The jaxpr of an equation's parameter, closed or not."""
  return getattr(jaxpr, 'jaxpr', jaxpr)


def _follow_scan(
  equation: core.JaxprEqn, operands: list[Origin]
) -> tuple[list[Origin], Counts]:
  """The body of a scan, over constants, carry and slices in this order.

  Which is which is read off the ranks, which a slice has one less of: how the
  parameters say it differs between versions of jax.
  """
  body = _body(equation.params['jaxpr'])

  def same_rank(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    shapes = zip(_shapes(outer), _shapes(inner), strict=True)
    return sum(len(a) == len(b) for a, b in shapes)

  carries = same_rank(equation.outvars, body.outvars)
  first = same_rank(equation.invars, body.invars) - carries
  carry = slice(first, first + carries)
  while True:  # until no origin spreads any further through the carry
    outputs, counts = _follow(body, operands)
    before = operands[carry]
    after = [
      _merge(pair) for pair in zip(before, outputs[:carries], strict=True)
    ]
    if after == before:
      break
    operands = [*operands[:first], *after, *operands[carry.stop :]]
  steps = equation.params['length']
  return outputs, collections.Counter(
    {layer: steps * n for layer, n in counts.items()}
  )


def _follow_cond(
  params: dict[str, Any], operands: list[Origin]
) -> tuple[list[Origin], Counts]:
  """The branches of a condition; of a choice by platform, the default."""
  index, *rest = operands
  branches = params['branches']
  platforms = params.get('branches_platforms')
  if platforms is not None:  # one computation, written for each platform
    branches = [branches[platforms.index(None)]]
  results = [_follow(_body(branch), rest) for branch in branches]
  counts = results[0][1]
  for _, other in results:
    if other != counts:
      raise ValueError(
        'the branches of a condition should have the same multiply-adds, for '
        f'them to be counted, but one has {dict(counts)} and another '
        f'{dict(other)}.'
      )
  outputs = zip(*(outputs for outputs, _ in results), strict=True)
  return [_merge([index, *branches]) for branches in outputs], counts


def _convolution(equation: core.JaxprEqn) -> int:
  x, kernel = _shapes(equation.invars)
  params, numbers = equation.params, equation.params['dimension_numbers']
  if max(params['lhs_dilation']) == 1:
    features = kernel[numbers.rhs_spec[0]]
    return _size(equation) * (math.prod(kernel) // features)
  if max(params['window_strides']) > 1:
    raise ValueError(
      'a convolution with both strides and input dilation is not counted: '
      'use one of them.'
    )
  return math.prod(x) // x[numbers.lhs_spec[1]] * math.prod(kernel)


def _dot(equation: core.JaxprEqn) -> int:
  x, _ = _shapes(equation.invars)
  (contracted, _), _ = equation.params['dimension_numbers']
  return _size(equation) * math.prod(x[axis] for axis in contracted)


def _shapes(values: Sequence[Any]) -> list[tuple[int, ...]]:
  return [value.aval.shape for value in values]


def _size(equation: core.JaxprEqn) -> int:
  return math.prod(*_shapes(equation.outvars))


# Where a kernel and the input meet. `mul` is a depthwise convolution that was
# written as a sum of shifted images.
_PRODUCTS: dict[str, Callable[[core.JaxprEqn], int]] = {
  'conv_general_dilated': _convolution,
  'dot_general': _dot,
  'mul': _size,
  'gather': lambda equation: 0,  # rows that are looked up, of an embedding
}
