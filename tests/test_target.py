"""A target over the whole net: what is asked for is there, to the weight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import OPTIMIZED

import str_jax
from str_jax import methods
from str_jax.methods import Target
from str_jax.paths import kernels

RNG = np.random.default_rng(0)
KERNELS = {
  'stem': jnp.asarray(RNG.normal(size=(3, 3, 3, 8)), 'f4'),
  'conv': jnp.asarray(RNG.normal(size=(3, 3, 8, 16)) * 0.3, 'f4'),
  'classifier': jnp.asarray(RNG.normal(size=(16, 10)) * 2, 'f4'),
}
SIZES = {name: w.size for name, w in KERNELS.items()}
TOTAL = sum(SIZES.values())
USES = {'stem': 900, 'conv': 70, 'classifier': 1}
MADDS = sum(USES[k] * n for k, n in SIZES.items())
NAMES = ('str', 'st3', 'st3_sigma', 'feather')


def create(name, target, **settings):
  if name == 'feather':
    settings |= {'gradient_scale': 1.0}
  return methods.create(name, target=target, **settings)


def variables_of(method, step=1, s=None, dense=()):
  """Thresholds found for some learned ones, and for layers left dense."""
  params = {name: {'kernel': w} for name, w in KERNELS.items()}
  variables = str_jax.add_thresholds(
    method, {'params': params}, where=lambda p, _: p[0] not in dense
  )
  for name, value in (s or {}).items():
    layer = variables['params'][name]
    shape = layer['kernel_threshold'].shape
    layer['kernel_threshold'] = jnp.broadcast_to(jnp.float32(value), shape)
  update = functools.partial(str_jax.update_thresholds, method)
  return jax.jit(update)(variables, step)


def kept(method, variables):
  """Non-zero weights, by layer."""
  params = jax.jit(functools.partial(str_jax.effective_params, method))(
    variables
  )
  return {k: int((w != 0).sum()) for k, w in kernels(params).items()}


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('target', [0.0, 0.07, 0.5, 0.873, 0.95, 0.962, 0.99])
def test_a_fraction_of_zeros_is_met_to_the_weight(name, target):
  method = create(name, target)
  nonzero = sum(kept(method, variables_of(method)).values())
  assert nonzero == math.floor(round((1 - target) * TOTAL, 6))


@pytest.mark.parametrize('granularity', ['layer', 'filter'])
def test_learned_thresholds_meet_it_wherever_they_stand(granularity):
  for seed in range(20):
    rng = np.random.default_rng(seed)
    channels = {'stem': 8, 'conv': 16, 'classifier': 10}
    s = {
      k: rng.normal(scale=5, size=n if granularity == 'filter' else ())
      for k, n in channels.items()
    }
    method = methods.create(
      'str', target=Target(nonzero=321), granularity=granularity
    )
    variables = variables_of(method, s=s)
    assert sum(kept(method, variables).values()) == 321
    # Thresholds stand to each other as they have been learned.
    at = {
      k: np.log(variables['thresholds'][k]['kernel_threshold'])
      - math.sqrt(0.1) * s[k]
      for k in KERNELS
    }
    np.testing.assert_allclose(
      np.concatenate([x.ravel() for x in at.values()]),
      at['stem'].ravel()[0],
      rtol=1e-4,
    )


def test_only_differences_of_the_learned_thresholds_matter():
  s = {'stem': 0.5, 'conv': -2.0, 'classifier': 3.0}
  method = methods.create('str', target=0.8)
  near = variables_of(method, s=s)
  far = variables_of(method, s={k: v + 100 for k, v in s.items()})
  for variables in (near, far):
    learned = [v['kernel_threshold'] for v in variables['params'].values()]
    assert abs(sum(float(s.mean()) for s in learned)) < 1e-4
  for k in KERNELS:
    np.testing.assert_allclose(
      near['thresholds'][k]['kernel_threshold'],
      far['thresholds'][k]['kernel_threshold'],
      rtol=1e-4,
    )
  assert kept(method, near) == kept(method, far)


@pytest.mark.parametrize('name', NAMES)
def test_layers_without_thresholds_count(name):
  method = create(name, 0.85)
  variables = variables_of(method, dense=('classifier',))
  nonzero = kept(method, variables)
  assert nonzero['classifier'] == SIZES['classifier']
  assert sum(nonzero.values()) == math.floor(round(0.15 * TOTAL, 6))
  report = str_jax.report.sparsity_report(method, variables)
  assert report.nonzero == sum(nonzero.values())


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dense', [(), ('stem',)])
def test_flops_are_met_to_a_weights_uses(name, dense):
  floor = sum(USES[k] * SIZES[k] for k in dense)
  wanted = floor + (MADDS - floor) // 7
  for target in (
    Target(madds=wanted, uses=USES),
    Target(flops=wanted / MADDS, uses=USES),
  ):
    method = create(name, target)
    nonzero = kept(method, variables_of(method, dense=dense))
    madds = sum(USES[k] * n for k, n in nonzero.items())
    assert wanted - max(USES.values()) < madds <= wanted


def test_a_floor_keeps_every_layer_alive():
  s = {'stem': -8.0, 'conv': 0.0, 'classifier': 12.0}
  sparse = Target(nonzero=100)
  without = methods.create('str', target=sparse, rate=1.0)
  assert kept(without, variables_of(without, s=s))['classifier'] == 0
  method = methods.create('str', target=Target(nonzero=100, floor=7), rate=1.0)
  nonzero = kept(method, variables_of(method, s=s))
  assert nonzero['classifier'] == 7
  assert sum(nonzero.values()) == 100


def test_ties_are_zeroed_together():
  """Fewer are kept then than asked for, never more."""
  w = jnp.asarray(np.repeat([0.5, 1.0, 2.0], [10, 20, 10]), 'f4').reshape(4, 10)
  method = methods.create('st3', target=Target(nonzero=15))
  variables = str_jax.add_thresholds(method, {'params': {'kernel': w}})
  variables = str_jax.update_thresholds(method, variables, 1)
  assert (
    int((str_jax.effective_params(method, variables)['kernel'] != 0).sum())
    == 10
  )


def test_the_way_to_a_target():
  method = methods.create(
    'str', target=0.8, start_step=10, end_step=20, power=2
  )
  s = {'stem': 1.0, 'conv': -1.0, 'classifier': 0.0}
  at = lambda step: sum(kept(method, variables_of(method, step, s)).values())
  assert at(10) == TOTAL
  for step in (11, 14, 19):
    wanted = 0.8 * TOTAL * (1 - (1 - (step - 10) / 10) ** 2)
    assert abs(TOTAL - at(step) - wanted) <= 1
  assert at(20) == at(1000) == math.floor(0.2 * TOTAL)
  assert method.settled_step == 20
  assert methods.create('str').settled_step is None


def test_before_the_way_begins_a_layer_is_dense_bit_for_bit():
  for settings in ({}, {'gradient_scale': 0.0, 'rescale': True}):
    method = methods.create('str', target=0.8, **settings)
    w, none = KERNELS['conv'], jnp.zeros((1,) * 4)
    np.testing.assert_array_equal(method(w, none, none), w)


@pytest.mark.parametrize('settings', [{}, {'gradient_scale': 0.0}])
@pytest.mark.parametrize('rescale', [False, True])
def test_gradients(settings, rescale):
  method = methods.create(
    'str', target=0.8, rate=0.25, rescale=rescale, **settings
  )
  w, s = KERNELS['conv'], jnp.full((1,) * 4, 0.7)
  t = jnp.full((1,) * 4, 0.2)
  upstream = jnp.asarray(RNG.normal(size=w.shape), 'f4')
  _, vjp = jax.vjp(lambda *x: method(*x), w, s, t)
  dw, ds, dt = vjp(upstream)
  keep = np.abs(w) > 0.2
  share = settings.get('gradient_scale', 0.1)
  scale = np.asarray(str_jax.functional.rescale(w, keep)) if rescale else 1.0
  np.testing.assert_array_equal(dw, upstream * np.where(keep, 1, share))
  expected = -0.5 * 0.2 * (scale * upstream * np.sign(w) * keep).sum()
  np.testing.assert_allclose(ds.ravel(), expected, rtol=1e-4)
  np.testing.assert_array_equal(dt, 0)
  soft = np.sign(w) * np.maximum(np.abs(w) - np.float32(0.2), 0)
  np.testing.assert_allclose(method(w, s, t), scale * soft, rtol=1e-6)


def test_sharded_weights_meet_the_same_target():
  method = methods.create('str', target=0.9)
  params = {name: {'kernel': w} for name, w in KERNELS.items()}
  variables = str_jax.add_thresholds(method, {'params': params})
  mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))

  def place(path, x):
    spec = [None] * x.ndim
    if x.size > 1 and x.shape[-1] % 8 == 0:
      spec[-1] = 'x'
    return jax.device_put(
      x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )

  sharded = jax.tree_util.tree_map_with_path(place, variables)
  update = jax.jit(
    functools.partial(str_jax.update_thresholds, method),
    compiler_options=OPTIMIZED,
  )
  compiled = update.lower(sharded, 1).compile()
  text = compiled.as_text()
  assert 'all-gather' not in text and 'sort' not in text
  for a, b in zip(
    jax.tree.leaves(compiled(sharded, 1)['thresholds']),
    jax.tree.leaves(update(variables, 1)['thresholds']),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({}, 'one of sparsity, nonzero, flops and madds, got none of them'),
    ({'sparsity': 0.9, 'flops': 0.1}, 'got sparsity and flops'),
    ({'sparsity': 1.0}, r'a fraction of zeros in \[0, 1\); .*, got 1.0'),
    ({'sparsity': 90}, r'90% is 0.9, got 90'),
    ({'sparsity': -0.1}, 'got -0.1'),
    ({'nonzero': 0}, 'a number of weights kept, 1 or more, got 0'),
    ({'flops': 0.0}, r'in \(0, 1\]; 5% is 0.05, got 0.0'),
    ({'flops': 1.1}, 'got 1.1'),
    ({'madds': 0}, '1 or more, got 0'),
    ({'sparsity': 0.9, 'floor': -1}, '0 weights or more, got -1'),
    ({'sparsity': '0.9'}, "sparsity to be a number or None, got '0.9' of type"),
    ({'nonzero': '50'}, "nonzero to be a whole number or None, got '50' of"),
    ({'flops': True}, 'flops to be a number or None, got True of type bool'),
    ({'madds': 1.5}, 'madds to be a whole number or None, got 1.5 of type'),
    ({'sparsity': 0.9, 'floor': None}, 'floor to be a whole number, got None'),
  ],
)
def test_wrong_targets_are_one_clear_sentence(settings, message):
  with pytest.raises(ValueError, match=message):
    Target(**settings)


@pytest.mark.parametrize(
  ('target', 'message'),
  [
    (Target(0.9), r'sparsity=0.9 .*keep .*dense .*from 0 to 0\.\d+'),
    (Target(nonzero=10), r'nonzero=10 .*ask for nonzero from 216 to'),
    (Target(nonzero=10**6), r'nonzero=1000000 .*ask for nonzero from 216 to'),
    (Target(flops=0.1, uses=USES), r'flops=0.1 .*from 0\.7\d+ to 1,'),
    (
      Target(flops=0.1),
      'the uses of every layer, but those of classifier, conv',
    ),
  ],
)
def test_what_is_out_of_reach_names_the_range(target, message):
  dense = ('stem', 'classifier') if target.sparsity else ('stem',)
  with pytest.raises(ValueError, match=message):
    variables_of(methods.create('str', target=target), dense=dense)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('str', {'granularity': 'weight'}, "layer, filter, got 'weight'"),
    ('str', {'slope': 2.0}, 'leave slope at 1, got 2.0'),
    ('str', {'rate': -1.0}, 'rate of 0 or more, got -1'),
    ('str', {'gradient_scale': 1.5}, r'in \[0, 1\], got 1.5'),
    ('str', {'power': 0.0}, 'power above 0, got 0'),
    ('st3', {'sparsity': 0.9}, 'target alone'),
    ('gmp', {}, "set budget to 'global'"),
    ('dense', {}, 'dense has no setting target'),
  ],
)
def test_what_excludes_a_target_is_named(name, settings, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, target=0.9, **settings)
