"""The models: sizes, shapes, types, padding, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax import methods, models
from str_jax.paths import is_kernel, named_leaves, path_names

# Sizes at which a model trains in a moment, and its images.
SMALL = {
  'convnet': ({'widths': (4, 8)}, (8, 8, 1)),
  'resnet20': ({'stage_sizes': (1, 1), 'width': 4}, (8, 8, 3)),
  'resnet18': ({'stage_sizes': (1, 1), 'width': 4}, (32, 32, 3)),
  'resnet50': ({'stage_sizes': (1, 1), 'width': 4}, (32, 32, 3)),
  'mobilenet_v1': ({'width': 0.25, 'blocks': ((32, 1), (64, 2))}, (16, 16, 3)),
  'vgg16': ({'stage_sizes': (1, 2), 'widths': (4, 8)}, (8, 8, 3)),
  'wrn_34_2': ({'stage_sizes': (1, 2), 'width': 4}, (8, 8, 3)),
  'fastgrnn': ({'hidden': 6, 'gated': True}, (4, 5, 1)),
  'vit_tiny': ({'width': 8, 'depth': 2, 'heads': 2}, (8, 8, 3)),
}
FULL = {
  'convnet': (8, 8, 1),
  'resnet8': (32, 32, 3),
  'resnet20': (32, 32, 3),
  'resnet32': (32, 32, 3),
  'resnet56': (32, 32, 3),
  'resnet18': (224, 224, 3),
  'resnet34': (224, 224, 3),
  'resnet50': (224, 224, 3),
  'mobilenet_v1': (224, 224, 3),
  'vgg11': (32, 32, 3),
  'vgg13': (32, 32, 3),
  'vgg16': (32, 32, 3),
  'vgg19': (32, 32, 3),
  'vgg11_st3': (32, 32, 3),
  'vgg13_st3': (32, 32, 3),
  'vgg16_st3': (32, 32, 3),
  'vgg19_st3': (32, 32, 3),
  'wrn_28_10': (32, 32, 3),
  'wrn_34_2': (32, 32, 3),
  'fastgrnn': (99, 1, 32),
  'vit_micro': (32, 32, 3),
  'vit_tiny': (32, 32, 3),
  'vit_small': (32, 32, 3),
}


def shapes(model, image, train=False):
  """Shapes of the variables and of the logits of two images."""
  images = jax.ShapeDtypeStruct((2, *image), jnp.float32)

  def init_and_apply(images):
    variables = model.init(jax.random.key(0), images, train=train)
    return variables, model.apply(variables, images, train=train)

  return jax.eval_shape(init_and_apply, images)


def small(name, **settings):
  sizes, image = SMALL[name]
  model = models.create(name, num_classes=5, **sizes, **settings)
  images = jax.random.normal(jax.random.key(1), (4, *image))
  return model, images


def fill(model, images):
  """Variables without init, which takes seconds to compile: kernels drawn by
  NumPy, all else ones."""
  rng = np.random.default_rng(0)
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      rng.standard_normal(leaf.shape, 'f')
      if is_kernel(path_names(path), leaf)
      else np.ones(leaf.shape, 'f')
    ),
    jax.eval_shape(model.init, jax.random.key(0), images),
  )


def test_full_covers_every_name():
  assert set(FULL) == set(models.names())


@pytest.mark.parametrize(
  ('name', 'classes', 'weights'),
  [
    ('resnet50', 1000, 25_502_912),
    ('mobilenet_v1', 1000, 4_209_088),
    ('resnet8', 10, 77_360),
    ('resnet20', 10, 270_896),
    ('vgg16', 10, 14_715_584),
    ('wrn_34_2', 100, 1_862_576),
    ('convnet', 10, 56_224),
  ],
)
def test_weights_of_convolutions_and_classifier(name, classes, weights):
  model = models.create(name, num_classes=classes)
  leaves = named_leaves(shapes(model, FULL[name])[0]['params'])
  assert weights == sum(w.size for p, w in leaves.items() if is_kernel(p, w))


@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('resnet18', 11_689_512),
    ('resnet34', 21_797_672),
    ('resnet50', 25_557_032),
  ],
)
def test_parameters_equal_torchvisions(name, parameters):
  model = models.create(name, num_classes=1000, classifier_bias=True)
  params = shapes(model, FULL[name])[0]['params']
  assert parameters == sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize('name', FULL)
def test_full_size_in_bfloat16(name):
  model = models.create(name, num_classes=7, dtype=jnp.bfloat16)
  variables, logits = shapes(model, FULL[name])
  assert logits.shape == (2, 7)
  assert logits.dtype == jnp.float32
  types = {v.dtype for v in jax.tree.leaves(variables)}
  assert types == {jnp.dtype('float32')}


def test_dtype_is_the_type_of_the_computation():
  model, images = small('convnet', dtype=jnp.bfloat16)
  variables = fill(model, images)
  _, seen = jax.eval_shape(
    lambda v: model.apply(
      v, images, capture_intermediates=True, mutable='intermediates'
    ),
    variables,
  )
  outputs = named_leaves(seen['intermediates'])
  logits = outputs.pop(('__call__', '0'))
  assert logits.dtype == jnp.float32
  assert {out.dtype for out in outputs.values()} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize('name', SMALL)
def test_every_parameter_gets_a_gradient(name):
  method = methods.create('str', init_value=-5.0)
  model, images = small(name, method=method, classifier_bias=True)
  variables = fill(model, images)

  @jax.jit
  def step(variables):
    def loss(params):
      logits, state = model.apply(
        {**variables, 'params': params},
        images,
        train=True,
        mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(2)},
      )
      return -jax.nn.log_softmax(logits)[:, 0].mean(), state

    return jax.grad(loss, has_aux=True)(variables['params'])

  gradients, state = step(variables)
  for path, gradient in named_leaves(gradients).items():
    if path[-2:] != ('key', 'bias'):  # the softmax takes it out again
      assert np.any(gradient), path
    assert np.all(np.isfinite(gradient)), path
  before = named_leaves(variables.get('batch_stats', {}))
  for path, after in named_leaves(state.get('batch_stats', {})).items():
    assert np.any(after != before[path]), path


def test_evaluation_looks_at_each_image_by_itself():
  model, images = small('resnet20')
  variables = fill(model, images)
  together = jax.jit(model.apply)(variables, images)
  alone = jax.jit(model.apply)(variables, images[:1])
  np.testing.assert_allclose(alone, together[:1], rtol=1e-5, atol=1e-6)


def test_norm_momentum_is_the_share_that_stays():
  means = []
  for momentum in (0.9, 0.99):
    model, images = small('convnet', norm_momentum=momentum)
    variables = fill(model, images)
    variables['batch_stats']['stem_norm']['mean'] *= 0
    _, state = model.apply(
      variables, images, train=True, mutable=['batch_stats']
    )
    means.append(state['batch_stats']['stem_norm']['mean'])
  np.testing.assert_allclose(means[0], 10 * means[1], rtol=1e-5)


@pytest.mark.parametrize('name', [n for n in SMALL if n != 'fastgrnn'])
def test_first_and_last_layer_can_stay_dense(name):
  model, images = small(
    name,
    method=methods.create('str'),
    first_layer_dense=True,
    last_layer_dense=True,
  )
  params = shapes(model, images.shape[1:])[0]['params']
  leaves = named_leaves(params)
  kernels = {p[:-1] for p in leaves if p[-1] == 'kernel'}
  sparse = {p[:-1] for p in leaves if p[-1] == 'kernel_threshold'}
  assert kernels - sparse == {('stem',), ('classifier',)}


def test_cpu_lowering_gives_the_same_logits():
  model, images = small('mobilenet_v1')
  variables = fill(model, images)
  fast, _ = small('mobilenet_v1', lowering='cpu')
  np.testing.assert_allclose(
    jax.jit(fast.apply)(variables, images),
    jax.jit(model.apply)(variables, images),
    rtol=1e-4,
    atol=1e-5,
  )


def windows(x, size, value):
  """3x3 or 7x7 windows, stride 2, padded by size // 2: n, h, w, c, i, j."""
  p = size // 2
  x = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)), constant_values=value)
  view = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
  return view[:, ::2, ::2]


