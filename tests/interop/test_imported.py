"""Networks of PyTorch's, saved, taken in, and run on the same images."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from benchmarks import imported as benchmark  # noqa: E402
from str_jax import models  # noqa: E402
from str_jax.interop import files  # noqa: E402
from str_jax.interop import torch as interop  # noqa: E402
from str_jax.methods import STR  # noqa: E402
from str_jax.training import init_from  # noqa: E402

CONV = {'torchvision': torch.nn.Conv2d, 'str': benchmark.STRConv}
CASES = [
  ('resnet18', 'torchvision', {'stage_sizes': (2, 1), 'width': 8}),
  ('resnet34', 'torchvision', {'stage_sizes': (1, 2), 'width': 8}),
  ('resnet50', 'torchvision', {'stage_sizes': (1, 2), 'width': 4}),
  ('resnet18', 'str', {'stage_sizes': (1, 1), 'width': 8}),
  ('resnet50', 'str', {'stage_sizes': (1, 2), 'width': 4}),
  ('mobilenet_v1', 'str', {'width': 0.25}),
]


def network(arch, kind, sizes):
  conv = CONV[kind]
  if arch == 'mobilenet_v1':
    return benchmark.MobileNetV1(conv, **sizes, classes=10)
  blocks, width = sizes['stage_sizes'], sizes['width']
  return benchmark.ResNet(blocks, arch == 'resnet50', conv, width, 10)


@pytest.mark.parametrize(('arch', 'kind', 'sizes'), CASES)
def test_the_logits_are_pytorchs(arch, kind, sizes, tmp_path):
  net = benchmark.settle(network(arch, kind, sizes), 32)
  path = tmp_path / ('net.pth.tar' if kind == 'str' else 'net.pth')
  torch.save(benchmark.state_of(net, released=kind == 'str'), path)
  method, variables = init_from.network(
    path, files.content(path), arch, **sizes
  )
  assert isinstance(method, STR) == (kind == 'str')
  model = models.create(
    arch,
    num_classes=10,
    method=method,
    classifier_bias=kind == 'torchvision',
    **sizes,
  )
  found = benchmark.compare(net, model, variables, 32, 8)
  assert found['largest difference'] <= 1e-4
  assert found['largest logit'] > 0.5
  assert found['same class'] == 1
  # And back: PyTorch takes what is written, strictly, and computes the same.
  state_dict = interop.to_state_dict(method, variables, arch)
  files.write(path, state_dict, {'from': 'str_jax'})
  again = network(arch, kind, sizes)
  again.load_state_dict(torch.load(path))
  images = torch.randn(4, 3, 32, 32)
  with torch.no_grad():
    assert torch.equal(again.eval()(images), net(images))


def test_a_dense_conversion_of_strs(tmp_path):
  """The effective weights and a 1x1 convolution last, no thresholds."""
  sizes = {'stage_sizes': (1, 1), 'width': 8}
  net = benchmark.settle(network('resnet18', 'str', sizes), 32)
  state_dict = {}
  for name, value in net.state_dict().items():
    threshold = f'{name.removesuffix("weight")}sparseThreshold'
    if threshold in net.state_dict() and not name.endswith('sparseThreshold'):
      t = torch.sigmoid(net.state_dict()[threshold]).item()
      value = value.sign() * (value.abs() - t).relu()
    if not name.endswith('sparseThreshold'):
      state_dict[f'module.{name}'] = value
  path = tmp_path / 'dense.pth.tar'
  torch.save({'epoch': 1, 'state_dict': state_dict}, path)
  method, variables = init_from.network(
    path, files.content(path), 'resnet18', **sizes
  )
  assert method is None
  kernel = variables['params']['stage1_block1']['conv1']['kernel']
  assert (np.asarray(kernel) == 0).mean() > 0.1
  model = models.create(
    'resnet18', num_classes=10, classifier_bias=False, **sizes
  )
  found = benchmark.compare(net, model, variables, 32, 8)
  assert found['largest difference'] <= 1e-4


class ST3Block(torch.nn.Module):
  """A residual block of ST-3's code, by its names."""

  def __init__(self, inputs, outputs, stride):
    super().__init__()
    self.block = torch.nn.Sequential(
      st3_layer(inputs, outputs, 3, stride), st3_layer(outputs, outputs, 3, 1)
    )
    self.skip = None
    if stride > 1:
      self.skip = st3_layer(inputs, outputs, 1, stride)

  def forward(self, x):
    y = self.block[1](self.block[0](x).relu())
    return (y + (x if self.skip is None else self.skip(x))).relu()


