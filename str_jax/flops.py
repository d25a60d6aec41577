"""Multiply-adds of each layer, read off the model itself.

The model's call is traced and its data flow followed, see
`str_jax/data_flow.py`: no table of layers is kept, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from str_jax.calls import call_arguments, not_training
from str_jax.data_flow import NO_LAYER, Counts, multiply_adds
from str_jax.nnx import to_variables
from str_jax.nnx.model import opened
from str_jax.paths import (
  COLLECTION,
  THRESHOLD,
  Path,
  Where,
  array_leaves,
  counted,
  is_kernel,
  is_linen,
  layer_name,
  named_leaves,
  select,
)


def count(
  model: nn.Module | nnx.Module,
  input_shape: Sequence[int],
  *,
  dtype: Any = jnp.float32,
  **kwargs: Any,
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
  :func:`count_weightless`. What is no Flax model is for
  :func:`count_function`.

  Args:
    model: a Linen model with leaves named kernel, or an NNX model, dense or
      with thresholds of `str_jax.nnx`.
    input_shape: shape of one input without the batch: (height, width,
      channels) for images.
    dtype: of the input; an integer one for tokens.
    **kwargs: for the model's call; `train=False` is added where it knows
      `train`.

  Returns:
    A dict from the layer's path, joined by '/', to its multiply-adds, in the
    order in which the layers are used. A layer used twice counts twice. A
    model that is itself a layer has the path ''.

  Raises:
    ValueError: no Flax model; or a kernel never meets the input, or in a while
      loop, or it cannot be said which layer's multiply-adds an operation has.

  STR (ICML 2020), section 4: its FLOPs.

  >>> from flax import linen as nn
  >>> model = nn.Sequential([nn.Conv(8, (3, 3), strides=2), nn.Dense(10)])
  >>> count(model, (8, 8, 3))  # 4*4 * 3*3 * 3 * 8 and 4*4 * 8 * 10
  {'layers_0': 3456, 'layers_1': 1280}
  """
  counts = _counts(model, input_shape, dtype, kwargs)
  counts.pop(NO_LAYER, None)
  return dict(counts)


