"""Cuts the channels that no image reaches, or no logit, out of a network."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from flax.core import FrozenDict

from str_jax.compaction import flow as flows
from str_jax.compaction.channels import (
  Leaves,
  constants,
  edges,
  kernel,
  middle,
  needed,
  norm,
  taps,
)
from str_jax.compaction.flow import Flow
from str_jax.methods import Method
from str_jax.models import ImageClassifier
from str_jax.models.base import methods_of
from str_jax.paths import COLLECTION, named_leaves
from str_jax.variables import effective_params

_BIAS = f'params/{flows.CLASSIFIER}/bias'


def compact(model: ImageClassifier, variables: Any) -> tuple[Any, Any]:
  """The network without its dead channels; see `str_jax.compaction.compact`.

  Args:
    model: of a class in `str_jax.compaction.flow.KNOWN`.
    variables: its Linen collections, with the method's thresholds.

  Returns:
    (model, variables): without a method, and NumPy arrays.

  Raises:
    ValueError: the variables are not of this model and its method, or its
      norms are no BatchNorms.
  """
  leaves = dense_leaves(model, variables)
  before = {path: leaf.shape[-1] for path, leaf in leaves.items()}
  flow = flows.of(model, layers_of(leaves))
  keep = _fold(flow, leaves, _batch_norm(model).epsilon)
  _slice(flow, leaves, keep)
  widths = {
    op.layer: leaves[kernel(op.layer)].shape[-1]
    for op in flow.ops
    if op.kind == 'conv'
    and leaves[kernel(op.layer)].shape[-1] != before[kernel(op.layer)]
  }
  small = model.clone(
    conv=_without_method(model.conv),
    dense=_without_method(model.dense),
    classifier_bias=_BIAS in leaves,
    channels=FrozenDict({**model.channels, **widths}),
  )
  return small, traverse_util.unflatten_dict(leaves, sep='/')


def layers_of(leaves: Leaves) -> set[str]:
  """Paths of the layers that have leaves."""
  return {path.split('/', 1)[1].rpartition('/')[0] for path in leaves}


def dense_leaves(model: ImageClassifier, variables: Any) -> Leaves:
  """The variables with the effective weights, by path, as writable arrays.

  Args:
    model: as for :func:`compact`.
    variables: as for :func:`compact`.

  Returns:
    Arrays by path, such as 'params/stem/kernel'.

  Raises:
    ValueError: the variables are not those of the model and its method.
  """
  method = _method(model)
  _check(model, variables)
  dense = {name: tree for name, tree in variables.items() if name != COLLECTION}
  dense['params'] = effective_params(method, variables)
  return {
    '/'.join(path): np.array(leaf) for path, leaf in named_leaves(dense).items()
  }


def _method(model: ImageClassifier) -> Method | None:
  """The one method of the model's layers."""
  conv, dense = methods_of(model)
  if conv != dense:
    raise ValueError(
      'compact is for a model of one method, but its convolutions have '
      f'{conv} and its classifier {dense}: freeze the variables with '
      'each (str_jax.freeze) and pass a model without a method.'
    )
  return conv


def _batch_norm(model: ImageClassifier) -> nn.BatchNorm:
  """The model's norm, of which the settings are read."""
  layer = model.norm(use_running_average=True)
  if not (
    isinstance(layer, nn.BatchNorm) and layer.use_scale and layer.use_bias
  ):
    raise ValueError(
      'compact folds constants into BatchNorms with a scale and a bias, but '
      f'the norms of this model are {type(layer).__name__}s without: make it '
      'with flax.linen.BatchNorm.'
    )
  return layer


def _check(model: ImageClassifier, variables: Any) -> None:
  """Refuses variables that the model would not have itself."""
  _batch_norm(model)
  given = {
    path: np.shape(leaf) for path, leaf in named_leaves(variables).items()
  }
  stem = given.get(('params', 'stem', 'kernel'), ())
  images = jax.ShapeDtypeStruct(
    (1, 64, 64, stem[-2] if len(stem) == 4 else 1), 'float32'
  )
  own = jax.eval_shape(model.init, jax.random.key(0), images)
  expected = {path: leaf.shape for path, leaf in named_leaves(own).items()}
  if given == expected:
    return
  path = min(
    path
    for path in {*given, *expected}
    if given.get(path) != expected.get(path)
  )
  has = {
    name: f'of shape {shapes[path]}' if path in shapes else 'not there'
    for name, shapes in (('model', expected), ('variables', given))
  }
  raise ValueError(
    'compact needs the variables of this model, thresholds of its method '
    f'included, but {"/".join(path)} is {has["model"]} in the model and '
    f'{has["variables"]} in the variables: make the model with the settings '
    'and the method that they belong to.'
  )


