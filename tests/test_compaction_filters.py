"""Dead filters cut out of every model: the same logits from fewer channels."""

import functools

import jax
import numpy as np
import pytest

from str_jax import compaction, flops, models
from str_jax.paths import kernels, named_leaves

# Every family, shrunk to what it is made of: channels of the images too.
MODELS = {
  'convnet': ({'widths': (5, 6, 7)}, (8, 8, 1)),
  'vgg11': ({'stage_sizes': (2, 1), 'widths': (5, 6)}, (8, 8, 3)),
  'resnet20': ({'stage_sizes': (2, 2), 'width': 5}, (8, 8, 3)),
  'resnet18': ({'stage_sizes': (1, 2), 'width': 5}, (16, 16, 3)),
  'resnet50': ({'stage_sizes': (2, 1), 'width': 3}, (16, 16, 3)),
  'mobilenet_v1': (
    {'width': 0.25, 'blocks': ((20, 1), (40, 2), (40, 1))},
    (16, 16, 3),
  ),
  'wrn_28_10': (
    {'stage_sizes': (2, 1), 'width': 3, 'widen': 2},
    (8, 8, 3),
  ),
}
every_model = pytest.mark.parametrize('name', MODELS)


@functools.cache
def model_of(name):
  return models.create(name, num_classes=3, **MODELS[name][0])


@functools.cache
def images(name):
  shape = (4, *MODELS[name][1])
  return np.random.default_rng(5).standard_normal(shape, 'f')


@functools.cache
def shapes(name):
  model = model_of(name)
  return jax.eval_shape(model.init, jax.random.key(0), images(name))


@functools.cache
def apply_of(model):
  return jax.jit(model.apply)


def random_variables(name, rng):
  """Every weight, scale, bias and statistic its own."""

  def leaf(path, x):
    kind = path[-1].key
    if kind in ('var', 'scale'):
      return rng.uniform(0.5, 2, x.shape).astype('f')
    size = 1.5 / np.sqrt(np.prod(x.shape[:-1])) if kind == 'kernel' else 0.5
    return (size * rng.standard_normal(x.shape)).astype('f')

  return jax.tree_util.tree_map_with_path(leaf, shapes(name))


def kill(variables, rng, outputs, inputs, weights):
  """Zeroes some filters, some inputs, some weights of every layer."""
  for kernel in kernels(variables['params']).values():
    kernel[..., rng.random(kernel.shape[-1]) < outputs] = 0
    kernel[..., rng.random(kernel.shape[-2]) < inputs, :] = 0
    kernel[rng.random(kernel.shape) < weights] = 0


def check(name, variables):
  """The contract; returns the small model and its variables."""
  model, x = model_of(name), images(name)
  small, cut = compaction.compact(model, variables)
  expected = apply_of(model)(variables, x)
  logits = apply_of(small)(cut, x)
  np.testing.assert_allclose(
    logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
  )
  own = jax.eval_shape(small.init, jax.random.key(0), x)
  assert jax.tree.map(np.shape, cut) == jax.tree.map(np.shape, own)
  assert size(cut) <= size(variables)
  counts = [sum(flops.count(m, x.shape[1:]).values()) for m in (small, model)]
  assert counts[0] <= counts[1]
  again, same = compaction.compact(small, cut)
  assert again == small
  jax.tree.map(np.testing.assert_array_equal, same, cut)
  assert all(min(leaf.shape) > 0 for leaf in jax.tree.leaves(cut))
  return small, cut


def size(variables):
  return sum(np.size(leaf) for leaf in jax.tree.leaves(variables['params']))


# Shares of dead filters, dead inputs and zeros elsewhere.
PATTERNS = {
  'filters': (0.2, 0, 0),
  'inputs': (0, 0.25, 0),
  'all': (0.15, 0.15, 0.5),
  'most': (0.2, 0.2, 0.9),
}


@every_model
@pytest.mark.parametrize('pattern', PATTERNS)
def test_random_patterns(name, pattern):
  rng = np.random.default_rng(list(PATTERNS).index(pattern))
  variables = random_variables(name, rng)
  kill(variables, rng, *PATTERNS[pattern])
  cut = check(name, variables)[1]
  assert size(cut) < size(variables) or pattern == 'filters'
  if pattern == 'filters':  # not a network that is constant
    logits = apply_of(model_of(name))(variables, images(name))
    assert np.ptp(logits, axis=0).max() > 1e-3


@every_model
def test_nothing_dead(name):
  variables = random_variables(name, np.random.default_rng(0))
  small, cut = compaction.compact(model_of(name), variables)
  assert small == model_of(name)
  jax.tree.map(np.testing.assert_array_equal, cut, variables)


@every_model
def test_a_whole_layer_dead(name):
  layers = list(flops.count(model_of(name), MODELS[name][1]))
  for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
    variables = random_variables(name, np.random.default_rng(1))
    kernels(variables['params'])[layer][:] = 0
    check(name, variables)


def leaf_of(variables, layer, leaf):
  return named_leaves(variables['params'])[(*layer.split('/'), leaf)]


def silence(variables, layer, channels, constant):
  """Zeroes filters; the BatchNorm after them gives a constant."""
  block, _, conv = layer.rpartition('/')
  names = {'stem': 'stem_norm', 'shortcut': 'shortcut_norm'}
  last = conv.replace('conv', 'norm')
  last = names.get(conv, f'{conv}_norm' if 'wise' in conv else last)
  at = f'{block}/{last}' if block else last
  leaf_of(variables, layer, 'kernel')[..., channels] = 0
  mean = variables['batch_stats']
  for name in at.split('/'):
    mean = mean[name]
  mean['mean'][channels] = 0
  leaf_of(variables, at, 'bias')[channels] = constant


