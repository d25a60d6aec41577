"""CIFAR's networks: what their layers compute, what they cost, dropout."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from str_jax import flops, models


@pytest.fixture
def images():
  return np.random.default_rng(1).standard_normal((4, 8, 8, 3), 'f')


def draw(model, images):
  """Variables drawn by NumPy: init takes seconds to compile."""
  rng = np.random.default_rng(0)

  def leaf(leaf):
    if leaf.ndim > 1:
      return rng.standard_normal(leaf.shape, 'f') / leaf.size**0.25
    return rng.uniform(0.5, 1.5, leaf.shape).astype('f')

  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(leaf, shapes)


def conv(x, layer, stride=1):
  """A convolution with PyTorch's padding."""
  kernel = layer['kernel']
  pad = [(len(kernel) // 2,) * 2] * 2
  layout = ('NHWC', 'HWIO', 'NHWC')
  y = jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), pad, dimension_numbers=layout
  )
  return np.asarray(y)


def norm_relu(x, layer, stats):
  x = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5)
  return np.maximum(x * layer['scale'] + layer['bias'], 0)


def wide_block(x, layers, stats, stride):
  y = norm_relu(x, layers['norm1'], stats['norm1'])
  y = conv(y, layers['conv1'], stride)
  y = norm_relu(y, layers['norm2'], stats['norm2'])
  y = conv(y, layers['conv2'])
  return y + (
    conv(x, layers['shortcut'], stride) if 'shortcut' in layers else x
  )


def test_wide_resnet_layer_by_layer(images):
  model = models.create(
    'wrn_34_2', num_classes=5, stage_sizes=(1, 2), width=4, widen=3
  )
  variables = draw(model, images)
  p, s = variables['params'], variables['batch_stats']
  assert p['stage1_block1']['shortcut']['kernel'].shape == (1, 1, 4, 12)
  assert p['stage2_block2']['conv1']['kernel'].shape == (3, 3, 24, 24)
  assert 'shortcut' not in p['stage2_block2']
  x = conv(images, p['stem'])
  for name, stride in (
    ('stage1_block1', 1),
    ('stage2_block1', 2),
    ('stage2_block2', 1),
  ):
    x = wide_block(x, p[name], s[name], stride)
  x = norm_relu(x, p['last_norm'], s['last_norm'])
  logits = x.mean((1, 2)) @ p['classifier']['kernel']
  np.testing.assert_allclose(
    jax.jit(model.apply)(variables, images), logits, rtol=1e-4, atol=1e-5
  )


