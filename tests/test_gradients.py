"""Gradients of thresholds: in float64, by central differences and at ties.

The differences are taken in NumPy, of formulas written out here, away from
abs(w) = threshold, where the operators have a kink or a jump.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import methods
from str_jax.methods.str import GRANULARITIES

SHAPE = (3, 3, 2, 4)
LEAF_SHAPES = {
  'layer': (1, 1, 1, 1),
  'global': (1, 1, 1, 1),
  'filter': (1, 1, 1, 4),
  'weight': SHAPE,
}
EPSILON = 1e-6
G = {'sigmoid': lambda s: 1 / (1 + np.exp(-s)), 'exp': np.exp}
DERIVATIVE = {'sigmoid': lambda s: np.exp(s) / (1 + np.exp(s)) ** 2}
DERIVATIVE['exp'] = np.exp


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True), jax.numpy_dtype_promotion('strict'):
    yield


def soft(w, t):
  return np.sign(w) * np.maximum(np.abs(w) - t, 0)


def hard(w, t):
  return np.where(np.abs(w) > t, w, 0)


def weights_away_from(threshold, rng):
  """Weights of both signs and on both sides of a threshold, none near it."""
  below = rng.uniform(0.1, 0.9, SHAPE)
  factor = np.where(rng.random(SHAPE) < 0.5, below, 1 / below)
  factor.flat[:2] = 0.5, 2.0  # whatever was drawn, one on each side
  return threshold * factor * rng.choice([-1.0, 1.0], SHAPE)


def central_differences(loss, x):
  """The gradient of a float64 scalar function of an array."""
  gradient = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[i] = EPSILON
    gradient[i] = (loss(x + step) - loss(x - step)) / (2 * EPSILON)
  return gradient


def gradients(function, upstream, *arguments):
  _, vjp = jax.vjp(function, *map(jnp.asarray, arguments))
  return [np.asarray(gradient) for gradient in vjp(jnp.asarray(upstream))]


@pytest.mark.parametrize('operator', ['soft_threshold', 'hard_threshold'])
@pytest.mark.parametrize('shape', sorted({*LEAF_SHAPES.values()}), ids=str)
def test_operators_against_central_differences(operator, shape):
  rng = np.random.default_rng(0)
  t = rng.uniform(0.2, 1.0, shape)
  w = weights_away_from(t, rng)
  upstream = rng.normal(size=SHAPE)
  reference = {'soft_threshold': soft, 'hard_threshold': hard}[operator]
  loss = lambda w, t: (upstream * reference(w, t)).sum()
  ours = getattr(str_jax, operator)
  np.testing.assert_array_equal(ours(jnp.asarray(w), t), reference(w, t))
  dw, dt = gradients(ours, upstream, w, t)
  assert dw.dtype == dt.dtype == np.float64
  expected = central_differences(lambda w: loss(w, t), w)
  np.testing.assert_allclose(dw, expected, rtol=1e-7, atol=1e-8)
  expected = central_differences(lambda t: loss(w, t), t)
  np.testing.assert_allclose(dt, expected, rtol=1e-7, atol=1e-8)
  assert dt.any() == (operator == 'soft_threshold')


@pytest.mark.parametrize('slope', [1.0, 0.3])
@pytest.mark.parametrize('granularity', GRANULARITIES)
@pytest.mark.parametrize('g', G)
def test_str_in_closed_form_and_against_central_differences(
  g, granularity, slope
):
  rng = np.random.default_rng(1)
  s = rng.uniform(-4.0, -1.0, LEAF_SHAPES[granularity])
  threshold = slope * G[g](s)
  w = weights_away_from(threshold, rng)
  upstream = rng.normal(size=SHAPE)
  method = methods.STR(g=g, granularity=granularity, slope=slope)
  assert method.init_learned(jnp.asarray(w)).shape == s.shape
  dw, ds = gradients(method, upstream, w, s)

  mask = np.abs(w) > threshold
  np.testing.assert_array_equal(dw, np.where(mask, upstream, 0))
  through = upstream * np.sign(w) * mask
  axes = tuple(axis for axis in range(4) if s.shape[axis] == 1)
  expected = -slope * DERIVATIVE[g](s) * through.sum(axes, keepdims=True)
  np.testing.assert_allclose(ds, expected, rtol=1e-12, atol=1e-15)

  loss = lambda w, s: (upstream * soft(w, slope * G[g](s))).sum()
  for gradient, differences in (
    (dw, central_differences(lambda w: loss(w, s), w)),
    (ds, central_differences(lambda s: loss(w, s), s)),
  ):
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('operator', ['soft_threshold', 'hard_threshold'])
def test_a_weight_at_its_threshold_is_zero_and_gets_no_gradient(operator):
  """The side of abs(w) < t, for t = 0 too; one bit above it is the other."""
  ours = getattr(str_jax, operator)
  for t in (0.5, 1 / 3, 0.0):
    # XLA's CPU takes numbers below the smallest normal one for zero.
    above = max(np.nextafter(t, 1), np.finfo(np.float64).tiny)
    w = np.array([t, -t, above, -above])
    out = np.asarray(ours(jnp.asarray(w), t))
    assert (out != 0).tolist() == [False, False, True, True]
    upstream = np.array([3.0, 5.0, 7.0, 11.0])
    dw, dt = gradients(ours, upstream, w, np.array([t]))
    assert dw.tolist() == [0, 0, 7, 11]
    assert dt.tolist() == [-7.0 + 11.0 if operator[0] == 's' else 0.0]


@pytest.mark.parametrize(('g', 'at_zero'), [('sigmoid', 0.5), ('exp', 1.0)])
def test_s_gets_no_gradient_from_a_weight_at_its_threshold(g, at_zero):
  method = methods.STR(g=g, slope=0.5)
  t = 0.5 * at_zero
  tied, s = np.array([[t, -t]]), np.zeros((1, 1))
  assert not np.asarray(method(jnp.asarray(tied), s)).any()
  for gradient in gradients(method, np.ones((1, 2)), tied, s):
    assert not gradient.any()
  above = np.array([[t, np.nextafter(t, 1)]])
  _, ds = gradients(method, np.ones((1, 2)), above, s)
  np.testing.assert_allclose(ds, [[-0.5 * DERIVATIVE[g](0.0)]], rtol=1e-15)


@pytest.mark.parametrize('g', G)
def test_far_below_zero_s_gets_no_gradient_from_the_loss(g):
  """STR starts at -3200, where only decay moves it; nothing is NaN there."""
  method = methods.STR(g=g)
  w = np.array([[2.0, -1.0, 0.0]])
  for start in (-12800.0, -3200.0, -800.0):
    s = np.full((1, 1), start)
    np.testing.assert_array_equal(method(jnp.asarray(w), s), w)
    dw, ds = gradients(method, np.ones((1, 3)), w, s)
    assert dw.tolist() == [[1, 1, 0]] and ds.tolist() == [[0.0]]
