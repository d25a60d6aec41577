"""Compaction of sparse models, its report, and what it refuses."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

from str_jax import compaction, flops, methods, models, report
from str_jax.interop import torch as interop

SIZES = {'stage_sizes': (1, 1), 'width': 4}
IMAGES = np.random.default_rng(0).standard_normal((3, 16, 16, 3), 'f')


def apply(model, variables):
  """Logits, compiled as soon as can be."""
  fast = {'xla_backend_optimization_level': 0}
  return jax.jit(model.apply, compiler_options=fast)(variables, IMAGES)


def blank(model):
  """Variables of a model, all zero: only shapes and names count."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  return jax.tree.map(lambda x: np.zeros(x.shape, 'f'), shapes)


def trained(method=None, threshold=0.0, **settings):
  """A ResNet some of whose filters are small, and have constants to leave."""
  model = models.create(
    'resnet18', num_classes=3, method=method, **SIZES, **settings
  )
  rng = np.random.default_rng(1)

  def fill(path, leaf):
    leaf = rng.standard_normal(leaf.shape).astype('f')
    if path[-1].key in ('var', 'scale'):
      return np.abs(leaf) + 0.5
    if path[-1].key == 'kernel_threshold':
      return np.full_like(leaf, threshold)
    if path[-1].key == 'kernel':
      leaf /= np.sqrt(np.prod(leaf.shape[:-1]))
      if path[-2].key != 'classifier':
        leaf[..., [0, 2]] *= 1e-3
    return leaf

  return model, jax.tree_util.tree_map_with_path(fill, blank(model))


@pytest.mark.parametrize(
  ('method', 'threshold', 'settings'),
  [
    (methods.create('str', g='exp'), -4.0, {}),
    (
      methods.create('str', g='exp', granularity='filter'),
      -4.0,
      {'first_layer_dense': True, 'last_layer_dense': True},
    ),
    (methods.create('st3', sparsity=0.5), 0.02, {}),
    (methods.create('frozen'), None, {}),
  ],
)
def test_it_is_of_the_effective_weights(method, threshold, settings):
  model, variables = trained(method, threshold, **settings)
  if threshold is None:
    variables['params']['stage1_block1']['conv1']['kernel'][..., [0, 2]] = 0
  small, cut = compaction.compact(model, variables)
  np.testing.assert_allclose(
    apply(small, cut), apply(model, variables), rtol=1e-5, atol=1e-5
  )
  assert small.channels['stage1_block1/conv1'] < 4
  assert {*cut} == {'params', 'batch_stats'}
  assert small.conv.keywords['method'] is small.dense.keywords['method'] is None
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(cut))


@pytest.fixture(scope='module')
def small():
  model, variables = trained()
  kernel = variables['params']['stage2_block1']['conv1']['kernel']
  kernel[..., :5] = 0
  return compaction.compact(model, variables)


def test_it_is_built_again_from_numbers(small):
  model, variables = small
  channels = json.loads(json.dumps(dict(model.channels)))
  again = models.create(
    'resnet18',
    num_classes=3,
    channels=channels,
    classifier_bias=model.classifier_bias,
    **SIZES,
  )
  np.testing.assert_array_equal(
    apply(again, variables), apply(model, variables)
  )


def test_the_rest_of_the_library_takes_it(small):
  model, variables = small
  counts = flops.count(model, IMAGES.shape[1:])
  full = flops.count(
    models.create('resnet18', num_classes=3, **SIZES), (16, 16, 3)
  )
  assert sum(counts.values()) < sum(full.values())
  rows = report.sparsity_report(None, variables, flops=counts)
  assert rows.dense_flops == sum(counts.values())
  state_dict = interop.to_state_dict(None, variables, 'resnet18')
  weight = variables['params']['stage2_block1']['conv1']['kernel']
  assert state_dict['layer2.0.conv1.weight'].shape[0] == weight.shape[-1]


def test_the_norms_epsilon_is_the_models():
  model = models.create('convnet', num_classes=3, widths=(3, 4)).clone(
    norm=functools.partial(interop.BatchNorm, epsilon=0.5)
  )
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: rng.uniform(0.1, 1, x.shape).astype('f'), blank(model)
  )
  variables['params']['stem']['kernel'][..., :2] = 0
  small, cut = compaction.compact(model, variables)
  assert dict(small.channels) == {'stem': 2}
  np.testing.assert_allclose(
    apply(small, cut), apply(model, variables), rtol=1e-5
  )


