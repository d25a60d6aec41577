"""Multiply-adds: the papers' figures, and cases computed by hand."""

import csv
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import str_jax.nn
from str_jax import flops, methods, models
from str_jax.paths import named_leaves

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# FLOPs in millions of the 16 ResNet50s in STR's Table 1 and appendix.
PUBLISHED = {
  '79.55': 766,
  '81.27': 705,
  '87.7': 402,
  '90.23': 343,
  '90.55': 341,
  '94.8': 182,
  '95.03': 159,
  '95.15': 162,
  '96.11': 127,
  '96.53': 117,
  '97.78': 80,
  '98.05': 73,
  '98.22': 68,
  '98.79': 54,
  '98.98': 47,
  '99.1': 44,
}


@pytest.fixture(scope='module')
def released():
  with open(GOLDEN / 'str_resnet50.csv', encoding='utf-8') as file:
    next(file)  # the line that names the source
    return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def resnet50():
  return models.create('resnet50', num_classes=1000)


@pytest.fixture(scope='module')
def resnet50_counts(resnet50):
  return flops.count(resnet50, (224, 224, 3))


def test_resnet50_equals_the_authors_layer_by_layer(
  released, resnet50, resnet50_counts
):
  params = jax.eval_shape(
    resnet50.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))
  )['params']
  sizes = {'/'.join(p): w.size for p, w in named_leaves(params).items()}
  ours = [(sizes[f'{layer}/kernel'], n) for layer, n in resnet50_counts.items()]
  assert ours == [(int(r['weights']), int(r['dense_flops'])) for r in released]
  assert sum(resnet50_counts.values()) == 4_089_184_256
  names = list(resnet50_counts)
  assert names[0] == 'stem'
  assert names[1:5] == [
    f'stage1_block1/{layer}'
    for layer in ('conv1', 'conv2', 'conv3', 'shortcut')
  ]
  assert names[-1] == 'classifier'


@pytest.mark.parametrize('sparsity', PUBLISHED)
def test_learned_budgets_cost_what_was_published(
  sparsity, released, resnet50_counts
):
  column = f'str_{sparsity}'
  total = sum(
    n * (1 - float(row[column]))
    for n, row in zip(resnet50_counts.values(), released, strict=True)
  )
  assert total / 1e6 == pytest.approx(PUBLISHED[sparsity], abs=0.6)


def test_mobilenet_v1():
  counts = flops.count(
    models.create('mobilenet_v1', num_classes=1000), (224, 224, 3)
  )
  assert sum(counts.values()) == 568_740_352
  assert counts['block1/depthwise'] == 112 * 112 * 3 * 3 * 32


@pytest.mark.parametrize(
  'settings',
  [
    {'method': methods.create('str')},
    {'method': methods.create('str', granularity='filter')},
    {'method': methods.create('st3', sparsity=0.9)},
    {'lowering': 'cpu'},
    {'lowering': 'cpu', 'method': methods.create('st3', sparsity=0.9)},
    {'dtype': jnp.bfloat16},
  ],
  ids=str,
)
def test_method_lowering_and_dtype_change_nothing(settings):
  sizes = {'num_classes': 10, 'blocks': ((32, 1), (64, 2))}
  plain = models.create('mobilenet_v1', **sizes)
  other = models.create('mobilenet_v1', **sizes, **settings)
  expected = flops.count(plain, (32, 32, 3))
  counts = flops.count(other, (32, 32, 3))
  assert list(counts.items()) == list(expected.items())