def _without_method(layer: Any) -> Any:
  """A layer's class, a dense one."""
  if not isinstance(layer, functools.partial):
    return layer
  if layer.keywords.get('method') is None:
    return layer
  return functools.partial(
    layer.func, *layer.args, **{**layer.keywords, 'method': None}
  )


def _fold(flow: Flow, leaves: Leaves, epsilon: float) -> dict[int, np.ndarray]:
  """Writes constants into what follows them; the channels to keep, by space.

  The constants of a space go into the means of the next norms or the bias of
  the classifier. Where that cannot be (a zero padding cuts them off at the
  border, or all of the space is constant), one channel stays that is 1, and
  its weights are those sums.
  """
  values = constants(flow, leaves, epsilon)
  needs = needed(flow, leaves, values)
  ones = {}
  for space, needs_channel in needs.items():
    dropped = ~needs_channel
    if not dropped.any():
      continue
    added = {}
    for i, op in enumerate(flow.ops):
      if op.kind in ('conv', 'dense') and flow.spaces[op.inputs[0]] == space:
        value = values[op.inputs[0]]
        value = np.where(dropped & ~np.isnan(value), value, 0)
        added[i] = taps(leaves[kernel(op.layer)], value)
    padded = any(
      np.any(_unfoldable(flow, i, t)[needs[flow.spaces[i]]])
      for i, t in added.items()
    )
    if padded or dropped.all():
      ones[space] = int(np.argmax(dropped))
    for i, t in added.items():
      _add(flow, i, leaves, t, ones.get(space))
  keep = {space: channels.copy() for space, channels in needs.items()}
  for space, channel in ones.items():
    _make_one(flow, leaves, space, channel)
    keep[space][channel] = True
  return keep


def _unfoldable(flow: Flow, i: int, added: np.ndarray) -> np.ndarray:
  """For each output whether a bias cannot stand for what constants add."""
  if flow.ops[i].kind == 'dense' or flow.own_norm(i):
    return edges(added)
  return np.any(added != 0, axis=(0, 1))


def _add(
  flow: Flow, i: int, leaves: Leaves, added: np.ndarray, one: int | None
) -> None:
  """Gives a layer what constants add: by a channel that is 1, or folded."""
  op = flow.ops[i]
  weight = leaves[kernel(op.layer)]
  if one is not None:
    weight[..., one, :] = added.reshape(*weight.shape[:-2], -1)
  elif op.kind == 'conv' and flow.own_norm(i):
    mean = norm(flow.own_norm(i))[0]
    leaves[mean] = (leaves[mean] - middle(added)).astype(leaves[mean].dtype)
  elif op.kind == 'dense' and np.any(added):
    bias = leaves.get(_BIAS, np.zeros(weight.shape[-1], weight.dtype))
    leaves[_BIAS] = (bias + middle(added)).astype(bias.dtype)


def _make_one(flow: Flow, leaves: Leaves, space: int, channel: int) -> None:
  """Makes a channel 1 after the norms of its space, along the stream too."""
  branches = {op.inputs[1] for op in flow.ops if op.kind == 'add'}
  for i, op in enumerate(flow.ops):
    if flow.spaces[i] != space:
      continue
    if op.kind in ('conv', 'depthwise'):
      leaves[kernel(op.layer)][..., channel] = 0
    elif op.kind == 'norm':
      value = 0 if i in branches else 1
      for path, number in zip(norm(op.layer), (0, 1, 1, value)):
        leaves[path][channel] = number


def _slice(flow: Flow, leaves: Leaves, keep: dict[int, np.ndarray]) -> None:
  """Takes the other channels out of every leaf."""
  for i, op in enumerate(flow.ops):
    outputs = keep[flow.spaces[i]]
    if op.kind in ('conv', 'dense'):
      inputs = keep[flow.spaces[op.inputs[0]]]
      weight = leaves[kernel(op.layer)]
      leaves[kernel(op.layer)] = weight[..., inputs, :][..., outputs]
    elif op.kind == 'depthwise':
      leaves[kernel(op.layer)] = leaves[kernel(op.layer)][..., outputs]
    elif op.kind == 'norm':
      for path in norm(op.layer):
        leaves[path] = leaves[path][outputs]