def st3_layer(inputs, outputs, size, stride):
  layer = torch.nn.Sequential()
  layer.add_module(
    'conv',
    torch.nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
  )
  layer.add_module('batchnorm', torch.nn.BatchNorm2d(outputs))
  return layer


class ST3ResNet8(torch.nn.Module):
  """ST-3's ResNet8 for CIFAR."""

  def __init__(self):
    super().__init__()
    blocks = [ST3Block(16, 16, 1), ST3Block(16, 32, 2), ST3Block(32, 64, 2)]
    self.backbone = torch.nn.Module()
    self.backbone.start_block = st3_layer(3, 16, 3, 1)
    self.backbone.res_blocks = torch.nn.Sequential(*blocks)
    self.fc = torch.nn.Linear(64, 10, bias=False)

  def forward(self, x):
    x = self.backbone.res_blocks(self.backbone.start_block(x).relu())
    return self.fc(x.mean((2, 3)))


def test_a_network_of_st3s(tmp_path):
  """Fixed layers, as Lightning saves them: the weights times the masks."""
  net = benchmark.settle(ST3ResNet8(), 32)
  saved = {}
  for name, weight in net.state_dict().items():
    saved[f'model.{name}'] = weight
    if not name.endswith('weight') or weight.ndim == 1:
      continue
    layer = f'model.{name}'.removesuffix('.weight')
    mask = (torch.rand_like(weight) < 0.5).float()
    saved[f'{layer}.th'] = torch.tensor([0.1])
    saved[f'{layer}.fixed'] = torch.tensor([True])
    saved[f'{layer}.scale'] = torch.ones(len(weight))
    saved[f'{layer}.mask'] = mask
    saved[f'model.{name}'] = weight.clone()
    weight.mul_(mask)  # what the layer computes with
  path = tmp_path / 'last.ckpt'
  torch.save({'epoch': 169, 'state_dict': saved}, path)
  method, variables = init_from.network(path, files.content(path), 'resnet8')
  assert method is None
  model = models.create('resnet8', num_classes=10)
  found = benchmark.compare(net, model, variables, 32, 8)
  assert found['largest difference'] <= 1e-4
  assert found['largest logit'] > 0.5


def test_half_precision_is_widened(tmp_path):
  """Weights of half the bytes come as float32, exactly."""
  sizes = {'stage_sizes': (1,), 'width': 4}
  net = benchmark.settle(network('resnet18', 'torchvision', sizes), 32)
  for kind in (torch.bfloat16, torch.float16):
    halved = net.to(kind).state_dict()
    torch.save(halved, tmp_path / 'a.pth')
    arrays = files.read(tmp_path / 'a.pth')
    files.write(tmp_path / 'a.safetensors', arrays)
    for name in ('a.pth', 'a.safetensors'):
      file = files.content(tmp_path / name)
      _, variables = init_from.network(
        tmp_path / name, file, 'resnet18', **sizes
      )
      kernel = variables['params']['stem']['kernel']
      assert kernel.dtype == 'float32'
      expected = halved['conv1.weight'].float().permute(2, 3, 1, 0).numpy()
      np.testing.assert_array_equal(jax.device_get(kernel), expected)
