"""The NNX layers, and small networks of them, against their Linen twins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import METHODS
from flax import linen, nnx

import str_jax.nnx
from str_jax import nn

IMAGES = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)
LABELS = np.arange(4) % 3
# Each layer of ours with the Linen layer that it equals.
LAYERS = {
  'Linear': ((2, 6), {}, ('Dense', dict(features=6))),
  'LinearGeneral': (
    ((6, 2), (2, 3)),
    dict(axis=(-2, -1)),
    ('DenseGeneral', dict(features=(2, 3), axis=(-2, -1))),
  ),
  'Conv': (
    (2, 6, (3, 3)),
    dict(strides=2, feature_group_count=2),
    (
      'Conv',
      dict(features=6, kernel_size=(3, 3), strides=2, feature_group_count=2),
    ),
  ),
  'ConvTranspose': (
    (2, 6, (2, 2)),
    dict(strides=(2, 2)),
    ('ConvTranspose', dict(features=6, kernel_size=(2, 2), strides=(2, 2))),
  ),
  'Einsum': (
    ('bhwc,cf->bhwf', (2, 6), (6,)),
    {},
    ('Dense', dict(features=6)),
  ),
}


def _leaves(method):
  """The shapes of a method's leaves: what the layers' code differs by."""
  w = jnp.ones((2, 2, 2, 2))
  leaves = method.init_learned(w), method.init_computed(w)
  return tuple(None if leaf is None else leaf.shape for leaf in leaves)


# One method for each kind of leaves, and budgets, which go by paths.
KINDS = {*{_leaves(m): name for name, m in METHODS.items()}.values(), 'dnw'}


class Net(nnx.Module):
  """A convolution, a norm and a classifier."""

  def __init__(self, method=None):
    rngs = nnx.Rngs(0)
    self.conv = str_jax.nnx.Conv(2, 5, (3, 3), rngs=rngs, method=method)
    self.norm = nnx.BatchNorm(5, rngs=rngs)
    self.head = str_jax.nnx.Linear(5, 3, rngs=rngs, method=method)

  def __call__(self, x):
    return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


class LinenNet(linen.Module):
  method: str_jax.methods.Method

  @linen.compact
  def __call__(self, x):
    x = nn.Conv(5, (3, 3), name='conv', method=self.method)(x)
    x = linen.BatchNorm(use_running_average=False, name='norm')(x)
    x = linen.relu(x).mean((1, 2))
    return nn.Dense(3, name='head', method=self.method)(x)


def layer_of(name, **kwargs):
  args, more, _ = LAYERS[name]
  return getattr(str_jax.nnx, name)(
    *args,
    **more,
    rngs=nnx.Rngs(0),
    bias_init=nnx.initializers.normal(),
    **kwargs,
  )


def by_layers(method):
  return Net(method)


def by_wrapper(method):
  return str_jax.nnx.Sparse(Net(), method)


def linen_params():
  """The weights of Net, for its Linen twin."""
  return nnx.to_pure_dict(nnx.state(Net(), nnx.Param))


def linen_variables(method):
  variables = {'params': linen_params()}
  stats = {'mean': jnp.zeros(5), 'var': jnp.ones(5)}
  added = str_jax.add_thresholds(method, variables)
  return {**added, 'batch_stats': {'norm': stats}}


@pytest.mark.parametrize('layer', LAYERS)
def test_without_a_method_it_is_the_flax_layer(layer, assert_trees_equal):
  args, more, _ = LAYERS[layer]
  theirs = getattr(nnx, layer)(
    *args, **more, rngs=nnx.Rngs(0), bias_init=nnx.initializers.normal()
  )
  ours = layer_of(layer)
  assert_trees_equal(
    nnx.to_pure_dict(nnx.state(ours)), nnx.to_pure_dict(nnx.state(theirs))
  )
  np.testing.assert_array_equal(ours(IMAGES), theirs(IMAGES))


@pytest.mark.parametrize('layer', LAYERS)
def test_a_layer_is_its_linen_twin(layer, assert_trees_equal):
  method = METHODS['str']
  ours = layer_of(layer, method=method)
  twin, fields = LAYERS[layer][2]
  twin = getattr(nn, twin)(**fields, method=method)
  params = {'kernel': ours.kernel[...], 'bias': ours.bias[...]}
  variables = str_jax.add_thresholds(method, {'params': params})
  np.testing.assert_allclose(
    ours(IMAGES), twin.apply(variables, IMAGES), rtol=1e-6, atol=1e-6
  )

  gradient = nnx.grad(lambda layer: (layer(IMAGES) ** 2).sum())(ours)
  expected = jax.grad(
    lambda params: (
      twin.apply({**variables, 'params': params}, IMAGES) ** 2
    ).sum()
  )(variables['params'])
  assert_trees_equal(nnx.to_pure_dict(gradient), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', sorted(KINDS))
def test_a_network_is_its_linen_twin(name, assert_trees_equal):
  method = METHODS[name]
  model = by_layers(method)
  variables = str_jax.update_thresholds(method, linen_variables(method), 4)
  str_jax.nnx.update_thresholds(model, 4)
  out, changed = LinenNet(method).apply(
    variables, IMAGES, mutable=['batch_stats']
  )
  np.testing.assert_allclose(model(IMAGES), out, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    model.norm.mean[...],
    changed['batch_stats']['norm']['mean'],
    rtol=1e-5,
    atol=1e-7,
  )
  raw = str_jax.nnx.to_variables(model)[1]['params']
  assert_trees_equal(raw, linen_params())

  ours = str_jax.nnx.sparsity_report(model)
  theirs = str_jax.report.sparsity_report(method, variables)
  assert ours.to_dicts() == theirs.to_dicts()


@pytest.mark.parametrize('name', ['str', 'st3'])
def test_training_is_that_of_linen(name):
  method = METHODS[name]
  rates = dict(kernels=0.01, biases=0.02)
  if method.init_learned(jnp.ones(1)) is not None:
    rates['thresholds'] = 0.05
  tx = optax.chain(str_jax.optim.decay(**rates), optax.sgd(0.3, 0.9))
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels

  @jax.jit
  def linen_step(variables, state, count):
    def loss(params):
      logits, changed = LinenNet(method).apply(
        {**variables, 'params': params}, IMAGES, mutable=['batch_stats']
      )
      return cross_entropy(logits, LABELS).mean(), changed

    params = variables['params']
    (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(gradient, state, params)
    new = {**variables, **changed}
    new['params'] = optax.apply_updates(params, updates)
    return str_jax.update_thresholds(method, new, count), state, value

  @nnx.jit
  def step(model, optimizer):
    def loss(model):
      return cross_entropy(model(IMAGES), LABELS).mean()

    value, gradient = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradient)
    str_jax.nnx.update_thresholds(model, optimizer.step[...])
    return value

  variables = linen_variables(method)
  state = tx.init(variables['params'])
  expected = []
  for count in range(1, 6):
    variables, state, value = linen_step(variables, state, count)
    expected.append(value)
  report = str_jax.report.sparsity_report(method, variables)
  assert 0 < report.sparsity < 1

  for build in (by_layers, by_wrapper):
    model = build(method)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses = [step(model, optimizer) for _ in expected]
    np.testing.assert_allclose(losses, expected, rtol=1e-6, atol=1e-6)
    assert str_jax.nnx.sparsity_report(model).nonzero == report.nonzero
