"""The vision transformer: what it computes, what it costs, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from str_jax import flops, methods, models
from str_jax.models import vit
from str_jax.paths import kernels

SIZES = {'num_classes': 5, 'width': 8, 'depth': 2, 'heads': 2, 'mlp_ratio': 2.0}


def draw(model, images):
  """Variables drawn by NumPy: init takes seconds to compile."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(lambda x: rng.standard_normal(x.shape, 'f') / 2, shapes)


def layer_norm(x, p):
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * p['scale'] + p['bias']


def dense(x, p):
  return x @ p['kernel'] + p['bias']


def attention(x, p):
  q, k, v = (
    np.einsum('ntd,dhe->nhte', x, p[name]['kernel'])
    + p[name]['bias'][:, np.newaxis]
    for name in ('query', 'key', 'value')
  )
  scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
  mixed = scores / scores.sum(-1, keepdims=True) @ v
  out = np.einsum('nhte,hed->ntd', mixed, p['out']['kernel'])
  return out + p['out']['bias']


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize('lowering', ['xla', 'cpu'])
def test_layer_by_layer(lowering):
  images = np.random.default_rng(1).standard_normal((2, 8, 12, 3), 'f')
  model = models.create('vit_tiny', lowering=lowering, **SIZES)
  variables = draw(model, images)
  p = jax.tree.map(np.float64, variables['params'])
  patches = images.reshape(2, 2, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
  x = dense(
    patches.reshape(2, 2, 3, -1),
    {**p['stem'], 'kernel': p['stem']['kernel'].reshape(48, 8)},
  )
  angles = np.array([1, 1e-4])  # of 8 channels: two frequencies a direction
  for row in range(2):
    for column in range(3):
      x[:, row, column] += np.concatenate(
        [f(n * angles) for n in (column, row) for f in (np.sin, np.cos)]
      )
  x = x.reshape(2, 6, 8)
  for block in (p['block1'], p['block2']):
    x = x + attention(
      layer_norm(x, block['attention_norm']), block['attention']
    )
    y = dense(layer_norm(x, block['mlp_norm']), block['mlp_in'])
    x = x + dense(gelu(y), block['mlp_out'])
  logits = dense(layer_norm(x, p['last_norm']).mean(1), p['classifier'])
  np.testing.assert_allclose(
    jax.jit(model.apply)(variables, images), logits, rtol=1e-4, atol=1e-5
  )


def test_attention_takes_flax_s_variables():
  x = np.random.default_rng(1).standard_normal((2, 5, 8), 'f')
  flax = nn.MultiHeadDotProductAttention(num_heads=2)
  variables = draw(flax, x)
  np.testing.assert_array_equal(
    jax.jit(vit.Attention(heads=2).apply)(variables, x),
    jax.jit(flax.apply)(variables, x),
  )


def test_multiply_adds():
  """Of ViT-B/16 at 224: torchvision's 17.564 G are with a class token more."""
  model = models.create(
    'vit_tiny', num_classes=1000, patch=16, width=768, heads=12
  )
  counts = flops.count(model, (224, 224, 3))
  assert counts.pop('stem') == 196 * 768**2
  assert counts.pop('classifier') == 768_000
  assert counts['block3/attention/query'] == 196 * 768**2
  blocks = sum(counts.values())  # 4 of the attention's, 2 of 4 times that
  assert blocks == 12 * 196 * 12 * 768**2
  weightless = flops.count_weightless(model, (224, 224, 3))
  assert weightless == 12 * 2 * 196**2 * 768
  more = 197 / 196
  theirs = blocks * more + 196 * 768**2 + 768_000 + weightless * more**2
  assert theirs == pytest.approx(17.564e9, abs=0.0005e9)


def test_only_products_of_activations_are_weightless():
  for name in ('convnet', 'mobilenet_v1'):
    assert (
      flops.count_weightless(models.create(name, num_classes=2), (32, 32, 3))
      == 0
    )


def test_a_method_costs_no_multiply_adds():
  dense = models.create('vit_tiny', **SIZES)
  sparse = models.create('vit_tiny', method=methods.create('str'), **SIZES)
  for count in (flops.count, flops.count_weightless):
    assert count(sparse, (8, 8, 3)) == count(dense, (8, 8, 3))


def test_all_layers_are_thresholded():
  model = models.create('vit_tiny', method=methods.create('str'), **SIZES)
  params = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3))
  )['params']
  assert len(kernels(params)) == 2 + 2 * 6
  assert (
    sum(
      'threshold' in str(p)
      for p, _ in jax.tree_util.tree_leaves_with_path(params)
    )
    == 2 + 2 * 6
  )


def test_computes_in_bfloat16():
  model = models.create('vit_tiny', dtype=jnp.bfloat16, **SIZES)
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  _, seen = jax.eval_shape(
    lambda images: model.init_with_output(
      jax.random.key(0),
      images,
      capture_intermediates=True,
      mutable=['params', 'intermediates'],
    ),
    images,
  )
  seen = seen['intermediates']
  logits = seen.pop('__call__')[0]
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(seen)} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'patch': 0}, 'patch to be 1 or more, got 0'),
    ({'heads': 3}, 'width 8 with 3 heads'),
    ({'width': 10, 'heads': 2}, 'multiple of 4'),
    ({'mlp_ratio': 0.1}, 'got mlp_ratio 0.1'),
    ({'patch': 3}, 'whole patches of 3 x 3 .* 8 x 8'),
  ],
)
def test_sizes_that_do_not_fit(sizes, message):
  with pytest.raises(ValueError, match=message):
    model = models.create('vit_tiny', **(SIZES | sizes))
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_channels_are_refused():
  with pytest.raises(ValueError, match="leave channels out, got {'stem': 4}"):
    vit.ViT(num_classes=2, channels={'stem': 4})
