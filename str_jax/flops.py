"""Multiply-adds of each layer, read off the model itself.

The model's call is traced abstractly, and the data flow of the trace is
followed from the input and from every kernel, with the other matrices of its
layer: where the two meet in a convolution, a dot product or a product, the
multiply-adds are that layer's. So a kernel may be thresholded on its way, and
a convolution written as something else. Nothing is computed and no table of
layers is kept.
"""

from __future__ import annotations

import collections
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from str_jax.paths import THRESHOLD, Path, is_kernel, named_leaves

# What went into a value of the trace: the input, whatever else beside it; else
# the kernels of some layers; else nothing of interest.
Origin = frozenset[str]
_NOTHING: Origin = frozenset()
_INPUT: Origin = frozenset({'<input>'})
_NO_LAYER = '<no layer>'  # whose multiply-adds are those of no weights
Counts = collections.Counter[str]


def count(
  model: nn.Module, input_shape: Sequence[int], **kwargs: Any
) -> dict[str, int]:
  """Multiply-adds of one forward pass of one image, by layer.

  One multiply-add counts 1, as in the papers. Biases, norms and pooling do not
  count. Per image:

    convolution   output positions * kernel positions * in / groups * out
    transposed    input positions * kernel positions * in / groups * out
    dense         positions * in * out

  Padding counts like any other input. A transposed convolution of stride 1 is
  a convolution. A product of two things computed of the input, as the two of
  an attention, has no weights and is of no layer: see
  :func:`count_weightless`.

  Args:
    model: a Linen model with leaves named kernel.
    input_shape: shape of one input without the batch: (height, width,
      channels) for images.
    **kwargs: for the model's call, see :func:`call_arguments`.

  Returns:
    A dict from the layer's path, joined by '/', to its multiply-adds, in the
    order in which the layers are used. A layer used twice counts twice. A
    model that is itself a layer has the path ''.

  Raises:
    ValueError: no Linen model; or a kernel never meets the input, or in a while
      loop, or it cannot be said which layer's multiply-adds an operation has.

  >>> from flax import linen as nn
  >>> model = nn.Sequential([nn.Conv(8, (3, 3), strides=2), nn.Dense(10)])
  >>> count(model, (8, 8, 3))  # 4*4 * 3*3 * 3 * 8 and 4*4 * 8 * 10
  {'layers_0': 3456, 'layers_1': 1280}
  """
  origins, counts = _followed(model, input_shape, kwargs)
  counts.pop(_NO_LAYER, None)
  unused = sorted(_NOTHING.union(*origins) - set(counts))
  if unused:
    raise ValueError(
      'every kernel should meet the input in a convolution or a product, for '
      'its multiply-adds to be counted, but those of these layers do not: '
      f'{", ".join(unused)}. Call them, or take them out of the model.'
    )
  return dict(counts)


def count_weightless(
  model: nn.Module, input_shape: Sequence[int], **kwargs: Any
) -> int:
  """Multiply-adds of one image that no weight takes part in.

  They are those of matrix products of two things that were both computed of
  the input: an attention's scores, and its sums of values. No sparsity saves
  them. Papers on transformers count them, so their numbers are this and the
  sum of :func:`count`.

  Args:
    model: a Linen model.
    input_shape: as for :func:`count`.
    **kwargs: as for :func:`count`.

  Returns:
    The number; 0 for a model without attention.

  Raises:
    ValueError: as for :func:`count`.

  >>> from flax import linen as nn
  >>> model = nn.SelfAttention(num_heads=2)
  >>> count_weightless(model, (5, 8))  # two of 5 * 5 * 8
  400
  """
  return _followed(model, input_shape, kwargs)[1][_NO_LAYER]


def call_arguments(model: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
  """What anybody's model is called with beside its input, as it was trained.

  Args:
    model: a Linen model.
    kwargs: what the user says.

  Returns:
    That, with `train=False` where the model knows it and the user says nothing.

  Raises:
    ValueError: no Linen model.
  """
  if not isinstance(model, nn.Module):
    if isinstance(model, type):
      raise ValueError(
        f'this needs an instance of a Linen model, but got the class '
        f'{model.__name__}: pass {model.__name__}(...).'
      )
    name = type(model).__name__
    raise ValueError(
      'this needs a Linen model, an instance of flax.linen.Module, but got a '
      f'{name} of the module {type(model).__module__}: of an NNX class, '
      f'flax.nnx.bridge.to_linen({name}, ...) makes a Linen model.'
    )
  known = inspect.signature(model.__call__).parameters
  return {**({'train': False} if 'train' in known else {}), **kwargs}


def _followed(
  model: nn.Module, input_shape: Sequence[int], kwargs: dict[str, Any]
) -> tuple[list[Origin], Counts]:
  """The origins of the model's leaves, and its multiply-adds."""
  kwargs = call_arguments(model, kwargs)
  x = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, **kwargs), x
  )
  trace = jax.make_jaxpr(lambda v, x: model.apply(v, x, **kwargs))(variables, x)
  leaves = named_leaves(variables)
  layers = {path[:-1] for path, leaf in leaves.items() if is_kernel(path, leaf)}
  origins = [
    frozenset({'/'.join(path[1:-1])})
    if path[:-1] in layers and _multiplies(path, leaf)
    else _NOTHING
    for path, leaf in leaves.items()
  ]
  return origins, _follow(trace.jaxpr, [*origins, _INPUT])[1]


def _multiplies(path: Path, leaf: Any) -> bool:
  """Whether a leaf beside a kernel is a factor of it: no bias, no gain."""
  if path[0] != 'params' or path[-1] == THRESHOLD:
    return False
  return is_kernel(path, leaf) or leaf.ndim > 1


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
      counts[_NO_LAYER] = _dot(equation)
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
}
