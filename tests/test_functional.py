import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import str_jax
from str_jax import functional

pytestmark = pytest.mark.usefixtures('strict')

W = np.array([[-2.0, -0.7, 0.0], [0.3, 0.5, 1.5]], np.float32)


def test_soft_threshold_values_and_closed_form_gradients():
  t = jnp.full((1, 1), 0.5)
  upstream = jnp.arange(1.0, 7.0).reshape(2, 3)
  out, vjp = jax.vjp(str_jax.soft_threshold, jnp.asarray(W), t)
  np.testing.assert_allclose(out, [[-1.5, -0.2, 0], [0, 0, 1.0]], rtol=1e-6)
  dw, dt = vjp(upstream)
  mask = np.abs(W) > 0.5  # the weight at 0.5 is at the threshold: no gradient
  np.testing.assert_array_equal(dw, np.where(mask, upstream, 0))
  np.testing.assert_allclose(dt, [[-(np.sign(W) * mask * upstream).sum()]])


def test_soft_threshold_gradient_by_finite_differences():
  w = jnp.array([-2.0, -0.7, 0.3, 1.5])
  check_grads(str_jax.soft_threshold, (w, jnp.float32(0.5)), 1, eps=1e-3)


def test_hard_threshold():
  out, vjp = jax.vjp(lambda w: str_jax.hard_threshold(w, 0.5), jnp.asarray(W))
  np.testing.assert_array_equal(out, np.where(np.abs(W) > 0.5, W, 0))
  (dw,) = vjp(jnp.ones_like(out))
  np.testing.assert_array_equal(dw, np.abs(W) > 0.5)


def test_straight_through_is_exact_in_value_and_in_gradient():
  w = jnp.array([1.0 + 2**-23, 3e-8, -5.0])
  out, vjp = jax.vjp(
    lambda w: str_jax.straight_through(w, str_jax.soft_threshold(w, 1.0)), w
  )
  np.testing.assert_array_equal(out, str_jax.soft_threshold(w, 1.0))
  upstream = jnp.array([1.0, 2.0, 3.0])
  np.testing.assert_array_equal(vjp(upstream)[0], upstream)


def test_rescale_against_its_formula():
  w = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
  mask = np.abs(w) > 0.8
  m = np.abs(w.astype(np.float64))
  ratio = ((m * mask).mean((0, 1, 2)) + 1e-6) / (m.mean((0, 1, 2)) + 1e-6)
  scale = functional.rescale(jnp.asarray(w), jnp.asarray(mask))
  assert scale.shape == (1, 1, 1, 5)
  np.testing.assert_allclose(scale[0, 0, 0], 1.01 / (ratio + 0.01), rtol=1e-5)


def test_rescale_of_a_dead_and_of_a_full_channel():
  w = jnp.ones((4, 2))
  mask = jnp.array([[True, False]] * 4)
  np.testing.assert_allclose(
    functional.rescale(w, mask)[0], [1.0, 101.0], rtol=1e-3
  )


@pytest.mark.parametrize('op', ['soft_threshold', 'hard_threshold'])
def test_bfloat16_weights_keep_their_type_and_the_float32_comparison(op):
  w = jnp.array([0.5, -0.25, 1.0], jnp.bfloat16)
  # Rounded to bfloat16 this threshold would be 0.5 and zero the first weight.
  threshold = jnp.float32(0.49999)
  out = getattr(str_jax, op)(w, threshold)
  assert out.dtype == jnp.bfloat16
  assert (out != 0).tolist() == [True, False, True]