def test_the_report():
  model, variables = trained()
  for name, channels in (('conv1', [0, 1, 2]), ('conv2', [0, 1])):
    variables['params']['stage1_block1'][name]['kernel'][..., channels] = 0
  variables['params']['stage1_block1']['norm1']['bias'][:] = -9
  found = compaction.dead_filters(model, variables, IMAGES.shape[1:])
  rows = {row.name: row for row in found.rows}
  assert {*rows} == {*flops.count(model, IMAGES.shape[1:])} - {'classifier'}
  row = rows['stage1_block1/conv1']
  assert (row.filters, row.dead, row.removed, row.left) == (4, 3, 3, 1)
  row = rows['stage1_block1/conv2']  # the stem writes the stream's channels
  assert (row.filters, row.dead, row.removed, row.left) == (4, 2, 0, 4)
  small, cut = compaction.compact(model, variables)
  size = lambda tree: sum(np.size(x) for x in jax.tree.leaves(tree))
  assert found.parameters == size(variables['params'])
  assert found.parameters_left == size(cut['params'])
  assert found.flops_left == sum(flops.count(small, (16, 16, 3)).values())
  text = found.to_markdown()
  assert '| stage1_block1/conv1 | 4 | 3 | 3 | 1 |' in text
  assert f'parameters {found.parameters_left:,} of {found.parameters:,}' in text
  assert f'multiply-adds {found.flops_left:,} of {found.flops:,}' in text
  assert json.loads(json.dumps(found.to_dict()))['rows'][0]['name'] == 'stem'
  assert (
    'multiply' not in compaction.dead_filters(model, variables).to_markdown()
  )


def test_models_that_it_does_not_know():
  class Mine(models.ConvNet):
    pass

  for model in (nn.Dense(3), Mine(num_classes=2)):
    name = type(model).__name__
    with pytest.raises(ValueError, match=f'knows .*ResNet.* got a {name}'):
      compaction.compact(model, {})
    with pytest.raises(ValueError, match=f'ResNet.*; got a {name}'):
      compaction.dead_filters(model, {})


@pytest.mark.parametrize(
  ('of', 'said'),
  [
    ({'num_classes': 4}, 'classifier/kernel is of shape .*3.* of shape .*4'),
    ({'method': methods.create('str')}, 'kernel_threshold is not there in'),
    (
      {'method': methods.create('st3', sparsity=0.5)},
      'kernel_threshold is not there in the model',
    ),
    ({'stage_sizes': (1,)}, 'not there in the variables'),
    ({}, None),
  ],
)
def test_variables_of_another_model(of, said):
  other = models.create('resnet18', **{'num_classes': 3, **SIZES, **of})
  variables = blank(other)
  model = models.create('resnet18', num_classes=3, **SIZES)
  if said is None:
    compaction.compact(model, variables)
    variables, said = {}, 'not there in the variables'
  with pytest.raises(ValueError, match=said):
    compaction.compact(model, variables)


def test_thresholds_that_are_not_of_the_method():
  model = models.create('convnet', num_classes=3, method=methods.create('str'))
  for other in (None, methods.create('st3', sparsity=0.5)):
    variables = blank(models.create('convnet', num_classes=3, method=other))
    with pytest.raises(ValueError, match='the method that they belong to'):
      compaction.compact(model, variables)


def test_norms_that_are_not_batchnorms():
  model = models.create('convnet', num_classes=3).clone(
    norm=lambda use_running_average, name=None: nn.LayerNorm(name=name)
  )
  variables = blank(model)
  with pytest.raises(ValueError, match='LayerNorm'):
    compaction.compact(model, variables)


def test_layers_of_two_methods():
  model = models.create('convnet', num_classes=3)
  model = model.clone(
    dense=functools.partial(model.dense, method=methods.create('str'))
  )
  with pytest.raises(ValueError, match='model of one method'):
    compaction.compact(model, blank(model))


@pytest.mark.parametrize('name', ['stm', 'block1/depthwise', 'classifier'])
def test_channels_of_no_convolution(name):
  model = models.create(
    'mobilenet_v1',
    num_classes=2,
    width=0.25,
    blocks=((16, 1),),
    channels={name: 3},
  )
  with pytest.raises(ValueError, match=f'names {name}, but .*pointwise, stem'):
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)


@pytest.mark.parametrize('width', [0, -1, 2.5, 'many'])
def test_channels_that_are_no_number(width):
  with pytest.raises(ValueError, match="from 1 on, but has 'stem': "):
    models.create('convnet', num_classes=2, channels={'stem': width})


def test_fastgrnn_has_no_channels():
  with pytest.raises(ValueError, match='leave channels at'):
    models.create('fastgrnn', num_classes=2, channels={'stem': 3})
