"""A trained model as a list of convolutions, with its norms folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from str_jax.inference.network import (
  IMAGES,
  Classifier,
  Conv,
  MaxPool,
  Network,
  Node,
)
from str_jax.models import BasicBlock, ConvNet, MobileNetV1, ResNet
from str_jax.models.base import methods_of
from str_jax.variables import effective_params


def network(model: Any, variables: Any) -> Network:
  r"""The layers of a trained model in the order in which they are computed.

  .. math:: BN(w * x) = (\gamma / \sigma)\,w * x + \beta - \gamma \mu / \sigma,
     \qquad \sigma^2 = v + \epsilon

  Args:
    model: a ConvNet, ResNet or MobileNetV1 of :mod:`str_jax.models`, dense or
      with a method.
    variables: its variables, ``{'params': ..., 'batch_stats': ...}``, with the
      thresholds of its method.

  Returns:
    The layers; the last one is the classifier.

  Raises:
    ValueError: another model, or variables that are not its own.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create('convnet', num_classes=10, widths=(4, 8))
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  >>> layers = network(model, variables)
  >>> [(layer.name, layer.kernel.shape) for layer in layers]
  [('stem', (3, 3, 1, 4)), ('conv1', (3, 3, 4, 8)), ('classifier', (8, 10))]
  """
  layers = _layers(model)
  if layers is None:
    names = ', '.join(known.__name__ for known in _LAYERS)
    raise ValueError(
      f'a whole network can be a {names} of str_jax.models, got a '
      f'{type(model).__name__} of the module {type(model).__module__}: for any '
      'other model there is str_jax.inference.build_function.'
    )
  try:
    return tuple(layers(model, _Reader(model, variables)))
  except KeyError as error:
    raise ValueError(
      f'the variables must be those of the {type(model).__name__}, but they '
      f'have no {error.args[0]}: pass what its own init or training gave.'
    ) from error


def knows(model: Any) -> bool:
  """Whether :func:`network` can read a model.

  Args:
    model: any.

  Returns:
    True for a ConvNet, a ResNet or a MobileNetV1.
  """
  return _layers(model) is not None


def _layers(model: Any) -> Callable[[Any, _Reader], Iterator[Node]] | None:
  return next((f for c, f in _LAYERS.items() if isinstance(model, c)), None)


class _Reader:
  """Makes layers of a model's variables."""

  def __init__(self, model: Any, variables: Any) -> None:
    conv, dense = methods_of(model)
    params = effective_params(conv or dense, variables)
    self._params = _flat(params)
    self._stats = _flat(variables.get('batch_stats', {}))
    self._epsilon = model.norm(use_running_average=True).epsilon

  def conv(self, name: str, norm: str, source: str, **settings: Any) -> Conv:
    """A convolution and the norm that follows it."""
    kernel = self._params[f'{name}/kernel']
    scale = self._params[f'{norm}/scale'] / np.sqrt(
      self._stats[f'{norm}/var'] + np.float32(self._epsilon)
    )
    bias = self._params[f'{norm}/bias'] - scale * self._stats[f'{norm}/mean']
    # A weight of zero stays one, whatever it is multiplied with.
    return Conv(name, source, kernel * scale, bias, **settings)

  def classifier(self, source: str) -> Classifier:
    kernel = self._params['classifier/kernel']
    zeros = np.zeros(kernel.shape[-1], np.float32)
    bias = self._params.get('classifier/bias', zeros)
    return Classifier('classifier', source, kernel, bias)

  def has(self, name: str) -> bool:
    return f'{name}/kernel' in self._params


def _flat(tree: Any) -> dict[str, np.ndarray]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(
      leaf, np.float32
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _convnet(model: ConvNet, read: _Reader) -> Iterator[Node]:
  source = IMAGES
  for i in range(len(model.widths)):
    name, norm = (f'conv{i}', f'norm{i}') if i else ('stem', 'stem_norm')
    yield read.conv(name, norm, source, stride=2 if i == 1 else 1)
    source = name
  yield read.classifier(source)


def _resnet(model: ResNet, read: _Reader) -> Iterator[Node]:
  stride = 1 if model.small_images else 2
  yield read.conv('stem', 'stem_norm', IMAGES, stride=stride)
  source = 'stem'
  if not model.small_images:
    yield MaxPool('max_pool', source)
    source = 'max_pool'
  basic = issubclass(model.block, BasicBlock)
  for stage, blocks in enumerate(model.stage_sizes):
    for i in range(blocks):
      block = f'stage{stage + 1}_block{i + 1}'
      stride = 2 if stage and i == 0 else 1
      yield from _block(block, source, stride, basic, read)
      source = f'{block}/conv{2 if basic else 3}'
  yield read.classifier(source)


def _block(
  block: str, source: str, stride: int, basic: bool, read: _Reader
) -> Iterator[Node]:
  shortcut = source
  if read.has(f'{block}/shortcut'):
    shortcut = f'{block}/shortcut'
    yield read.conv(
      shortcut, f'{block}/shortcut_norm', source, stride=stride, relu=False
    )
  convs, strided = (2, 1) if basic else (3, 2)
  for i in range(1, convs + 1):
    name = f'{block}/conv{i}'
    yield read.conv(
      name,
      f'{block}/norm{i}',
      source,
      stride=stride if i == strided else 1,
      add=shortcut if i == convs else None,
    )
    source = name


def _mobilenet(model: MobileNetV1, read: _Reader) -> Iterator[Node]:
  yield read.conv('stem', 'stem_norm', IMAGES, stride=2)
  source = 'stem'
  for i, (_, stride) in enumerate(model.blocks):
    depthwise, pointwise = (
      f'block{i + 1}/{layer}' for layer in ('depthwise', 'pointwise')
    )
    yield read.conv(
      depthwise, f'{depthwise}_norm', source, stride=stride, depthwise=True
    )
    yield read.conv(pointwise, f'{pointwise}_norm', depthwise)
    source = pointwise
  yield read.classifier(source)


_LAYERS: dict[type, Callable[[Any, _Reader], Iterator[Node]]] = {
  ConvNet: _convnet,
  ResNet: _resnet,
  MobileNetV1: _mobilenet,
}