# Who writes the channels of a residual stream, and who reads them.
WRITERS = {
  'resnet20': ['stem', 'stage1_block1/conv2', 'stage1_block2/conv2'],
  'resnet50': [
    'stage1_block1/shortcut',
    'stage1_block1/conv3',
    'stage1_block2/conv3',
  ],
}
READERS = {
  'resnet20': [
    'stage1_block1/conv1',
    'stage1_block2/conv1',
    'stage2_block1/conv1',
    'stage2_block1/shortcut',
  ],
  'resnet50': [
    'stage1_block2/conv1',
    'stage2_block1/conv1',
    'stage2_block1/shortcut',
  ],
  'wrn_28_10': [
    'stage1_block2/conv1',
    'stage2_block1/conv1',
    'stage2_block1/shortcut',
  ],
}
WRITERS['wrn_28_10'] = [
  'stage1_block1/shortcut',
  'stage1_block1/conv2',
  'stage1_block2/conv2',
]


@pytest.mark.parametrize('name', WRITERS)
@pytest.mark.parametrize('constant', [-0.4, 0.7])
def test_channels_of_a_stream_that_nothing_writes(name, constant):
  variables = random_variables(name, np.random.default_rng(2))
  dead = [1, 2]
  for layer in WRITERS[name]:
    if name == 'wrn_28_10':  # its norms come before the convolutions
      leaf_of(variables, layer, 'kernel')[..., dead] = 0
    else:
      silence(variables, layer, dead, constant)
  # Constants that are not zero need a channel in front of a padded kernel.
  stays = name == 'wrn_28_10' or name == 'resnet20' and constant > 0
  width = leaf_of(variables, WRITERS[name][0], 'kernel').shape[-1]
  small, cut = check(name, variables)
  for layer in WRITERS[name]:
    assert small.channels[layer] == width - len(dead) + stays
  assert kernels(cut['params'])[WRITERS[name][0]].shape[-1] < width


@pytest.mark.parametrize('name', READERS)
def test_channels_of_a_stream_that_nothing_reads(name):
  variables = random_variables(name, np.random.default_rng(3))
  for layer in READERS[name]:
    leaf_of(variables, layer, 'kernel')[..., [0, 3], :] = 0
  width = leaf_of(variables, WRITERS[name][0], 'kernel').shape[-1]
  small, _ = check(name, variables)
  for layer in WRITERS[name]:
    assert small.channels[layer] == width - 2


def test_a_channel_that_one_writer_varies_stays():
  variables = random_variables('resnet20', np.random.default_rng(2))
  for layer in WRITERS['resnet20'][:-1]:
    silence(variables, layer, [1, 2], 0.5)
  small, _ = check('resnet20', variables)
  assert not {*WRITERS['resnet20']} & {*small.channels}


def test_constants_through_a_depthwise_convolution():
  def left(layer, constant, middle=False):
    variables = random_variables('mobilenet_v1', np.random.default_rng(4))
    silence(variables, layer, [0, 2], constant)
    if middle:  # a kernel that never stands on the padding
      taps = leaf_of(variables, 'block2/depthwise', 'kernel')
      taps[np.arange(9).reshape(3, 3) != 4] = 0
    _, cut = check('mobilenet_v1', variables)
    shapes = {k: v.shape for k, v in kernels(cut['params']).items()}
    assert shapes['block1/pointwise'][3] == shapes['block2/depthwise'][3]
    return shapes['block1/pointwise'][3]

  assert left('block2/depthwise', 0.6) == 5 - 2
  assert left('block2/depthwise', -0.6) == 5 - 2
  assert left('block1/pointwise', -0.6) == 5 - 2
  assert left('block1/pointwise', 0.6) == 5  # the border shows them
  assert left('block1/pointwise', 0.6, middle=True) == 5 - 2


def test_constants_in_front_of_a_padded_kernel_become_one_channel():
  variables = random_variables('convnet', np.random.default_rng(6))
  silence(variables, 'stem', [0, 1, 3], np.array([0.3, 2.0, 0.7], 'f'))
  small, cut = check('convnet', variables)
  assert dict(small.channels) == {'stem': 5 - 3 + 1}
  one = cut['params']['stem']['kernel'][..., 0]
  assert not one.any() and cut['params']['stem_norm']['bias'][0] == 1


def test_constants_in_front_of_the_classifier_become_its_bias():
  variables = random_variables('convnet', np.random.default_rng(7))
  silence(variables, 'conv2', [0, 1, 3], 0.8)
  small, cut = check('convnet', variables)
  assert dict(small.channels) == {'conv2': 7 - 3} and small.classifier_bias
  weight = variables['params']['classifier']['kernel']
  np.testing.assert_allclose(
    cut['params']['classifier']['bias'],
    0.8 * weight[[0, 1, 3]].sum(0),
    rtol=1e-6,
  )


def test_the_dead_in_turn_kill_what_only_they_read():
  variables = random_variables('convnet', np.random.default_rng(8))
  params = variables['params']
  params['conv2']['kernel'][..., 4, :] = 0  # nothing reads conv1's channel 4,
  params['conv1']['kernel'][..., 3, :4] = 0  # which alone reads the stem's 3
  params['conv1']['kernel'][..., 3, 5:] = 0
  small, _ = check('convnet', variables)
  assert dict(small.channels) == {'stem': 5 - 1, 'conv1': 6 - 1}
