"""What each layer of a model reads: the data flow that compaction follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

from str_jax.models import (
  VGG,
  Bottleneck,
  ConvNet,
  MobileNetV1,
  ResNet,
  WideResNet,
)

CLASSIFIER = 'classifier'


@dataclasses.dataclass(frozen=True)
class Op:
  """One operation; it has one output, a tensor numbered as the operation.

  Attributes:
    kind: images, conv, depthwise, norm, relu, add or dense.
    inputs: numbers of the tensors it reads; of `add` the stream comes first.
    layer: path of the layer whose parameters it has.
  """

  kind: str
  inputs: tuple[int, ...] = ()
  layer: str = ''


class Flow:
  """The operations of a model in the order of use.

  Pooling and dropout are left out: a constant channel stays what it is.

  Attributes:
    ops: the operations; the first gives the images.
    spaces: of each tensor a number; tensors of the same number have the same
      channels, which can go from all of them only.
  """

  def __init__(self) -> None:
    self.ops = [Op('images')]
    self.spaces = [0]

  def conv(self, x: int, layer: str) -> int:
    """A convolution over all channels, with channels of its own."""
    return self._append(Op('conv', (x,), layer), len(self.ops))

  def depthwise(self, x: int, layer: str) -> int:
    """A convolution of each channel by itself."""
    return self._append(Op('depthwise', (x,), layer), self.spaces[x])

  def norm(self, x: int, layer: str) -> int:
    """A BatchNorm."""
    return self._append(Op('norm', (x,), layer), self.spaces[x])

  def relu(self, x: int) -> int:
    """A ReLU."""
    return self._append(Op('relu', (x,)), self.spaces[x])

  def add(self, stream: int, branch: int) -> int:
    """A sum: its terms share their channels."""
    old, new = self.spaces[branch], self.spaces[stream]
    self.spaces = [new if space == old else space for space in self.spaces]
    return self._append(Op('add', (stream, branch)), new)

  def dense(self, x: int, layer: str) -> int:
    """The classifier, over the mean of each channel."""
    return self._append(Op('dense', (x,), layer), len(self.ops))

  def readers(self, x: int) -> list[int]:
    """Numbers of the operations that read a tensor."""
    return [i for i, op in enumerate(self.ops) if x in op.inputs]

  def own_norm(self, x: int) -> str:
    """The norm that alone reads a convolution's output; '' if none does."""
    readers = [self.ops[i] for i in self.readers(x)]
    alone = len(readers) == 1 and readers[0].kind == 'norm'
    return readers[0].layer if alone else ''

  def _append(self, op: Op, space: int) -> int:
    self.ops.append(op)
    self.spaces.append(space)
    return len(self.ops) - 1


def of(model: Any, layers: Collection[str]) -> Flow:
  """The flow of a model.

  Args:
    model: of a class in :data:`KNOWN`.
    layers: paths of its layers.

  Returns:
    The flow.

  >>> import str_jax
  >>> model = str_jax.models.create('convnet', num_classes=2, widths=(4,))
  >>> [op.kind for op in of(model, ['stem', 'stem_norm', 'classifier']).ops]
  ['images', 'conv', 'norm', 'relu', 'dense']
  """
  flow = Flow()
  flow.dense(_FLOWS[type(model)](model, flow, layers), CLASSIFIER)
  return flow


def _convnet(model: ConvNet, flow: Flow, layers: Collection[str]) -> int:
  del layers
  x = flow.relu(flow.norm(flow.conv(0, 'stem'), 'stem_norm'))
  for i in range(1, len(model.widths)):
    x = flow.relu(flow.norm(flow.conv(x, f'conv{i}'), f'norm{i}'))
  return x


def _vgg(model: VGG, flow: Flow, layers: Collection[str]) -> int:
  del layers
  x = 0
  for stage, convolutions in enumerate(model.stage_sizes, 1):
    for i in range(1, convolutions + 1):
      name = f'stage{stage}_conv{i}' if x else 'stem'
      x = flow.relu(flow.norm(flow.conv(x, name), f'{name}_norm'))
  return x


def _mobilenet(model: MobileNetV1, flow: Flow, layers: Collection[str]) -> int:
  del layers
  x = flow.relu(flow.norm(flow.conv(0, 'stem'), 'stem_norm'))
  for i in range(1, len(model.blocks) + 1):
    x = flow.depthwise(x, f'block{i}/depthwise')
    x = flow.relu(flow.norm(x, f'block{i}/depthwise_norm'))
    x = flow.conv(x, f'block{i}/pointwise')
    x = flow.relu(flow.norm(x, f'block{i}/pointwise_norm'))
  return x


def _blocks(model: ResNet | WideResNet) -> list[str]:
  return [
    f'stage{stage}_block{i}'
    for stage, blocks in enumerate(model.stage_sizes, 1)
    for i in range(1, blocks + 1)
  ]


def _resnet(model: ResNet, flow: Flow, layers: Collection[str]) -> int:
  convolutions = 3 if issubclass(model.block, Bottleneck) else 2
  x = flow.relu(flow.norm(flow.conv(0, 'stem'), 'stem_norm'))
  for block in _blocks(model):
    y = x
    for i in range(1, convolutions + 1):
      y = flow.relu(y) if i > 1 else y
      y = flow.norm(flow.conv(y, f'{block}/conv{i}'), f'{block}/norm{i}')
    if f'{block}/shortcut' in layers:
      x = flow.conv(x, f'{block}/shortcut')
      x = flow.norm(x, f'{block}/shortcut_norm')
    x = flow.relu(flow.add(x, y))
  return x


def _wide_resnet(model: WideResNet, flow: Flow, layers: Collection[str]) -> int:
  x = flow.conv(0, 'stem')
  for block in _blocks(model):
    y = x
    for i in (1, 2):
      y = flow.relu(flow.norm(y, f'{block}/norm{i}'))
      y = flow.conv(y, f'{block}/conv{i}')
    if f'{block}/shortcut' in layers:
      x = flow.conv(x, f'{block}/shortcut')
    x = flow.add(x, y)
  return flow.relu(flow.norm(x, 'last_norm'))


_FLOWS: dict[type, Callable[[Any, Flow, Collection[str]], int]] = {
  ConvNet: _convnet,
  VGG: _vgg,
  MobileNetV1: _mobilenet,
  ResNet: _resnet,
  WideResNet: _wide_resnet,
}
KNOWN = tuple(_FLOWS)
