import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import METHODS
from flax import linen

import str_jax
from str_jax import nn

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
LAYERS = {
  'Dense': dict(features=6),
  'DenseGeneral': dict(features=(2, 3), axis=(-2, -1)),
  'Conv': dict(
    features=6, kernel_size=(3, 3), strides=2, feature_group_count=2
  ),
  'ConvTranspose': dict(features=6, kernel_size=(2, 2), strides=(2, 2)),
}


def dense_twin(name, **kwargs):
  return getattr(linen, name)(**LAYERS[name], **kwargs)


def sparse(name, method, **kwargs):
  return getattr(nn, name)(**LAYERS[name], method=method, **kwargs)


@pytest.mark.parametrize('layer', LAYERS)
def test_without_a_method_it_is_the_flax_layer(layer, assert_trees_equal):
  mine, flax = sparse(layer, None), dense_twin(layer)
  variables = flax.init(jax.random.key(0), IMAGES)
  assert_trees_equal(mine.init(jax.random.key(0), IMAGES), variables)
  np.testing.assert_array_equal(
    mine.apply(variables, IMAGES), flax.apply(variables, IMAGES)
  )


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('layer', LAYERS)
def test_the_two_laws_for_a_layer(layer, name, assert_trees_equal):
  method = METHODS[name]
  kwargs = dict(bias_init=linen.initializers.normal())
  dense, ours = dense_twin(layer, **kwargs), sparse(layer, method, **kwargs)
  variables = dense.init(jax.random.key(1), IMAGES)
  added = str_jax.add_thresholds(method, variables)
  assert_trees_equal(ours.init(jax.random.key(1), IMAGES), added)

  added = str_jax.update_thresholds(method, added, 4)
  params = jax.jit(lambda v: str_jax.effective_params(method, v))(added)
  out = jax.jit(ours.apply)(added, IMAGES)
  np.testing.assert_array_equal(
    out, jax.jit(dense.apply)({'params': params}, IMAGES)
  )
  np.testing.assert_allclose(
    ours.apply(added, IMAGES), out, rtol=1e-5, atol=1e-6
  )


def test_automatic_names_are_those_of_flax():
  class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = nn.Conv(4, (3, 3), method=METHODS['str'])(x)
      return nn.Dense(2, method=METHODS['str'])(x.mean((1, 2)))

  params = Net().init(jax.random.key(0), IMAGES)['params']
  assert set(params) == {'Conv_0', 'Dense_0'}


def test_bfloat16_compute_keeps_float32_parameters():
  layer = sparse('Conv', METHODS['st3'], dtype=jnp.bfloat16)
  variables = layer.init(jax.random.key(0), IMAGES)
  assert layer.apply(variables, IMAGES).dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype('float32')}


@pytest.mark.parametrize('layer', LAYERS)
def test_every_leaf_of_str_gets_a_gradient(layer):
  ours = sparse(layer, METHODS['str'])
  variables = ours.init(jax.random.key(0), IMAGES)
  gradient = jax.grad(lambda v: (ours.apply(v, IMAGES) ** 2).sum())(variables)
  for leaf in jax.tree.leaves(gradient):
    assert jnp.any(leaf != 0)


def test_cpu_lowering_gives_the_same_numbers():
  for name in METHODS:
    method = METHODS[name]
    kwargs = dict(features=8, kernel_size=(3, 3), padding=1, method=method)
    plain, fast = nn.Conv(**kwargs), nn.Conv(**kwargs, lowering='cpu')
    variables = plain.init(jax.random.key(0), IMAGES)
    np.testing.assert_allclose(
      fast.apply(variables, IMAGES),
      plain.apply(variables, IMAGES),
      rtol=1e-5,
      atol=1e-6,
    )


def test_errors_say_what_is_wanted():
  dense = dense_twin('Conv').init(jax.random.key(0), IMAGES)
  for name, collection in (('str', 'params'), ('st3', 'thresholds')):
    with pytest.raises(ValueError, match=f"in '{collection}', but the var"):
      sparse('Conv', METHODS[name]).apply(dense, IMAGES)
  with pytest.raises(ValueError, match="one of xla, cpu, got 'gpu'"):
    nn.Conv(1, (1, 1), lowering='gpu')
