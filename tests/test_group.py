"""STR on whole filters: gradients, and targets to within a filter."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from configs import digits
from str_jax import functional, methods
from str_jax.methods import Target
from str_jax.paths import kernels
from str_jax.training import forecast
from str_jax.training import plan as plans

RNG = np.random.default_rng(0)
# A filter's weights, and its number, by layer.
KERNELS = {
  'stem': RNG.normal(size=(3, 3, 3, 8)) * np.linspace(0.1, 0.6, 8),
  'depthwise': RNG.normal(size=(3, 3, 1, 8)) * np.linspace(0.2, 1.0, 8),
  'conv': RNG.normal(size=(3, 3, 8, 16)) * np.linspace(0.02, 0.4, 16),
  'classifier': RNG.normal(size=(16, 10)) * np.linspace(0.1, 2, 16)[:, None],
}
KERNELS = {name: jnp.asarray(w, 'f4') for name, w in KERNELS.items()}
FILTER = {'stem': 27, 'depthwise': 9, 'conv': 72, 'classifier': 10}
TOTAL = sum(w.size for w in KERNELS.values())
USES = {'stem': 64, 'depthwise': 16, 'conv': 16, 'classifier': 1}
G = {'sigmoid': lambda s: 1 / (1 + np.exp(-s)), 'exp': np.exp}


def expected_norms(w):
  """Written out: of w[..., f], and of a matrix's rows, as if all were alike."""
  w = np.asarray(w, np.float64)
  if w.ndim == 2:
    rows = np.sqrt((w**2).sum(1, keepdims=True))
    return rows * np.sqrt(w.shape[0] / w.shape[1])
  axes = tuple(range(w.ndim - 1))
  return np.sqrt((w**2).sum(axes, keepdims=True))


def shrink(w, t):
  return w * np.maximum(1 - t / expected_norms(w), 0)


def differences(loss, x):
  gradient = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[i] = 1e-6
    gradient[i] = (loss(x + step) - loss(x - step)) / 2e-6
  return gradient


def variables_of(method, step=1, dense=(), s=None):
  params = {name: {'kernel': w} for name, w in KERNELS.items()}
  variables = str_jax.add_thresholds(
    method, {'params': params}, where=lambda p, _: p[0] not in dense
  )
  for name, value in (s or {}).items():
    leaf = variables['params'][name]['kernel_threshold']
    variables['params'][name]['kernel_threshold'] = jnp.full_like(leaf, value)
  update = functools.partial(str_jax.update_thresholds, method)
  return jax.jit(update)(variables, step)


def kept(method, variables):
  """Non-zero weights by layer; a filter is whole, or wholly zero."""
  params = jax.jit(functools.partial(str_jax.effective_params, method))(
    variables
  )
  found = {}
  for name, w in kernels(params).items():
    alive = np.asarray(w != 0)
    groups = (
      alive.reshape(len(alive), -1)
      if name == 'classifier'
      else (alive.reshape(-1, alive.shape[-1]).T)
    )
    assert (groups.all(1) | ~groups.any(1)).all(), name
    found[name] = int(alive.sum())
    assert found[name] % FILTER[name] == 0
  return found


@pytest.mark.parametrize('shape', [(3, 2, 4), (3, 4), (4,)], ids=str)
@pytest.mark.parametrize('granularity', ['layer', 'filter'])
@pytest.mark.parametrize('g', G)
def test_gradients_in_closed_form_and_by_differences(g, granularity, shape):
  w = np.random.default_rng(1).normal(size=shape)
  upstream = np.random.default_rng(2).normal(size=shape)
  norms = expected_norms(w)
  s = np.full(norms.shape if granularity == 'filter' else (1,) * w.ndim, -0.3)
  # Between the second and the third smallest: some die, none is near.
  k = np.sort(norms.ravel())[1:3].mean() / G[g](-0.3)
  t, alive = k * G[g](s), norms > k * G[g](s)
  assert 0 < alive.sum() < alive.size
  method = methods.STRGroup(g=g, slope=float(k), granularity=granularity)
  with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
    assert method.init_learned(jnp.asarray(w)).shape == s.shape
    out, vjp = jax.vjp(method, jnp.asarray(w), jnp.asarray(s))
    dw, ds = map(np.asarray, vjp(jnp.asarray(upstream)))
  np.testing.assert_allclose(out, shrink(w, t), rtol=1e-12)

  axes = tuple(i for i in range(w.ndim) if norms.shape[i] != shape[i])
  inner = (upstream * w).sum(axes, keepdims=True)
  square = (w**2).sum(axes, keepdims=True)
  expected = (1 - t / norms) * upstream + t * w * inner / norms / square
  np.testing.assert_allclose(dw, np.where(alive, expected, 0), rtol=1e-9)
  slope = {'exp': t, 'sigmoid': t * (1 - G[g](s))}[g]
  expected = -slope * inner / norms * alive
  if granularity == 'layer':
    expected = expected.sum(keepdims=True)
  np.testing.assert_allclose(ds, expected, rtol=1e-9, atol=1e-15)

  loss = lambda w, s: (upstream * shrink(w, k * G[g](s))).sum()
  for gradient, by_differences in (
    (dw, differences(lambda x: loss(x, s), w)),
    (ds, differences(lambda x: loss(w, x), s)),
  ):
    np.testing.assert_allclose(gradient, by_differences, rtol=1e-6, atol=1e-8)


