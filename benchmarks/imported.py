"""Imported networks against PyTorch: the same images, the logits compared.

  python -m benchmarks.imported [--images=32] [--size=224]

torchvision's ResNet18, 34 and 50, and STR's ResNet50 and MobileNetV1, written
here with the names and the layers of its released code, get random weights,
statistics of their own for every BatchNorm, and STR's s from -4 to -2.
Each is saved as its authors do, taken in by `python -m str_jax import`, and
both sides classify the same images. Needs torch and torchvision; takes minutes
and trains nothing. Writes benchmarks/results/imported.json and .md.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import record
from str_jax import models
from str_jax.training import checkpoint, imported, init_from

RESULTS = record.RESULTS / 'imported.json'
FIELDS = ('largest difference', 'largest logit', 'same class', 'zeros')


class STRConv(nn.Conv2d):
  """A convolution of STR's code: sign(w) relu(|w| - sigmoid(s))."""

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    super().__init__(*args, **kwargs)
    self.sparseThreshold = nn.Parameter(torch.full((1, 1), -5.0))

  def forward(self, x: Tensor) -> Tensor:
    w, s = self.weight, torch.sigmoid(self.sparseThreshold)
    kept = torch.sign(w) * F.relu(torch.abs(w) - s)
    return self._conv_forward(x, kept, None)


