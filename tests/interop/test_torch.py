"""PyTorch's names and layouts: round trips, every name, errors."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import methods, models
from str_jax.interop import torch as interop
from str_jax.interop import torch_names

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden'
RESNET = {'width': 2}
SMALL = dict.fromkeys(torch_names.FAMILIES, RESNET)
SMALL['mobilenet_v1'] = {'width': 0.1}
STR = methods.STR(init_value=-4.0)
STAGES = {'resnet18': (2, 2, 2, 2), 'resnet50': (3, 4, 6, 3)}


def zeros(arch, method=None, **settings):
  """Variables of a model, all zeros, without its init."""
  model = models.create(arch, method=method, **settings)
  images = jnp.zeros((1, 32, 32, 3))
  leaves = jax.eval_shape(model.init, jax.random.key(0), images)
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, 'f'), leaves)


def filled(arch, method=None, **settings):
  """Variables of a shrunken model, drawn by NumPy."""
  settings = SMALL[arch] | {'num_classes': 5} | settings
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, 'f')),
    zeros(arch, method, **settings),
  )


@pytest.mark.parametrize('method', [None, STR], ids=['dense', 'str'])
@pytest.mark.parametrize('arch', SMALL)
def test_round_trip_is_exact(arch, method, assert_trees_equal):
  variables = filled(arch, method, classifier_bias=True)
  state_dict = interop.to_state_dict(method, variables, arch)
  found, again = interop.from_state_dict(state_dict, arch, **SMALL[arch])
  assert type(found) is type(method)
  assert_trees_equal(again, variables)
  once_more = interop.to_state_dict(found, again, arch)
  assert once_more.keys() == state_dict.keys()
  for name, value in state_dict.items():
    np.testing.assert_array_equal(once_more[name], value, strict=True)


@pytest.mark.parametrize('method', [None, STR], ids=['dense', 'str'])
@pytest.mark.parametrize('conv', [True, False])
def test_a_classifier_of_either_kind(method, conv, assert_trees_equal):
  """STR's own ResNets have a 1x1 convolution there, dense ones too."""
  variables = filled('resnet18', method)
  state_dict = interop.to_state_dict(
    method, variables, 'resnet18', conv_classifier=conv
  )
  window = (1, 1) if conv else ()
  assert state_dict['fc.weight'].shape == (5, 16, *window)
  _, again = interop.from_state_dict(state_dict, 'resnet18', **RESNET)
  assert_trees_equal(again, variables)


def norm_names(module):
  leaves = ('weight', 'bias', 'running_mean', 'running_var')
  return {f'{module}.{leaf}' for leaf in leaves}


def torchvision_names(stages, convs):
  """The names of torchvision's resnets, from its documented structure."""
  names = {'conv1.weight', 'fc.weight'} | norm_names('bn1')
  for stage, blocks in enumerate(stages):
    for block in range(blocks):
      module = f'layer{stage + 1}.{block}'
      for i in range(1, convs + 1):
        names |= {f'{module}.conv{i}.weight'} | norm_names(f'{module}.bn{i}')
      if block == 0 and (stage or convs == 3):
        names |= {f'{module}.downsample.0.weight'}
        names |= norm_names(f'{module}.downsample.1')
  return names


@pytest.mark.parametrize(('arch', 'convs'), [('resnet18', 2), ('resnet50', 3)])
def test_resnets_have_torchvisions_names(arch, convs):
  state_dict = interop.to_state_dict(None, filled(arch), arch)
  assert set(state_dict) == torchvision_names(STAGES[arch], convs)


def test_mobilenet_has_the_names_of_strs_code():
  state_dict = interop.to_state_dict(
    STR, filled('mobilenet_v1', STR), 'mobilenet_v1'
  )
  layers = ['model.0.0', 'fc']
  norms = ['model.0.1']
  for block in range(1, 14):
    layers += [f'model.{block}.0', f'model.{block}.3']
    norms += [f'model.{block}.1', f'model.{block}.4']
  leaves = ('weight', 'sparseThreshold')
  expected = {f'{layer}.{leaf}' for layer in layers for leaf in leaves}
  assert set(state_dict) == expected.union(*map(norm_names, norms))
  assert state_dict['model.1.0.weight'].shape == (3, 1, 3, 3)
  assert state_dict['fc.weight'].shape == (5, 102, 1, 1)


