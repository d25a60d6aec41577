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
from conftest import METHODS, OPTIMIZED
from jax.sharding import NamedSharding, PartitionSpec

import str_jax
from str_jax import models
from str_jax.paths import COLLECTION, is_kernel, kernels, path_names

TINY = {'width': 8, 'depth': 1, 'heads': 2, 'mlp_ratio': 2.0}
WIDE = {'stage_sizes': (1,), 'width': 4, 'widen': 2, 'dropout': 0.2}
# Every model shrunk to what it is made of, and the shape of its images.
MODELS = {
  'convnet': ({'widths': (4, 8)}, (8, 8, 1)),
  'resnet20': ({'stage_sizes': (1, 1), 'width': 4}, (8, 8, 3)),
  'resnet18': ({'stage_sizes': (1, 1), 'width': 4}, (16, 16, 3)),
  'resnet50': ({'stage_sizes': (1, 1), 'width': 4}, (16, 16, 3)),
  'mobilenet_v1': ({'width': 0.25, 'blocks': ((32, 1), (64, 2))}, (16, 16, 3)),
  'vgg16': ({'stage_sizes': (2,), 'widths': (4,)}, (8, 8, 3)),
  'wrn_34_2': (WIDE, (8, 8, 3)),
  'fastgrnn': ({'hidden': 6, 'gated': True}, (4, 5, 1)),
  'vit_tiny': (TINY, (8, 8, 3)),
}
# Names that differ from another by sizes alone: shrunk, they are that model.
RESIZED = {
  **dict.fromkeys(('resnet8', 'resnet32', 'resnet56'), 'resnet20'),
  'resnet34': 'resnet18',
  **dict.fromkeys(('vgg11', 'vgg13', 'vgg19'), 'vgg16'),
  **dict.fromkeys((f'vgg{n}_st3' for n in (11, 13, 16, 19)), 'vgg16'),
  'wrn_28_10': 'wrn_34_2',
  **dict.fromkeys(('vit_micro', 'vit_small'), 'vit_tiny'),
}
LOWERINGS = ('xla', 'cpu')
# Other settings of a method meet one model of each kind of layer.
SETTINGS = {
  *('str_exp_filter', 'str_weight', 'str_global', 'str_target_filter'),
  *('str_group_target', 'st3_hard', 'st3_target', 'st3_2_4', 'gmp_straight'),
}
KINDS = ('convnet', 'mobilenet_v1', 'fastgrnn')  # DenseGeneral: test_nn.py
EVERY = [
  (model, method)
  for model in MODELS
  for method in METHODS
  if method not in SETTINGS or model in KINDS
]
KEY = jax.random.key(0, impl='rbg')  # half the time to compile

optimized = functools.partial(jax.jit, compiler_options=OPTIMIZED)
every_pair = pytest.mark.parametrize(('name', 'method'), EVERY)


def create(name, **settings):
  return models.create(name, num_classes=5, **MODELS[name][0], **settings)


def where(name):
  """The weights that a method is for: fastgrnn's classifier stays dense."""
  dense = 'classifier' if name == 'fastgrnn' else None
  return lambda path, leaf: is_kernel(path, leaf) and path[0] != dense


@functools.cache
def images(name):
  shape = (8, *MODELS[name][1])
  return np.random.default_rng(0).standard_normal(shape, 'f')


@functools.cache
def dense_init(name):
  return create(name).init(KEY, images(name))


@functools.cache
def dense_variables(name):
  """Variables of the dense model; every statistic, scale and gate its own."""
  variables = dense_init(name)
  rng = np.random.default_rng(1)

  def vary(path, leaf):
    if leaf.ndim > 1:
      return leaf
    if is_kernel(path_names(path), leaf):
      return leaf * np.linspace(0.01, 1.5, leaf.size, dtype='f')
    return leaf + rng.uniform(0, 0.5, leaf.shape).astype('f')

  return jax.tree_util.tree_map_with_path(vary, variables)


@functools.cache
def dense_apply(name, lowering):
  """One compilation for all methods: their effective weights have one shape."""
  return optimized(create(name, lowering=lowering).apply)


@functools.cache
def sparse_variables(name, method):
  """Variables with thresholds that zero a part of every layer."""
  variables = str_jax.add_thresholds(
    METHODS[method], dense_variables(name), where=where(name)
  )
  update = functools.partial(str_jax.update_thresholds, METHODS[method])
  return jax.jit(update)(variables, 4)


@functools.cache
def sparse_logits(name, method, lowering):
  sparse = create(name, method=METHODS[method], lowering=lowering)
  return optimized(sparse.apply)(sparse_variables(name, method), images(name))


def test_every_method_meets_every_model():
  full = {type(METHODS[m]) for m in METHODS if m not in SETTINGS}
  assert full == {type(method) for method in METHODS.values()}
  assert SETTINGS <= METHODS.keys()


def test_every_model_is_here():
  assert {*MODELS, *RESIZED} == set(models.names())


@pytest.mark.parametrize(('name', 'shrunk'), RESIZED.items())
def test_resized_models_are_the_same_when_shrunk(name, shrunk):
  sizes, image = MODELS[shrunk]

  def trace(name):
    model = models.create(name, num_classes=5, **sizes)
    return str(
      jax.make_jaxpr(model.init_with_output)(KEY, np.zeros((1, *image)))
    )

  assert trace(name) == trace(shrunk)


@every_pair
def test_sparse_is_dense_with_effective_weights(name, method):
  variables = sparse_variables(name, method)
  effective_params = functools.partial(
    str_jax.effective_params, METHODS[method]
  )
  params = optimized(effective_params)(variables)
  zeros = sum(np.sum(w == 0) for w in kernels(params).values())
  assert zeros or method == 'frozen'
  dense = {k: v for k, v in variables.items() if k != COLLECTION}
  dense['params'] = params
  # Of another lowering's convolutions, the settings of a method know nothing.
  both = name != 'fastgrnn' and method not in SETTINGS
  for lowering in LOWERINGS if both else ('xla',):
    logits = sparse_logits(name, method, lowering)
    expected = dense_apply(name, lowering)(dense, images(name))
    np.testing.assert_array_equal(logits, expected, lowering)
    assert np.ptp(logits), lowering  # not a network of zeros


@every_pair
def test_init_is_dense_init_with_thresholds(name, method, assert_trees_equal):
  sparse = create(name, method=METHODS[method]).init(KEY, images(name))
  added = str_jax.add_thresholds(
    METHODS[method], dense_init(name), where=where(name)
  )
  assert_trees_equal(sparse, added)


@pytest.mark.parametrize('method', ['str', 'st3'])
@pytest.mark.parametrize('name', [n for n in MODELS if n != 'fastgrnn'])
def test_init_with_dense_ends(name, method, assert_trees_equal):
  ends = create(
    name,
    method=METHODS[method],
    first_layer_dense=True,
    last_layer_dense=True,
  )

  def between(path, leaf):
    return is_kernel(path, leaf) and path[0] not in ('stem', 'classifier')

  assert_trees_equal(
    ends.init(KEY, images(name)),
    str_jax.add_thresholds(METHODS[method], dense_init(name), where=between),
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
  )
  logits = apply(variables, images(name))
  assert len(logits.sharding.device_set) == 8
  assert logits.dtype == jnp.float32
  full = sparse_logits(name, method, 'xla')
  np.testing.assert_allclose(logits, full, atol=0.05 * np.abs(full).max())


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', ['convnet', 'resnet50', 'fastgrnn'])
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