def test_vgg_layer_by_layer(images):
  images = images[:, :, :7]  # PyTorch's pools leave an odd last column out
  model = models.create(
    'vgg16', num_classes=5, stage_sizes=(2, 1), widths=(4, 6)
  )
  variables = draw(model, images)
  p, s = variables['params'], variables['batch_stats']
  x = images
  for name in ('stem', 'stage1_conv2', 'stage2_conv1'):
    x = norm_relu(conv(x, p[name]), p[f'{name}_norm'], s[f'{name}_norm'])
    if name != 'stem':
      n, h, w, c = x.shape
      x = x[:, : h // 2 * 2, : w // 2 * 2]
      x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
  logits = x.mean((1, 2)) @ p['classifier']['kernel']
  np.testing.assert_allclose(
    jax.jit(model.apply)(variables, images), logits, rtol=1e-4, atol=1e-5
  )


def chain(*widths):
  """Weights of 3x3 convolutions one after the other."""
  return sum(9 * a * b for a, b in zip(widths, widths[1:]))


def test_multiply_adds_of_wrn_34_2():
  expected = 32**2 * chain(3, 16) + 128 * 100  # the ends
  for into, width, side in ((16, 32, 32), (32, 64, 16), (64, 128, 8)):
    weights = chain(into, *[width] * 10) + into * width  # and the shortcut
    expected += side**2 * weights
  assert expected == 270_987_776
  model = models.create('wrn_34_2', num_classes=100)
  assert sum(flops.count(model, (32, 32, 3)).values()) == expected


def test_multiply_adds_of_vgg16():
  expected = 512 * 10
  for side, widths in (
    (32, (3, 64, 64)),
    (16, (64, 128, 128)),
    (8, (128, 256, 256, 256)),
    (4, (256, 512, 512, 512)),
    (2, (512, 512, 512, 512)),
  ):
    expected += side**2 * chain(*widths)
  assert expected == 313_201_664
  counts = flops.count(models.create('vgg16', num_classes=10), (32, 32, 3))
  assert sum(counts.values()) == expected
  assert len(counts) == 14


@pytest.mark.parametrize(
  ('name', 'layers', 'channels'),
  [
    ('vgg11', 9, 512),
    ('vgg13', 11, 512),
    ('vgg19', 17, 512),
    ('vgg11_st3', 5, 128),
    ('vgg13_st3', 7, 128),
    ('vgg16_st3', 8, 128),
    ('vgg19_st3', 9, 128),
  ],
)
def test_depth_of_vggs(name, layers, channels):
  """The usual number less 2: one classifier stands for three."""
  counts = flops.count(models.create(name, num_classes=10), (32, 32, 3))
  assert len(counts) == layers
  assert counts['classifier'] == channels * 10


def seen(model, variables, images, **settings):
  """Inputs and outputs of the dropout of the only block."""
  logits, state = model.apply(
    variables,
    images,
    capture_intermediates=lambda module, _: (
      isinstance(module, nn.Dropout) or module.name == 'norm2'
    ),
    mutable=['batch_stats', 'intermediates'],
    **settings,
  )
  block = state['intermediates']['stage1_block1']
  (before,) = block['norm2']['__call__']
  (after,) = block['dropout']['__call__']
  return np.maximum(before, 0), np.asarray(after), logits


@pytest.fixture
def dropping(images):
  model = models.create(
    'wrn_34_2',
    num_classes=5,
    stage_sizes=(1,),
    width=4,
    widen=64,
    dropout=0.25,
  )
  return model, draw(model, images)


def test_dropout_drops_whole_channels_in_training(dropping, images):
  fractions = []
  patterns = []
  for seed in range(2):
    before, after, _ = seen(
      *dropping, images, train=True, rngs={'dropout': jax.random.key(seed)}
    )
    assert before.any((1, 2)).all()
    kept = after.any((1, 2), keepdims=True)
    # A channel is dropped in an image, or kept whole and scaled up.
    np.testing.assert_allclose(after, kept * before / 0.75, rtol=1e-6)
    patterns.extend(kept[:, 0, 0])
    fractions.append(1 - kept.mean())
  # 1024 draws each: within four standard deviations.
  np.testing.assert_allclose(fractions, 0.25, atol=4 * 0.0136)
  assert len(np.unique(patterns, axis=0)) == 8  # of each image and seed


def test_no_dropout_in_evaluation(dropping, images):
  model, variables = dropping
  before, after, logits = seen(model, variables, images, train=False)
  np.testing.assert_array_equal(before, after)
  np.testing.assert_array_equal(logits, model.apply(variables, images))


def test_training_without_dropout_draws_nothing(images):
  sizes = {'stage_sizes': (1,), 'width': 4, 'dropout': 0.0}
  model = models.create('wrn_34_2', num_classes=5, **sizes)
  before, after, _ = seen(model, draw(model, images), images, train=True)
  np.testing.assert_array_equal(before, after)


def test_wrn_34_2_drops_as_in_st3():
  model = models.create('wrn_34_2', num_classes=100)
  assert model.dropout == 0.2


@pytest.mark.parametrize(
  ('name', 'sizes', 'message'),
  [
    ('vgg16', {}, 'need 32 pixels a side, but have 8 x 8'),
    ('vgg16', {'widths': (4, 8)}, 'stage_sizes has 5 and widths 2'),
    ('wrn_34_2', {'dropout': 1.0}, r'dropout must be in \[0, 1\)'),
    ('wrn_34_2', {'dropout': -0.1}, 'got -0.1'),
  ],
)
def test_sizes_that_do_not_fit(name, sizes, message, images):
  model = models.create(name, num_classes=5, **sizes)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), images)