@pytest.mark.parametrize(
  ('file', 'key', 'arch', 'sizes'),
  [
    ('str_resnet18', 'params_shapes', 'resnet18', {}),
    ('st3_l1', 'param_shapes', 'resnet20', {'stage_sizes': (1, 1, 1)}),
  ],
)
def test_names_and_shapes_of_the_released_code(file, key, arch, sizes):
  golden = json.loads((GOLDEN / f'{file}.json').read_text())['result'][key]
  classes = golden['fc.weight'][0]
  method = STR if arch == 'resnet18' else None
  variables = zeros(arch, method, num_classes=classes, **sizes)
  state_dict = interop.to_state_dict(method, variables, arch)
  assert (
    golden.items()
    <= {name: [*value.shape] for name, value in state_dict.items()}.items()
  )
  rest = {name.rpartition('.')[2] for name in set(state_dict) - set(golden)}
  assert rest <= {'running_mean', 'running_var'}


def test_layouts():
  variables = filled('resnet18', STR)
  params, stats = variables['params'], variables['batch_stats']
  state_dict = interop.to_state_dict(STR, variables, 'resnet18')
  conv = state_dict['layer2.0.downsample.0.weight']
  kernel = params['stage2_block1']['shortcut']['kernel']
  assert conv.shape == (4, 2, 1, 1)
  assert conv[3, 1, 0, 0] == kernel[0, 0, 1, 3]
  stem = params['stem']
  assert state_dict['conv1.weight'][1, 2, 4, 6] == stem['kernel'][4, 6, 2, 1]
  assert state_dict['conv1.sparseThreshold'].shape == (1, 1)
  threshold = state_dict['conv1.sparseThreshold'].item()
  assert threshold == stem['kernel_threshold'].item()
  fc = state_dict['fc.weight']
  assert fc.shape == (5, 16, 1, 1)
  assert fc[4, 7, 0, 0] == params['classifier']['kernel'][7, 4]
  norm, mean = params['stem_norm'], stats['stem_norm']['mean']
  np.testing.assert_array_equal(state_dict['bn1.weight'], norm['scale'])
  np.testing.assert_array_equal(state_dict['bn1.bias'], norm['bias'])
  np.testing.assert_array_equal(state_dict['bn1.running_mean'], mean)


def test_what_wrappers_add_is_dropped(assert_trees_equal):
  for arch, prefix in [
    ('resnet18', 'module.'),
    ('resnet20', 'model.'),
    ('mobilenet_v1', 'module.'),
  ]:
    variables = filled(arch)
    state_dict = interop.to_state_dict(None, variables, arch)
    wrapped = {prefix + name: value for name, value in state_dict.items()}
    wrapped[f'{prefix}bn1.num_batches_tracked'] = np.int64(7)
    method, again = interop.from_state_dict(wrapped, arch, **SMALL[arch])
    assert method is None
    assert_trees_equal(again, variables)


def test_layers_without_threshold_stay_dense(assert_trees_equal):
  """STR's code can leave the first and the last layer dense."""
  variables = filled(
    'resnet18',
    STR,
    first_layer_dense=True,
    last_layer_dense=True,
    classifier_bias=True,
  )
  state_dict = interop.to_state_dict(STR, variables, 'resnet18')
  method, again = interop.from_state_dict(state_dict, 'resnet18', **RESNET)
  assert_trees_equal(again, variables)
  params = str_jax.effective_params(method, again)
  stem = variables['params']['stem']['kernel']
  np.testing.assert_array_equal(params['stem']['kernel'], stem)


def test_init_value_is_the_median_threshold():
  state_dict = interop.to_state_dict(STR, filled('resnet18', STR), 'resnet18')
  for name in state_dict:
    if name.endswith('sparseThreshold'):
      state_dict[name][:] = -4.5
  method, _ = interop.from_state_dict(state_dict, 'resnet18', **RESNET)
  assert method == methods.STR(init_value=-4.5)