def count_weightless(
  model: nn.Module | nnx.Module,
  input_shape: Sequence[int],
  *,
  dtype: Any = jnp.float32,
  **kwargs: Any,
) -> int:
  """Multiply-adds of one image that no weight takes part in.

  They are those of matrix products of two things that were both computed of
  the input: an attention's scores, and its sums of values. No sparsity saves
  them. Papers on transformers count them, so their numbers are this and the
  sum of :func:`count`.

  Args:
    model: as for :func:`count`.
    input_shape: as for :func:`count`.
    dtype: as for :func:`count`.
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
  return _counts(model, input_shape, dtype, kwargs)[NO_LAYER]


def count_function(
  function: Callable[..., Any],
  weights: Any,
  *inputs: Any,
  where: Where = is_kernel,
) -> dict[str, int]:
  """Multiply-adds of ``function(weights, *inputs)``, by layer.

  For models of Equinox, Haiku or one's own, and for a Flax model whose call
  takes more than one input. They are those of the whole call: give it one
  example, in a batch of one where it wants a batch.

  Args:
    function: the forward pass, of arrays alone. A random key, where it needs
      one, is best bound before.
    weights: a pytree of them, or the variables of a Linen model; shapes alone
      will do.
    *inputs: pytrees of arrays, or of their shapes.
    where: which leaves are weights, as for `str_jax.add_thresholds`. Others
      with the name of one of those count too, as they do in reports. A table
      whose rows are looked up costs nothing.

  Returns:
    As :func:`count`, by the names that `str_jax.report.sparsity_report` gives
    the layers.

  Raises:
    ValueError: ``where`` picks nothing, a weight is no array, or as for
      :func:`count`.

  >>> import jax.numpy as jnp
  >>> weights = {'w': jnp.ones((3, 4)), 'b': jnp.ones(4)}
  >>> dense = lambda weights, x: x @ weights['w'] + weights['b']
  >>> count_function(dense, weights, jnp.ones(3), where='w')
  {'w': 12}
  """
  linen = is_linen(weights)
  chosen = select(weights, where)
  layers = _layers(weights['params'] if linen else weights, chosen.paths)
  if not layers:
    raise ValueError(
      'where= picks the weights whose multiply-adds are counted, but it '
      f'matched none of these leaves:\n{chosen}'
    )
  names = [
    layers.get(path[1:] if linen else path)
    if not linen or path[0] == 'params'
    else None
    for path in array_leaves(weights)
  ]
  counts = multiply_adds(function, weights, names, *inputs)
  counts.pop(NO_LAYER, None)
  return dict(counts)


def uses(counts: Mapping[str, int], weights: Any) -> dict[str, int]:
  """How often each weight of a layer is used for one example.

  It is what `str_jax.methods.Target` needs, to be met in multiply-adds.

  Args:
    counts: multiply-adds by layer, of :func:`count` or :func:`count_function`.
    weights: what they were counted of: a pytree of weights, or the variables
      of a Linen model; shapes alone will do.

  Returns:
    A dict from the layer to its multiply-adds over its weights.

  Raises:
    ValueError: a layer is not among the weights, or its weights are not all
      used equally often.

  >>> import jax.numpy as jnp
  >>> uses({'conv': 576}, {'conv': {'kernel': jnp.ones((3, 3, 1, 4))}})
  {'conv': 16}
  """
  leaves = named_leaves(weights['params'] if is_linen(weights) else weights)
  sizes = {layer_name('/'.join(p)): w.size for p, w in leaves.items()}
  missing = [layer for layer in counts if layer not in sizes]
  if missing:
    raise ValueError(
      f'the multiply-adds are of {", ".join(missing)}, but the weights hold '
      'no such layer: pass those that were counted.'
    )
  uneven = [layer for layer, n in counts.items() if n % (sizes[layer] or 1)]
  if uneven:
    raise ValueError(
      f'the weights of {", ".join(uneven)} should all be used equally often, '
      'for a target of multiply-adds, but their multiply-adds are no multiple '
      'of their number: leave out of the layer what is not used.'
    )
  return {layer: n // (sizes[layer] or 1) for layer, n in counts.items()}


def _counts(
  model: Any,
  input_shape: Sequence[int],
  dtype: Any,
  kwargs: dict[str, Any],
) -> Counts:
  if not isinstance(input_shape, Sequence):
    raise ValueError(
      'input_shape should be the shape of one input, as (224, 224, 3), got '
      f'{input_shape!r}.'
    )
  x = jax.ShapeDtypeStruct((1, *input_shape), dtype)
  if isinstance(model, nnx.Module):
    return _of_nnx(model, x, kwargs)
  if isinstance(model, (nn.Module, type)):
    return _of_linen(model, x, kwargs)
  raise ValueError(
    'str_jax.flops.count needs a Flax model, Linen or NNX, but got a '
    f'{type(model).__name__} of the module {type(model).__module__}: for '
    'functions of any weights there is str_jax.flops.count_function.'
  )


def _of_linen(
  model: Any, x: jax.ShapeDtypeStruct, kwargs: dict[str, Any]
) -> Counts:
  kwargs = call_arguments(model, kwargs)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, **kwargs), x
  )
  leaves = named_leaves(variables)
  of_layers = {p[:-1] for p, leaf in leaves.items() if is_kernel(p, leaf)}
  layers = [
    '/'.join(path[1:-1])
    if path[:-1] in of_layers and _multiplies(path, leaf)
    else None
    for path, leaf in leaves.items()
  ]
  return multiply_adds(
    lambda v, x: model.apply(v, x, **kwargs), variables, layers, x
  )


def _of_nnx(
  model: nnx.Module, x: jax.ShapeDtypeStruct, kwargs: dict[str, Any]
) -> Counts:
  _, layout = to_variables(model)
  thresholds = {tuple(path.split('/')) for path in layout[COLLECTION]}
  layers = _layers(layout['params'], thresholds)
  dense = opened(model, lambda path, method, weight, leaves: weight)
  graphdef, params, *rest = nnx.split(dense, nnx.Param, ...)
  names = [
    layers.get(tuple(map(str, path))) for path, _ in nnx.to_flat_state(params)
  ]

  def call(params: Any, x: jax.Array) -> Any:
    # A copy: the call may change variables, which belong to no trace.
    copy = nnx.merge(graphdef, params, *rest, copy=True)
    return copy(x, **not_training(copy, kwargs))

  return multiply_adds(call, params, names, x)


def _layers(weights: Any, chosen: Any) -> dict[Path, str]:
  """The layers of the weights that reports count, by path."""
  paths = counted(named_leaves(weights), chosen)
  return {path: layer_name('/'.join(path)) for path in paths}


def _multiplies(path: Path, leaf: Any) -> bool:
  """Whether a leaf beside a kernel is a factor of it: no bias, no gain."""
  if path[0] != 'params' or path[-1] == THRESHOLD:
    return False
  return is_kernel(path, leaf) or leaf.ndim > 1