@pytest.mark.parametrize('size', [8, 9])
@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v1'])
def test_stem_is_padded_as_in_pytorch(name, size):
  """Nothing but the stem: at even sizes 'SAME' would pad one side more."""
  depth = {'resnet18': 'stage_sizes', 'mobilenet_v1': 'blocks'}[name]
  width = {'resnet18': 3, 'mobilenet_v1': 0.1}[name]  # three channels
  model = models.create(name, num_classes=3, width=width, **{depth: ()})
  images = np.random.default_rng(0).standard_normal((2, size, size, 3), 'f')
  variables = fill(model, images)
  variables['params']['classifier']['kernel'] = np.eye(3, dtype='f')

  kernel = variables['params']['stem']['kernel']
  x = np.einsum('nhwcij,ijco->nhwo', windows(images, len(kernel), 0), kernel)
  # The norm's mean, variance, scale and bias are all 1.
  x = np.maximum((x - 1) / np.sqrt(1 + 1e-5) + 1, 0)
  if name == 'resnet18':
    x = windows(x, 3, -np.inf).max((-1, -2))
  np.testing.assert_allclose(
    model.apply(variables, images), x.mean((1, 2)), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize(
  ('mode', 'fan'), [('fan_in', 3 * 3 * 64), ('fan_out', 3 * 3 * 128)]
)
def test_kaiming_normal(mode, fan):
  init = models.kaiming_normal(mode, density=0.25)
  w = init(jax.random.key(0), (3, 3, 64, 128))
  assert w.std() == pytest.approx((2 / (fan * 0.25)) ** 0.5, rel=0.01)
  assert abs(w).max() > 3.5 * w.std()  # not a truncated normal


def test_create_passes_the_initialisation_to_every_layer():
  kernels = []
  for density in (1.0, 0.25):
    model, images = small('convnet', density=density)
    params = model.init(jax.random.key(0), images)['params']
    leaves = named_leaves(params)
    kernels.append({p: w for p, w in leaves.items() if p[-1] == 'kernel'})
  for path, w in kernels[0].items():
    np.testing.assert_allclose(2 * w, kernels[1][path], rtol=1e-5)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'name': 'resnet19'}, 'convnet, resnet8, '),
    ({'name': 'resnet50', 'widths': (8,)}, 'block, stage_sizes, width'),
    ({'name': 'convnet', 'init': 'xavier'}, 'fan_out'),
    ({'name': 'convnet', 'density': 0.0}, r'\(0, 1\]'),
    ({'name': 'convnet', 'density': 90.0}, r'\(0, 1\]'),
    ({'name': 'resnet20', 'dropout': 0.1}, 'no size dropout'),
    ({'name': 'vit_tiny', 'init': 'fan_out'}, 'leave init at'),
    ({'name': 'vit_tiny', 'density': 0.5}, 'leave density at 1.0'),
    ({'name': 'vit_tiny', 'norm_momentum': 0.99}, 'leave norm_momentum at'),
    ({'name': 'vit_tiny', 'channels': {'stem': 8}}, 'leave channels at'),
  ],
)
def test_create_says_what_is_wrong(settings, message):
  with pytest.raises(ValueError, match=message):
    models.create(num_classes=10, **settings)