def test_far_below_zero_it_is_the_dense_network():
  method = methods.create('str_group')
  for w in (KERNELS['conv'], KERNELS['conv'].at[..., 0].set(0.0)):
    s = method.init_learned(w)
    out, vjp = jax.vjp(method, w, s)
    np.testing.assert_array_equal(out, w)
    dw, ds = vjp(jnp.ones_like(w))
    assert not ds.any()
    # A filter of zeros gets nothing, as a weight of zero in STR; no NaN.
    alive = np.asarray(w).any((0, 1, 2), keepdims=True)
    np.testing.assert_array_equal(dw, np.broadcast_to(alive, w.shape))


@pytest.mark.parametrize('share', [0.0, 0.3])
def test_dead_filters_get_the_share_asked_for(share):
  method = methods.create('str_group', target=0.5, gradient_scale=share)
  variables = variables_of(method)
  w, s = KERNELS['conv'], jnp.zeros((1,) * 4)
  t = variables['thresholds']['conv']['kernel_threshold']
  out, vjp = jax.vjp(method, w, s, t)
  plain = functional.group_threshold(w, t, functional.norm(w, (0, 1, 2)))
  np.testing.assert_array_equal(out, plain)
  upstream = jnp.asarray(RNG.normal(size=w.shape), 'f4')
  dead = np.asarray(out == 0)
  assert 0 < dead.sum() < dead.size
  np.testing.assert_allclose(
    vjp(upstream)[0][dead], np.float32(share) * upstream[dead], rtol=1e-6
  )


@pytest.mark.parametrize('target', [0.0, 0.07, 0.3, 0.5, 0.8, 0.95])
def test_a_fraction_of_zeros_is_met_to_within_a_filter(target):
  method = methods.create('str_group', target=target)
  nonzero = sum(kept(method, variables_of(method)).values())
  limit = math.floor(round((1 - target) * TOTAL, 6))
  assert limit - max(FILTER.values()) < nonzero <= limit


def test_it_is_the_smallest_threshold_that_meets_the_target():
  """One filter more exceeds it: the next by norm over its layer's mean."""
  s = {'stem': 1.0, 'depthwise': -1.0, 'conv': 2.0, 'classifier': -2.0}
  method = methods.create('str_group', target=Target(nonzero=700), rate=0.25)
  by_layer = kept(method, variables_of(method, s=s))
  order = sorted(
    (norm / expected_norms(w).mean() / np.exp(0.5 * s[name]), FILTER[name])
    for name, w in KERNELS.items()
    for norm in expected_norms(w).ravel()
  )
  total, count = 0, 0
  while total + order[-1 - count][1] <= 700:
    total += order[-1 - count][1]
    count += 1
  assert sum(by_layer.values()) == total