class Residual(nn.Module):
  """torchvision's BasicBlock or Bottleneck, and STR's: the same names."""

  def __init__(
    self, conv: Callable, inputs: int, width: int, stride: int, deep: bool
  ) -> None:
    super().__init__()
    outputs = 4 * width if deep else width
    shapes = (
      [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
      if deep
      else [(inputs, width, 3, stride), (width, width, 3, 1)]
    )
    self.layers = len(shapes)
    for i, (fan_in, fan_out, size, step) in enumerate(shapes, start=1):
      layer = conv(fan_in, fan_out, size, step, size // 2, bias=False)
      self.add_module(f'conv{i}', layer)
      self.add_module(f'bn{i}', nn.BatchNorm2d(fan_out))
    self.downsample = None
    if stride > 1 or inputs != outputs:
      self.downsample = nn.Sequential(
        conv(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
      )

  def forward(self, x: Tensor) -> Tensor:
    y = x
    for i in range(1, self.layers + 1):
      y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
      y = F.relu(y) if i < self.layers else y
    return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """A ResNet with torchvision's names; STR's has a 1x1 convolution last."""

  def __init__(
    self,
    blocks: Sequence[int],
    deep: bool,
    conv: Callable = nn.Conv2d,
    width: int = 64,
    classes: int = 1000,
  ) -> None:
    super().__init__()
    self.conv1 = conv(3, width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    inputs = width
    for stage, count in enumerate(blocks):
      layers = []
      for i in range(count):
        stride = 2 if stage and not i else 1
        layers += [Residual(conv, inputs, width * 2**stage, stride, deep)]
        inputs = width * 2**stage * (4 if deep else 1)
      self.add_module(f'layer{stage + 1}', nn.Sequential(*layers))
    self.stages = len(blocks)
    self.fc: nn.Module = nn.Linear(inputs, classes)
    if conv is STRConv:
      self.fc = conv(inputs, classes, 1, bias=False)

  def forward(self, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    for stage in range(1, self.stages + 1):
      x = getattr(self, f'layer{stage}')(x)
    x = x.mean((2, 3), keepdim=True)
    linear = isinstance(self.fc, nn.Linear)
    return self.fc(x.flatten(1) if linear else x).flatten(1)


class MobileNetV1(nn.Module):
  """STR's models/mobilenetv1.py."""

  BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
  BLOCKS += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]

  def __init__(
    self, conv: Callable = STRConv, width: float = 1, classes: int = 1000
  ) -> None:
    super().__init__()

    def layers(inputs: int, outputs: int, size: int, stride: int, groups: int):
      made = conv(
        inputs, outputs, size, stride, size // 2, groups=groups, bias=False
      )
      return [made, nn.BatchNorm2d(outputs), nn.ReLU()]

    inputs = int(32 * width)
    blocks = [nn.Sequential(*layers(3, inputs, 3, 2, 1))]
    for channels, stride in self.BLOCKS:
      outputs = int(channels * width)
      depthwise = layers(inputs, inputs, 3, stride, inputs)
      blocks += [nn.Sequential(*depthwise, *layers(inputs, outputs, 1, 1, 1))]
      inputs = outputs
    self.model = nn.Sequential(*blocks)
    self.fc = conv(inputs, classes, 1, bias=False)

  def forward(self, x: Tensor) -> Tensor:
    return self.fc(self.model(x).mean((2, 3), keepdim=True)).flatten(1)


def settle(net: nn.Module, size: int) -> nn.Module:
  """Random weights, thresholds, scales and shifts, and statistics of images."""
  torch.manual_seed(0)
  for module in net.modules():
    if isinstance(module, (nn.Conv2d, nn.Linear)):
      nn.init.kaiming_normal_(module.weight)
    if isinstance(module, STRConv):
      nn.init.uniform_(module.sparseThreshold, -4.0, -2.0)
    if isinstance(module, nn.BatchNorm2d):
      module.momentum = None  # averages, and nothing of 0 and 1
      nn.init.uniform_(module.weight, 0.5, 1.5)
      nn.init.normal_(module.bias, 0.0, 0.2)
  with torch.no_grad():
    net.train()(torch.randn(8, 3, size, size))
  return net.eval()


def state_of(net: nn.Module, released: bool) -> dict[str, Any]:
  """What is saved: a state dict, or a checkpoint as STR's main.py writes it."""
  state_dict = net.state_dict()
  if not released:
    return state_dict
  return {
    'epoch': 100,
    'arch': type(net).__name__,
    'state_dict': {f'module.{k}': v for k, v in state_dict.items()},
    'best_acc1': 74.31,
    'optimizer': torch.optim.SGD(net.parameters(), 0.1).state_dict(),
  }


def compare(
  net: nn.Module, model: Any, variables: Any, size: int, count: int
) -> dict[str, float]:
  """The logits of both sides on the same images."""
  rng = np.random.default_rng(1)
  apply = jax.jit(model.apply)
  theirs, ours = [], []
  for _ in range(0, count, 8):
    images = rng.standard_normal((min(8, count), 3, size, size), 'f')
    with torch.no_grad():
      theirs.append(net(torch.from_numpy(images)).numpy())
    ours.append(np.asarray(apply(variables, images.transpose(0, 2, 3, 1))))
  a, b = np.concatenate(theirs), np.concatenate(ours)
  return {
    'largest difference': float(np.abs(a - b).max()),
    'largest logit': float(np.abs(a).max()),
    'same class': float((a.argmax(1) == b.argmax(1)).mean()),
    'images': len(a),
  }


@dataclasses.dataclass(frozen=True)
class Case:
  """A network, how it is saved, and our name of it."""

  arch: str
  source: str
  make: Callable[[], nn.Module]
  file: str
  zipped: bool = True


def torchvision_net(name: str) -> nn.Module:
  """One of torchvision's, without weights from anywhere."""
  # Shapes of operators that no classifier has: they are missing where
  # torchvision was compiled for another PyTorch, which the models outlive.
  sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('none')
  )
  import torchvision

  return getattr(torchvision.models, name)()


CASES = [
  *(
    Case(name, 'torchvision', lambda n=name: torchvision_net(n), 'net.pth')
    for name in ('resnet18', 'resnet34', 'resnet50')
  ),
  Case(
    'resnet50',
    "STR's layout",
    lambda: ResNet((3, 4, 6, 3), True, STRConv),
    'net.pth.tar',
    zipped=False,  # as PyTorch 1.3 wrote it
  ),
  Case('mobilenet_v1', "STR's layout", MobileNetV1, 'net.pth.tar'),
]


def measure(case: Case, size: int, count: int) -> dict[str, Any]:
  """A network saved, imported, and read from the folder: the differences."""
  net = settle(case.make(), size)
  with tempfile.TemporaryDirectory() as folder:
    path, out = pathlib.Path(folder, case.file), pathlib.Path(folder, 'run')
    torch.save(
      state_of(net, released=case.source != 'torchvision'),
      path,
      _use_new_zipfile_serialization=case.zipped,
    )
    _, summary = imported.take(path, case.arch, out)
    variables = checkpoint.read_variables(out)
  config = summary['config']
  model = models.create(
    case.arch,
    num_classes=1000,
    method=init_from.method_of(ConfigDict(config), variables),
    classifier_bias=config['model']['classifier_bias'],
  )
  found = compare(net, model, variables, size, count)
  return {
    'network': case.arch,
    'source': case.source,
    'size': size,
    'zeros': summary['sparsity'],
    **found,
    **record.origin(('jax', 'flax', 'torch', 'torchvision')),
  }


def table(records: list[dict[str, Any]]) -> str:
  rows = [
    (
      f'{r["network"]}, {r["source"]}',
      f'{r["zeros"]:.2%}',
      f'{r["largest logit"]:.2f}',
      f'{r["largest difference"]:.1e}',
      f'{r["same class"]:.0%} of {r["images"]}',
    )
    for r in records
  ]
  header = ('network', 'zeros', 'largest logit', 'largest difference')
  return record.markdown((*header, 'same class'), rows) + NOTE.format(
    **records[0]
  )


NOTE = """
The logits of an imported network here and of the same network in PyTorch, on
random images of {size} x {size}: `{command}`,
{machine}, {date}. Weights, thresholds and statistics
are random: released files were not at hand.
"""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=int, default=32)
  parser.add_argument('--size', type=int, default=224)
  args = parser.parse_args()
  for case in CASES:
    row = measure(case, args.size, args.images)
    print({k: row[k] for k in ('network', 'source', *FIELDS)}, flush=True)
    record.keep(RESULTS, [row], ('network', 'source'), table)


if __name__ == '__main__':
  main()