@pytest.mark.parametrize(
  ('layer', 'input_shape', 'expected'),
  [
    (nn.Conv(8, (3, 3)), (6, 6, 4), 36 * 9 * 4 * 8),
    (nn.Conv(8, (3, 3), padding='VALID'), (6, 6, 4), 16 * 9 * 4 * 8),
    (nn.Conv(8, (3, 3), strides=2, padding=1), (6, 6, 4), 9 * 9 * 4 * 8),
    (nn.Conv(8, (3, 3), strides=(1, 2)), (6, 6, 4), 18 * 9 * 4 * 8),
    (nn.Conv(8, (3, 3), feature_group_count=2), (6, 6, 4), 36 * 9 * 2 * 8),
    (nn.Conv(4, (3, 3), feature_group_count=4), (6, 6, 4), 36 * 9 * 4),
    (
      nn.Conv(8, (3, 3), kernel_dilation=2, padding='VALID'),
      (6, 6, 4),
      4 * 9 * 4 * 8,
    ),
    (nn.Conv(8, (5,)), (6, 4), 6 * 5 * 4 * 8),
    (
      nn.Conv(8, (3, 3), padding=1, input_dilation=2, feature_group_count=2),
      (6, 6, 4),
      36 * 9 * 2 * 8,
    ),
    (nn.ConvTranspose(8, (4, 4), strides=(2, 2)), (6, 6, 4), 36 * 16 * 4 * 8),
    (
      nn.ConvTranspose(8, (2, 2), strides=(2, 2), padding='VALID'),
      (6, 6, 4),
      36 * 4 * 4 * 8,
    ),
    (nn.Dense(8), (4,), 4 * 8),
    (nn.Dense(8), (6, 4), 6 * 4 * 8),
    (nn.DenseGeneral((2, 8), axis=(-2, -1)), (5, 6, 4), 5 * 24 * 16),
  ],
)
def test_one_layer_by_hand(layer, input_shape, expected):
  assert flops.count(layer, input_shape) == {'': expected}


@pytest.mark.parametrize(
  ('cls', 'arguments'),
  [
    ('Conv', {'features': 8, 'kernel_size': (3, 3), 'strides': 2}),
    ('ConvTranspose', {'features': 8, 'kernel_size': (3,) * 2}),
    ('Dense', {'features': 8}),
    ('DenseGeneral', {'features': (2, 8), 'axis': (-2, -1)}),
  ],
)
def test_thresholded_layer_costs_what_the_dense_one_does(cls, arguments):
  sparse = getattr(str_jax.nn, cls)(**arguments, method=methods.create('str'))
  dense = getattr(nn, cls)(**arguments)
  assert flops.count(sparse, (6, 6, 4)) == flops.count(dense, (6, 6, 4))


def test_a_layer_used_twice_counts_twice():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(4, name='shared')
      return nn.Dense(3, name='last')(layer(layer(x)))

  assert flops.count(Twice(), (4,)) == {'shared': 2 * 16, 'last': 12}


def test_recurrent_layer_counts_every_step():
  """The state starts as zeros, which have nothing of the input in them."""
  counts = flops.count(nn.RNN(nn.SimpleCell(8)), (7, 4))
  assert counts == {'cell/i': 7 * 4 * 8, 'cell/h': 7 * 8 * 8}


def test_rematerialised_and_jitted_layers_are_followed():
  class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.remat(nn.Dense)(4, name='remat')(x)
      return nn.jit(nn.Dense)(3, name='jit')(nn.relu(x))

  assert flops.count(Nested(), (2,)) == {'remat': 8, 'jit': 12}


def test_norms_and_constant_filters_are_not_counted():
  class Filtered(nn.Module):
    @nn.compact
    def __call__(self, x, train):
      x = nn.BatchNorm(use_running_average=not train)(x @ jnp.ones((4, 4)))
      return nn.Dense(2, name='dense')(nn.LayerNorm()(x) * x)

  assert flops.count(Filtered(), (4,)) == {'dense': 8}


class Kernel(nn.Module):
  @nn.compact
  def __call__(self):
    return self.param('kernel', nn.initializers.ones, (4, 4))


class Broken(nn.Module):
  how: str

  @nn.compact
  def __call__(self, x):
    first, second = Kernel(name='first')(), Kernel(name='second')()
    if self.how == 'mixed':
      return x @ (first @ second)
    if self.how == 'branches':
      return jax.lax.cond(
        x[0, 0] > 0, lambda: x @ first @ second, lambda: x @ second
      )
    return x @ first + second.sum()


@pytest.mark.parametrize(
  ('how', 'message'),
  [
    ('mixed', 'first, second are mixed'),
    ('branches', 'branches of a condition'),
    ('unused', 'these layers do not: second'),
  ],
)
def test_what_cannot_be_counted_is_an_error(how, message):
  with pytest.raises(ValueError, match=message):
    flops.count(Broken(how), (4,))


def test_strides_with_input_dilation_are_an_error():
  layer = nn.Conv(8, (3, 3), strides=2, padding=1, input_dilation=2)
  with pytest.raises(ValueError, match='both strides and input dilation'):
    flops.count(layer, (6, 6, 4))
