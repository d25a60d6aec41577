"""The contract of the library: every method with every model.

1. A sparse model computes what the dense model computes with the effective
   weights, bit for bit under jit on one CPU device.
2. A sparse model starts from the dense model's variables, with thresholds
   added.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import METHODS
from jax.sharding import NamedSharding, PartitionSpec

import str_jax
from str_jax import models
from str_jax.paths import is_kernel

# Every model shrunk to what it is made of, and the shape of its images.
# Compiling takes all the time, so the deeper ones differ as little as can be.
MODELS = {
  'convnet': ({'widths': (4, 8)}, (8, 8, 1)),
  'resnet20': ({'stage_sizes': (1, 1), 'width': 4}, (8, 8, 3)),
  'resnet32': ({'stage_sizes': (2,), 'width': 4}, (8, 8, 3)),
  'resnet56': ({'stage_sizes': (1,), 'width': 4}, (8, 8, 3)),
  'resnet18': ({'stage_sizes': (1, 1), 'width': 4}, (16, 16, 3)),
  'resnet34': ({'stage_sizes': (1,), 'width': 4}, (16, 16, 3)),
  'resnet50': ({'stage_sizes': (1, 1), 'width': 4}, (16, 16, 3)),
  'mobilenet_v1': ({'width': 0.25, 'blocks': ((32, 1), (64, 2))}, (16, 16, 3)),
}
LOWERINGS = ('xla', 'cpu')
EVERY = [(model, method) for model in MODELS for method in METHODS]
KEY = jax.random.key(0, impl='rbg')  # half the time to compile

every_pair = pytest.mark.parametrize(('name', 'method'), EVERY)


def create(name, **settings):
  return models.create(name, num_classes=5, **MODELS[name][0], **settings)


@functools.cache
def images(name):
  shape = (8, *MODELS[name][1])
  return np.random.default_rng(0).standard_normal(shape, 'f')


@functools.cache
def dense_variables(name):
  """Variables of the dense model; every statistic and scale is its own."""
  variables = create(name).init(KEY, images(name))
  rng = np.random.default_rng(1)

  def vary(leaf):
    noise = rng.uniform(0, 0.5, leaf.shape).astype('f')
    return leaf + noise if leaf.ndim == 1 else leaf

  return jax.tree.map(vary, variables)


@functools.cache
def dense_apply(name, lowering):
  """One compilation for all methods: their effective weights have one shape."""
  return jax.jit(create(name, lowering=lowering).apply)


@functools.cache
def sparse_variables(name, method):
  """Variables with thresholds that zero a part of every layer."""
  variables = str_jax.add_thresholds(METHODS[method], dense_variables(name))
  return str_jax.update_thresholds(METHODS[method], variables, 4)


def test_every_model_is_here():
  assert set(MODELS) == set(models.names())


@every_pair
def test_sparse_is_dense_with_effective_weights(name, method):
  variables = sparse_variables(name, method)
  params = jax.jit(
    functools.partial(str_jax.effective_params, METHODS[method])
  )(variables)
  zeros = sum(np.sum(p == 0) for p in jax.tree.leaves(params) if p.ndim > 1)
  assert zeros or method == 'frozen'
  dense = {'params': params, 'batch_stats': variables['batch_stats']}
  for lowering in LOWERINGS:
    sparse = create(name, method=METHODS[method], lowering=lowering)
    logits = jax.jit(sparse.apply)(variables, images(name))
    expected = dense_apply(name, lowering)(dense, images(name))
    np.testing.assert_array_equal(logits, expected, lowering)
    assert np.ptp(logits), lowering  # not a network of zeros


@every_pair
def test_init_is_dense_init_with_thresholds(name, method, assert_trees_equal):
  sparse = create(name, method=METHODS[method]).init(KEY, images(name))
  dense = create(name).init(KEY, images(name))
  assert_trees_equal(sparse, str_jax.add_thresholds(METHODS[method], dense))


@pytest.mark.parametrize('method', ['str', 'st3'])
@pytest.mark.parametrize('name', MODELS)
def test_init_with_dense_ends(name, method, assert_trees_equal):
  ends = create(
    name,
    method=METHODS[method],
    first_layer_dense=True,
    last_layer_dense=True,
  )

  def between(path, leaf):
    return is_kernel(path, leaf) and path[0] not in ('stem', 'classifier')

  dense = create(name).init(KEY, images(name))
  assert_trees_equal(
    ends.init(KEY, images(name)),
    str_jax.add_thresholds(METHODS[method], dense, where=between),
  )


@every_pair
def test_bfloat16_on_a_sharded_batch(name, method):
  variables = sparse_variables(name, method)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  batch = NamedSharding(mesh, PartitionSpec('data'))
  model = create(name, method=METHODS[method], dtype=jnp.bfloat16)
  apply = jax.jit(
    model.apply,
    in_shardings=(NamedSharding(mesh, PartitionSpec()), batch),
    out_shardings=batch,
    compiler_options={'xla_backend_optimization_level': 0},  # sooner compiled
  )
  logits = apply(variables, images(name))
  assert len(logits.sharding.device_set) == 8
  assert logits.dtype == jnp.float32
  full = create(name, method=METHODS[method]).apply(variables, images(name))
  np.testing.assert_allclose(logits, full, atol=0.05 * np.abs(full).max())


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', ['convnet', 'resnet50'])
def test_a_checkpoint_gives_the_same_variables(
  name, method, tmp_path, assert_trees_equal
):
  variables = jax.tree.map(jnp.asarray, sparse_variables(name, method))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'variables', variables)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(
      tmp_path / 'variables', jax.eval_shape(lambda: variables)
    )
  assert_trees_equal(restored, variables)