@pytest.mark.parametrize('dense', [(), ('classifier',)])
def test_multiply_adds_are_met_to_within_a_filter(dense):
  madds = sum(USES[name] * w.size for name, w in KERNELS.items())
  largest = max(USES[name] * FILTER[name] for name in USES)
  for target in (
    Target(flops=0.4, uses=USES),
    Target(madds=madds // 5, uses=USES),
  ):
    method = methods.create('str_group', target=target)
    nonzero = kept(method, variables_of(method, dense=dense))
    assert all(nonzero[name] == KERNELS[name].size for name in dense)
    used = sum(USES[name] * n for name, n in nonzero.items())
    assert target.kept(madds) - largest < used <= target.kept(madds)


def test_a_floor_is_rounded_up_to_whole_filters():
  s = {'conv': 40.0}
  create = functools.partial(methods.create, 'str_group', rate=0.1)
  without = create(target=Target(nonzero=400))
  assert kept(without, variables_of(without, s=s))['conv'] == 0
  floored = create(target=Target(nonzero=400, floor=73))
  nonzero = kept(floored, variables_of(floored, s=s))
  assert nonzero['conv'] == 144 and nonzero['classifier'] >= 80
  assert sum(nonzero.values()) <= 400
  low = create(target=Target(nonzero=80, floor=9))
  with pytest.raises(ValueError, match='but 118 .* to 1,600 can be kept'):
    variables_of(low)


def test_a_filter_at_the_threshold_is_dead_however_its_norm_is_summed():
  """The target is counted in another order of summation than the forward's."""
  w = jnp.asarray(np.random.default_rng(5).normal(size=(3, 3, 512, 64)), 'f4')
  method = methods.create('str_group', target=0.5)
  variables = str_jax.add_thresholds(method, {'params': {'c': {'kernel': w}}})
  variables = str_jax.update_thresholds(method, variables, 1)
  t = float(variables['thresholds']['c']['kernel_threshold'].ravel()[0])
  at = np.sort(expected_norms(w).ravel())[31]
  assert at * (1 + 1e-6) < t < at * (1 + 3e-6)


def test_the_report_counts_whole_filters_and_gives_the_thresholds():
  method = methods.create('str_group', target=0.5)
  variables = variables_of(method)
  found = str_jax.report.sparsity_report(method, variables)
  assert {r.name: r.nonzero for r in found.rows} == kept(method, variables)
  for row in found.rows:
    t = variables['thresholds'][row.name]['kernel_threshold']
    assert row.threshold == pytest.approx(float(t.mean()))
    dead = (expected_norms(KERNELS[row.name]) <= float(t.mean())).sum()
    assert row.weights - row.nonzero == dead * FILTER[row.name]
  assert str_jax.report.tied_weights(method, variables) == 0


def test_behind_a_norm_the_factor_has_no_effect():
  """So that s of a convolution moves by its decay, and hardly by the loss."""
  rng = np.random.default_rng(3)
  x, u = rng.normal(size=(64, 5)), rng.normal(size=(64, 4))
  w = rng.normal(size=(1, 5, 4))

  def loss(w, s, method):
    y = jnp.asarray(x) @ method(w, s)[0]
    y = (y - y.mean(0, keepdims=True)) / jnp.sqrt(y.var(0, keepdims=True))
    return (y * u).sum()

  with jax.enable_x64(True):
    arguments = jnp.asarray(w), jnp.zeros((1, 1, 1))
    group = jax.grad(loss, 1)(*arguments, methods.create('str_group'))
    weight = jax.grad(loss, 1)(*arguments, methods.create('str'))
  assert abs(float(group[0, 0, 0])) < 1e-9 < 1e-2 < abs(float(weight[0, 0, 0]))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'granularity': 'weight'}, "one of layer, filter, global, got 'weight'"),
    ({'rescale': True}, 'str_group has no setting rescale'),
    ({'slope': -1.0}, 'slope above 0'),
    ({'target': 0.5, 'granularity': 'global'}, 'one of layer, filter'),
    ({'pattern': '2:4'}, 'has no setting pattern'),
  ],
)
def test_wrong_settings_are_one_clear_sentence(settings, message):
  with pytest.raises(ValueError, match=message):
    methods.create('str_group', **settings)


def test_rescale_is_refused_however_it_is_asked_for():
  with pytest.raises(ValueError, match='has no rescale'):
    methods.STRGroup(rescale=True, target=0.5)


@pytest.mark.parametrize(
  ('init_value', 'verdict', 'text'),
  [
    (-3200.0, 'none', 'no weight is touched: 0% sparse'),
    (-10.0, 'unknown', 'from their norms too, which only training shows'),
  ],
)
def test_the_forecast_says_what_it_cannot_know(init_value, verdict, text):
  config = digits.get_config('str')
  config.method.name = 'str_group'
  config.method.init_value = init_value
  plan = plans.create(config, 1_197)
  found = forecast.create(config, plan)
  assert found.verdict == verdict and text in forecast.outlook(found)
  sentence = forecast.warning(config, plan)
  assert (sentence is None) == (verdict == 'unknown')
  if sentence:
    assert 'weight is touched' in sentence and 'target=0.5' in sentence
  config.method.target = 0.5
  assert forecast.create(config, plans.create(config, 1_197)) is None
