"""The same training step in plain PyTorch: what ours is measured against.

Networks, STR and ST-3 as one writes them in PyTorch, with NCHW tensors,
`torch.optim.SGD` and no tricks: STR's threshold on every convolution and the
classifier, as in its authors' layers; ST-3 with soft thresholds, straight
through, rescaled, and after every step the magnitude at the global quantile,
found by `torch.kthvalue`, which is faster than a sort.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM, DECAY, LEARNING_RATE = 0.875, 2.251757813e-5, 0.01
SPARSITY = 0.9


class STR(nn.Module):
  """sign(w) relu(|w| - sigmoid(s)), s learned."""

  def __init__(self) -> None:
    super().__init__()
    self.s = nn.Parameter(torch.full((1, 1), -3200.0))

  def forward(self, w: Tensor) -> Tensor:
    return torch.sign(w) * F.relu(torch.abs(w) - torch.sigmoid(self.s))


class ST3(nn.Module):
  """Soft threshold and rescaling, with the gradient passed straight through."""

  def __init__(self) -> None:
    super().__init__()
    self.register_buffer('threshold', torch.zeros(()))

  def forward(self, w: Tensor) -> Tensor:
    with torch.no_grad():
      magnitude = torch.abs(w)
      soft = torch.sign(w) * F.relu(magnitude - self.threshold)
      axes = tuple(range(1, w.ndim))
      kept = magnitude * (magnitude > self.threshold)
      ratio = (kept.mean(axes, keepdim=True) + 1e-6) / (
        magnitude.mean(axes, keepdim=True) + 1e-6
      )
      change = soft * (1.01 / (ratio + 0.01)) - w
    return w + change


METHODS = {'dense': nn.Identity, 'str': STR, 'st3': ST3}


class Conv(nn.Conv2d):
  """A convolution whose weight goes through a method."""

  def __init__(self, method: str, *args, **kwargs) -> None:
    super().__init__(*args, bias=False, **kwargs)
    self.method = METHODS[method]()
    nn.init.kaiming_normal_(self.weight)

  def forward(self, x: Tensor) -> Tensor:
    return self._conv_forward(x, self.method(self.weight), None)


class Linear(nn.Linear):
  """A classifier whose weight goes through a method."""

  def __init__(self, method: str, *args) -> None:
    super().__init__(*args, bias=False)
    self.method = METHODS[method]()

  def forward(self, x: Tensor) -> Tensor:
    return F.linear(x, self.method(self.weight))


class Residual(nn.Module):
  """Convolutions and norms beside a shortcut, a ReLU after each."""

  def __init__(self, conv, inputs: int, width: int, stride: int, deep: bool):
    super().__init__()
    outputs = 4 * width if deep else width
    shapes = (
      [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
      if deep
      else [(inputs, width, 3, stride), (width, width, 3, 1)]
    )
    layers: list[nn.Module] = []
    for i, o, size, s in shapes:
      layers += [conv(i, o, size, s, size // 2), nn.BatchNorm2d(o), nn.ReLU()]
    self.body = nn.Sequential(*layers[:-1])
    self.shortcut = nn.Identity()
    if stride > 1 or inputs != outputs:
      self.shortcut = nn.Sequential(
        conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
      )

  def forward(self, x: Tensor) -> Tensor:
    return F.relu(self.body(x) + self.shortcut(x))


def resnet(
  conv, blocks: tuple[int, ...], width: int, deep: bool, small: bool
) -> list[nn.Module]:
  """A ResNet's layers up to the mean over pixels, and the last width."""
  size, stride = (3, 1) if small else (7, 2)
  layers = [conv(3, width, size, stride, size // 2), nn.BatchNorm2d(width)]
  layers.append(nn.ReLU())
  if not small:
    layers.append(nn.MaxPool2d(3, 2, 1))
  inputs = width
  for stage, count in enumerate(blocks):
    for i in range(count):
      stride = 2 if stage and i == 0 else 1
      layers.append(Residual(conv, inputs, width * 2**stage, stride, deep))
      inputs = width * 2**stage * (4 if deep else 1)
  return layers


def mobilenet_v1(conv) -> list[nn.Module]:
  """MobileNetV1's layers up to the mean over pixels."""
  strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
  widths = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
  layers = [conv(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
  inputs = 32
  for width, stride in zip(widths, strides):
    layers += [conv(inputs, inputs, 3, stride, 1, groups=inputs)]
    layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
    layers += [conv(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
  return layers


MODELS: dict[str, tuple[Callable[..., list[nn.Module]], int]] = {
  'resnet50': (
    lambda conv: resnet(conv, (3, 4, 6, 3), 64, deep=True, small=False),
    2048,
  ),
  'resnet18': (
    lambda conv: resnet(conv, (2, 2, 2, 2), 64, deep=False, small=False),
    512,
  ),
  'resnet20': (
    lambda conv: resnet(conv, (3, 3, 3), 16, deep=False, small=True),
    64,
  ),
  'mobilenet_v1': (mobilenet_v1, 1024),
}


def create(name: str, method: str, classes: int) -> nn.Module:
  """A network with a method in every convolution and the classifier."""
  layers, features = MODELS[name]
  return nn.Sequential(
    *layers(functools.partial(Conv, method)),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    Linear(method, features, classes),
  )


class Trainer:
  """A network, its optimizer, and a batch that every step trains on.

  Args:
    name: of the network.
    method: 'dense', 'str' or 'st3'.
    images: float32, normalised, NCHW.
    labels: integers.
    classes: of the labels.
    channels_last: the memory format of images and weights.
    autocast: computes in bfloat16 where PyTorch deems it safe.
    compiled: by torch.compile.
  """

  def __init__(
    self,
    name: str,
    method: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    *,
    channels_last: bool = False,
    autocast: bool = False,
    compiled: bool = False,
  ) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    self.model = create(name, method, classes).to(
      images.device, memory_format=layout
    )
    self.images = images.contiguous(memory_format=layout)
    self.labels = labels
    self.autocast = autocast
    self.forward = torch.compile(self.model) if compiled else self.model
    self.optimizer = torch.optim.SGD(
      self.model.parameters(),
      lr=LEARNING_RATE,
      momentum=MOMENTUM,
      weight_decay=DECAY,
    )
    layers = [m for m in self.model.modules() if isinstance(m, (Conv, Linear))]
    self.pruned = [m for m in layers if isinstance(m.method, ST3)]
    self.update_thresholds()

  def step(self) -> Tensor:
    """One update; returns the loss."""
    device = self.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=self.autocast):
      logits = self.forward(self.images)
    loss = F.cross_entropy(logits.float(), self.labels)
    self.optimizer.zero_grad()
    loss.backward()
    self.optimizer.step()
    self.update_thresholds()
    return loss.detach()

  @torch.no_grad()
  def update_thresholds(self) -> None:
    """ST-3's global quantile, interpolated between its neighbours."""
    if not self.pruned:
      return
    magnitudes = torch.cat([m.weight.abs().flatten() for m in self.pruned])
    position = (len(magnitudes) - 1) * SPARSITY
    rank = math.floor(position)
    low = torch.kthvalue(magnitudes, rank + 1).values
    high = magnitudes[magnitudes > low].min()
    threshold = low + (position - rank) * (high - low)
    for module in self.pruned:
      module.method.threshold.copy_(threshold)
