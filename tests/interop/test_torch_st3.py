"""What ST-3's released code writes: pruned layers and biased convolutions.

Its PrunedLayer (stthree/models/layers/quantized.py) registers th, fixed, scale
and mask beside the weight; its dense convolutions have a bias.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax import models
from str_jax.interop import torch as interop

SIZES = {'stage_sizes': (1, 1, 1), 'width': 2}
MODEL = models.create('resnet8', num_classes=5, **SIZES)
IMAGES = np.random.default_rng(1).standard_normal((4, 8, 8, 3), 'f')


def variables():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGES)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), 'f'), shapes
  )


def dense():
  return interop.to_state_dict(None, variables(), 'resnet8')


def layers(state_dict):
  """The convolutions and the classifier."""
  return [
    name.removesuffix('.weight')
    for name, value in state_dict.items()
    if name.endswith('.weight') and value.ndim > 1
  ]


def pruned(fixed, threshold):
  """As a checkpoint of Lightning's holds it, and the masks."""
  state_dict, rng = dense(), np.random.default_rng(2)
  masks = {}
  for layer in layers(state_dict):
    weight = state_dict[f'{layer}.weight']
    masks[layer] = (rng.uniform(size=weight.shape) < 0.5).astype('f')
    state_dict |= {
      f'{layer}.th': np.array([threshold], 'f'),
      f'{layer}.fixed': np.array([fixed]),
      f'{layer}.scale': np.full((len(weight), *[1] * (weight.ndim - 1)), 1.5),
      f'{layer}.mask': masks[layer],
      f'{layer}.total_ops': np.zeros(1),
    }
  return {f'model.{name}': v for name, v in state_dict.items()}, masks


@pytest.mark.parametrize('threshold', [0.3, -1.0])
def test_a_fixed_layer_is_its_weight_times_its_mask(
  threshold, assert_trees_equal
):
  state_dict, masks = pruned(True, threshold)
  method, found = interop.from_state_dict(state_dict, 'resnet8', **SIZES)
  assert method is None
  expected = dense()
  for layer, mask in masks.items():
    expected[f'{layer}.weight'] = expected[f'{layer}.weight'] * mask
  _, expected = interop.from_state_dict(expected, 'resnet8', **SIZES)
  assert_trees_equal(found, expected)
  assert not np.all(found['params']['stem']['kernel'])


def test_before_pruning_a_layer_is_dense(assert_trees_equal):
  state_dict, _ = pruned(False, -1.0)
  method, found = interop.from_state_dict(state_dict, 'resnet8', **SIZES)
  assert method is None
  assert_trees_equal(found, variables())


def test_a_layer_that_is_still_pruned_is_an_error():
  message = r'backbone.*conv, .* and \d+ more are not fixed yet.*fix_layers\(\)'
  state_dict, _ = pruned(False, 0.3)
  with pytest.raises(ValueError, match=message) as error:
    interop.from_state_dict(state_dict, 'resnet8', **SIZES)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('model.fc.mask', None, 'also holds fc.fixed, fc.scale, fc.th'),
    ('model.fc.mask', np.ones(3), r'fc.mask of shape \(3,\), not \(5, 8\)'),
  ],
)
def test_a_damaged_layer_is_an_error(name, value, message):
  state_dict, _ = pruned(True, 0.3)
  del state_dict[name]
  if value is not None:
    state_dict[name] = value
  with pytest.raises(ValueError, match=message):
    interop.from_state_dict(state_dict, 'resnet8', **SIZES)


def test_other_networks_have_no_pruned_layers():
  small = {'stage_sizes': (1,), 'width': 2}
  model = models.create('resnet18', num_classes=5, **small)
  params = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  state_dict = interop.to_state_dict(None, params, 'resnet18')
  for leaf in ('th', 'fixed', 'scale', 'mask'):
    state_dict[f'fc.{leaf}'] = np.ones_like(state_dict['fc.weight'])
  with pytest.raises(ValueError, match='also holds fc.fixed'):
    interop.from_state_dict(state_dict, 'resnet18', **small)


def biased_conv(*args, use_bias, **kwargs):
  del use_bias
  return nn.Conv(*args, use_bias=True, **kwargs)


@pytest.mark.parametrize('train', [False, True])
def test_biases_of_dense_convolutions_go_into_the_norms(train):
  """A BatchNorm takes off what a bias before it adds."""
  biased = MODEL.clone(conv=biased_conv)
  rng = np.random.default_rng(0)
  theirs = jax.tree.map(
    lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype('f'),
    jax.eval_shape(biased.init, jax.random.key(0), IMAGES),
  )
  state_dict = interop.to_state_dict(None, theirs, 'resnet8')
  assert 'backbone.res_blocks.1.skip.conv.bias' in state_dict
  _, ours = interop.from_state_dict(state_dict, 'resnet8', **SIZES)
  for model, variables in ((biased, theirs), (MODEL, ours)):
    assert ('bias' in variables['params']['stem']) == (model is biased)
  mutable = ['batch_stats'] if train else []
  expected, _ = biased.apply(theirs, IMAGES, train=train, mutable=mutable)
  logits, _ = MODEL.apply(ours, IMAGES, train=train, mutable=mutable)
  np.testing.assert_allclose(logits, expected, rtol=1e-4)
