"""Networks computed by the kernels, against the models themselves."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import str_jax
from str_jax import inference, methods
from str_jax.inference import executor, layout, reading, timing
from str_jax.inference.network import DENSE, SPARSE, Kernel

# Odd sizes, several images, every kind of block, stride and shortcut.
CASES = {
  'convnet': ('convnet', {'widths': (5, 9, 12)}, (3, 9, 11, 2)),
  'cifar': (
    'resnet20',
    {'stage_sizes': (1, 2, 1), 'width': 6},
    (2, 13, 10, 3),
  ),
  'basic': ('resnet18', {'stage_sizes': (1, 2), 'width': 6}, (1, 45, 64, 3)),
  'bottleneck': (
    'resnet50',
    {'stage_sizes': (1, 2), 'width': 6},
    (2, 38, 39, 3),
  ),
  'mobilenet': (
    'mobilenet_v1',
    {'width': 0.25, 'blocks': ((32, 1), (64, 2), (72, 1))},
    (2, 33, 30, 3),
  ),
}


def network(name, density=0.3, method=None):
  """A model, variables with zeros and lively norms, images and its logits."""
  arch, sizes, shape = CASES[name]
  model = str_jax.models.create(arch, num_classes=10, method=method, **sizes)
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=shape), jnp.float32)

  def leaf(path, x):
    kind = path[-1].key
    if kind == 'kernel':
      x = rng.normal(size=x.shape) * (rng.random(x.shape) < density)
      x *= np.sqrt(2 / np.prod(x.shape[:-1]) / density)
    elif kind in ('var', 'scale'):
      x = rng.uniform(0.5, 1.5, x.shape)
    elif kind in ('mean', 'bias'):
      x = rng.normal(size=x.shape) * 0.2
    return jnp.asarray(x, jnp.float32)

  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  variables = jax.tree_util.tree_map_with_path(
    leaf,
    jax.tree.map(lambda x: np.full(x.shape, -1.0), variables),
  )
  return model, variables, images, model.apply(variables, images)


@pytest.mark.parametrize('mode', inference.executor.MODES)
@pytest.mark.parametrize('name', CASES)
def test_native_logits_are_the_models(kernels, name, mode):
  model, variables, images, logits = network(name)
  fast = inference.build(
    model, variables, images.shape, mode=mode, backend='native'
  )
  np.testing.assert_allclose(fast(images), logits, atol=2e-5)
  assert fast.backend == 'C++' and not fast.note
  if mode != 'auto':
    sparse = {layer.kernel.sparse for layer in fast.layers}
    depthwise = name == 'mobilenet'  # has no sparse kernel
    assert sparse == ({True, False} if depthwise else {True}) or mode == 'dense'
    assert mode == 'sparse' or sparse == {False}


@pytest.mark.parametrize('name', ['convnet', 'bottleneck', 'mobilenet'])
@pytest.mark.parametrize('mode', ['dense', 'sparse'])
def test_plain_jax_logits_are_the_models(name, mode):
  model, variables, images, logits = network(name)
  plain = inference.build(
    model, variables, images.shape, mode=mode, backend='xla'
  )
  np.testing.assert_allclose(plain(images), logits, atol=2e-5)


def every_kernel(name):
  """Each kernel that any layer of a network can be computed by."""
  model, variables, images, _ = network(name)
  layers = reading.network(model, variables)
  backend = executor.Planar(layers, images.shape)
  return {kernel for node in layers for kernel in backend.kernels(node)}


def test_each_kernel_gives_the_same(kernels, monkeypatch):
  monkeypatch.setattr(layout, 'CACHE', 1 << 10)  # so that layers have blocks
  model, variables, images, logits = network('mobilenet')
  known = every_kernel('mobilenet')
  sparse = [(True, vectors, b) for vectors in (8, 4) for b in (False, True)]
  assert known == {
    Kernel(sparse, vectors, fused, blocked)
    for sparse, vectors, blocked in [(False, 8, False), *sparse]
    for fused in (False, True)
  }
  for wanted in known:
    monkeypatch.setattr(
      executor,
      '_choose',
      lambda backend, node, mode, wanted=wanted: timing.Timing(
        wanted if wanted in backend.kernels(node) else DENSE, {}
      ),
    )
    fast = inference.build(
      model, variables, images.shape, mode='auto', backend='native'
    )
    assert wanted in {layer.kernel for layer in fast.layers}
    np.testing.assert_allclose(fast(images), logits, atol=2e-5)


def test_the_fastest_kernel_is_taken(kernels):
  model, variables, images, _ = network('convnet')
  fast = inference.build(model, variables, images.shape, backend='native')
  for layer in fast.layers:
    assert {DENSE, SPARSE} <= layer.seconds.keys()
    assert layer.seconds[layer.kernel] == min(layer.seconds.values())
  weights = variables['params']['conv1']['kernel']
  found = {layer.name: layer for layer in fast.layers}['conv1']
  assert found.weights == weights.size
  assert found.nonzero == np.count_nonzero(weights)


@pytest.mark.parametrize('backend', ['native', 'xla'])
def test_thresholds_make_the_zeros(request, backend):
  if backend == 'native':
    request.getfixturevalue('kernels')
  method = methods.create('str', init_value=-2.0)
  model, variables, images, logits = network('convnet', 1.0, method)
  fast = inference.build(
    model, variables, images.shape, mode='sparse', backend=backend
  )
  np.testing.assert_allclose(fast(images), logits, atol=2e-5)
  assert all(layer.nonzero < layer.weights for layer in fast.layers)


def test_a_dead_layer_and_nan(kernels):
  model, variables, images, _ = network('convnet')
  dead = jax.tree_util.tree_map_with_path(
    lambda path, x: x * 0 if 'conv1' in str(path) else x, variables
  )
  for mode in ('dense', 'sparse'):
    fast = inference.build(model, dead, images.shape, mode=mode)
    np.testing.assert_allclose(
      fast(images), model.apply(dead, images), atol=2e-5
    )
    fast = inference.build(model, variables, images.shape, mode=mode)
    spoilt = images.at[0, 4, 4, 0].set(jnp.nan)
    got = np.isnan(fast(spoilt)).any(axis=1)
    assert got[0] and not got[1:].any()  # as the model's own


def test_bfloat16_images_and_other_calls(kernels):
  model, variables, images, _ = network('convnet')
  fast = inference.build(model, variables, images.shape, mode='sparse')
  small = images.astype(jnp.bfloat16)
  want = model.apply(variables, small.astype(jnp.float32))
  np.testing.assert_allclose(fast(small), want, atol=2e-5)
  with pytest.raises(ValueError, match=r'built for images of shape \(3, 9, 11'):
    fast(images[:1])


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'mode': 'fast'}, "mode must be one of auto, dense, sparse, got 'fast'"),
    ({'backend': 'gpu'}, 'backend must be one of auto, native, xla'),
    ({'images': (9, 11, 2)}, r'images must be a shape.*got \(9, 11, 2\)'),
    (
      {'images': (1, 9, 11, 3)},
      'stem wants 2 channels, but gets 3 from images',
    ),
    ({'images': (0, 9, 11, 2)}, 'four numbers of 1 or more'),
  ],
)
def test_wrong_settings_are_one_sentence(change, message):
  model, variables, images, _ = network('convnet')
  asked = {'images': images.shape, 'backend': 'xla'} | change
  with pytest.raises(ValueError, match=message):
    inference.build(model, variables, **asked)


def test_unknown_models_and_variables_are_one_sentence():
  model, variables, images, _ = network('convnet')
  other = str_jax.models.create('fastgrnn', num_classes=2, hidden=4)
  known = 'ConvNet, ResNet, MobileNetV1 of str_jax.models, got a '
  with pytest.raises(ValueError, match=f'{known}FastGRNN of .*fastgrnn: for'):
    inference.build(other, variables, images.shape)

  class ResNet(nn.Module):  # somebody else's
    pass

  with pytest.raises(ValueError, match=f'{known}ResNet of .*test_executor: fo'):
    inference.build(ResNet(), variables, images.shape)
  larger = model.clone(widths=(5, 9, 12, 14))
  with pytest.raises(ValueError, match='must be those of the ConvNet.*conv3'):
    inference.build(larger, variables, images.shape)
  with pytest.raises(ValueError, match='have no stem_norm/var'):
    inference.build(model, {'params': variables['params']}, images.shape)
  smaller = model.clone(widths=(5, 9))
  with pytest.raises(
    ValueError, match='classifier wants 12 channels, but gets'
  ):
    inference.build(smaller, variables, images.shape)


def test_variables_of_another_network_with_the_same_names():
  _, variables, images, _ = network('bottleneck')
  sizes = CASES['bottleneck'][1]
  basic = str_jax.models.create('resnet18', num_classes=10, **sizes)
  with pytest.raises(ValueError, match='wants .* channels|but adds'):
    inference.build(basic, variables, images.shape)


@pytest.mark.parametrize('shape', [(1, 1, 1), (17, 2, 2), (130, 1, 3)])
@pytest.mark.parametrize('mode', ['dense', 'sparse'])
def test_tiny_images_and_large_batches(kernels, mode, shape):
  model, variables, _, _ = network('convnet')
  images = np.random.default_rng(1).normal(size=(*shape, 2)).astype('f')
  fast = inference.build(model, variables, images.shape, mode=mode)
  np.testing.assert_allclose(
    fast(images), model.apply(variables, images), atol=2e-5
  )


def test_two_networks_at_once(kernels):
  made = {}
  for name in ('convnet', 'mobilenet'):
    model, variables, images, logits = network(name)
    fast = inference.build(model, variables, images.shape, mode='sparse')
    made[name] = fast, images, logits
  wrong = []

  def call(name):
    fast, images, logits = made[name]
    for _ in range(50):
      wrong.append(not np.allclose(fast(images), logits, atol=2e-5))

  threads = [threading.Thread(target=call, args=[name]) for name in made]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(wrong) == 100 and not any(wrong)


def test_a_pool_keeps_nan(kernels):
  model, variables, images, _ = network('basic')
  fast = inference.build(model, variables, images.shape, mode='sparse')
  for row in range(4, 8):  # not the corner of a window alone
    spoilt = images.at[0, row, row].set(jnp.nan)
    assert np.isnan(fast(spoilt)).all()
