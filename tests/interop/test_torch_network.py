"""A network in PyTorch itself, where that is installed."""

import jax
import numpy as np
import pytest

from str_jax import models
from str_jax.interop import torch as interop


def test_pytorch_computes_the_same_and_takes_it_back():
  """STR's MobileNetV1, rebuilt in PyTorch, where that is installed."""
  torch = pytest.importorskip('torch')

  def layers(inputs, outputs, size, stride, groups):
    return [
      torch.nn.Conv2d(
        inputs, outputs, size, stride, size // 2, groups=groups, bias=False
      ),
      torch.nn.BatchNorm2d(outputs),
      torch.nn.ReLU(),
    ]

  net = torch.nn.Module()
  blocks = [torch.nn.Sequential(*layers(3, 4, 3, 2, 1))]
  for inputs, outputs, stride in [(4, 8, 1), (8, 16, 2)]:
    blocks += [
      torch.nn.Sequential(
        *layers(inputs, inputs, 3, stride, inputs),
        *layers(inputs, outputs, 1, 1, 1),
      )
    ]
  net.model = torch.nn.Sequential(*blocks)
  net.fc = torch.nn.Conv2d(16, 5, 1, bias=False)
  images = np.random.default_rng(0).standard_normal((2, 3, 16, 16), 'f')
  net.train()
  net.model(torch.from_numpy(images))  # running averages that are not 0 and 1
  net.eval()
  with torch.no_grad():
    maps = net.model(torch.from_numpy(images))
    expected = net.fc(maps.mean((2, 3), keepdim=True))[:, :, 0, 0].numpy()

  sizes = {'width': 0.125, 'blocks': ((64, 1), (128, 2))}
  _, variables = interop.from_state_dict(
    net.state_dict(), 'mobilenet_v1', **sizes
  )
  model = models.create('mobilenet_v1', num_classes=5, **sizes)
  logits = jax.jit(model.apply)(variables, images.transpose(0, 2, 3, 1))
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  back = interop.to_state_dict(None, variables, 'mobilenet_v1')
  net.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()})