def broken(changes):
  state_dict = interop.to_state_dict(STR, filled('resnet18', STR), 'resnet18')
  for name, value in changes.items():
    if value is GONE:
      del state_dict[name]
    else:
      state_dict[name] = value
  return state_dict


GONE = object()


class NotAnArray:
  """A tensor on an accelerator, of bfloat16, or that requires grad."""

  def __init__(self, error):
    self.error = error

  def __array__(self, *args, **kwargs):
    raise self.error('use tensor.detach()')


ADVICE = r'pass \{k: v.detach\(\).float\(\).cpu\(\) for k, v in '


@pytest.mark.parametrize(
  ('arch', 'changes', 'message'),
  [
    (
      'resnet50',
      {},
      r'lacks layer1.0.bn3.weight, layer1.0.conv3.weight, .* and \d+ more',
    ),
    ('resnet20', {}, 'lacks backbone.* also holds bn1.weight, conv1.weight'),
    ('mobilenet_v1', {}, 'lacks model.0'),
    ('convnet', {}, 'one of resnet18, .*mobilenet_v1; got .convnet.'),
    ('resnet18', {'bn1.bias': GONE}, 'lacks bn1.bias: pass the arch'),
    (
      'resnet18',
      {'layer1.0.conv1.sparseThreshold': GONE},
      'lacks layer1.0.conv1.sparseThreshold',
    ),
    ('resnet18', {'th': np.ones(1)}, 'also holds th: pass'),
    (
      'resnet18',
      {'conv1.weight': np.ones((4, 3, 7, 7))},
      r'conv1.weight of shape \(4, 3, 7, 7\), not \(2, 3, 7, 7\)',
    ),
    ('resnet18', {'bn1.bias': NotAnArray(TypeError)}, 'bn1.bias .*' + ADVICE),
    ('resnet18', {'fc.weight': NotAnArray(RuntimeError)}, ADVICE),
    ('resnet18', {'bn1.bias': [[1.0], [2.0, 3.0]]}, 'bn1.bias cannot be read'),
    ('resnet18', {'hooks': None}, 'hooks is None'),
    ('resnet18', {'arch': 'ResNet18'}, "arch is 'ResNet18'"),
    ('resnet18', {'state_dict': {}, 'epoch': 3}, 'pass its entry state_dict'),
    ('resnet18', {7: np.ones(2)}, 'names .* got 7'),
    (
      'resnet18',
      {'fc.weight': np.ones((0, 16))},
      r'fc.weight has the shape \(0, 16\), nothing',
    ),
    ('resnet18', {'conv1.weight': np.ones((2, 0, 7, 7))}, 'conv1.weight has'),
  ],
)
def test_another_state_dict_is_an_error(arch, changes, message):
  sizes = RESNET if arch.startswith('resnet') else {}
  with pytest.raises(ValueError, match=message) as error:
    interop.from_state_dict(broken(changes), arch, **sizes)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('given', [{}.items, 'model.pth', [('fc.bias', 1)]])
def test_no_state_dict_at_all(given):
  with pytest.raises(ValueError, match=r'pass what its state_dict\(\) gives'):
    interop.from_state_dict(given, 'resnet18')


@pytest.mark.parametrize(
  ('method', 'held', 'message'),
  [
    (methods.STR(g='exp'), STR, 'slope 1'),
    (methods.STR(granularity='filter'), STR, 'str_jax.freeze'),
    (methods.create('st3', sparsity=0.9), None, 'str_jax.freeze'),
    (None, STR, 'str_jax.freeze'),
    (STR, None, 'must hold the thresholds'),
  ],
  ids=str,
)
def test_what_a_state_dict_cannot_hold(method, held, message):
  with pytest.raises(ValueError, match=message):
    interop.to_state_dict(method, filled('resnet18', held), 'resnet18')


def test_variables_of_another_model_are_an_error():
  with pytest.raises(ValueError, match='resnet20, which has no .*depthwise'):
    interop.to_state_dict(None, filled('mobilenet_v1'), 'resnet20')
