"""STR's s where only decay moves it: 500,500 steps of our optimizer's chain.

The row of 90.23% zeros. Without a gradient of the loss, s follows

  v <- m v + wd s,    s <- s - lr v

at m = 0.875, wd = 2.251757813e-5 and 5,005 steps an epoch, from -3200 on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import resnet50
from str_jax.training import plan as plans

EPOCHS, STEPS = 100, 5005
DECAY, MOMENTUM, START = 2.251757813e-5, 0.875, -3200.0
_EPOCH = np.arange(EPOCHS, dtype=np.float64)
RATES = 0.256 * np.where(
  _EPOCH < 5,
  (_EPOCH + 1) / 5,
  0.5 * (1 + np.cos(np.pi * (_EPOCH - 5) / 95)),
)


@pytest.fixture(scope='module')
def recursion():
  """s at the end of every epoch, one step after the other in float64."""
  s, v, at_epochs = START, 0.0, []
  for rate in RATES.tolist():
    for _ in range(STEPS):
      v = MOMENTUM * v + DECAY * s
      s -= rate * v
    at_epochs.append(s)
  return np.array(at_epochs)


def ours(dtype, learning_rate=None):
  """The same from the chain that the config's plan builds, in one scan."""
  config = resnet50.get_config('str-90.23')
  plan = plans.create(config, train_size=1_281_167)
  assert plan.total_steps == EPOCHS * STEPS
  if learning_rate is not None:
    plan = dataclasses.replace(plan, learning_rate=learning_rate)
  tx = plans.optimizer(config, plan, plan.phases[0])
  one = jnp.ones((1, 1, 1, 1), dtype)
  params = {
    'conv': {'kernel': one, 'kernel_threshold': config.method.init_value * one},
    'norm': {'scale': jnp.ones(1, dtype)},
  }
  no_gradient = jax.tree.map(jnp.zeros_like, params)

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(no_gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  def epoch(carry, _):
    carry, _ = jax.lax.scan(step, carry, length=STEPS)
    return carry, carry[0]['conv']['kernel_threshold'].ravel()[0]

  run = jax.jit(lambda carry: jax.lax.scan(epoch, carry, length=EPOCHS)[1])
  trajectory = np.asarray(run((params, tx.init(params))))
  assert trajectory.dtype == dtype
  return trajectory


def test_the_chain_is_the_recursion(recursion):
  """In float64, also its rates: equal but for the order of roundings."""
  with jax.enable_x64(True):
    rates = jnp.asarray(RATES)
    trajectory = ours(np.float64, lambda step: rates[step // STEPS])
  np.testing.assert_allclose(trajectory, recursion, rtol=1e-9)


def test_the_plans_rates_change_it_by_their_own_rounding(recursion):
  """Rates are float32: 2^-24 of an exponent that comes to 11.8."""
  with jax.enable_x64(True):
    trajectory = ours(np.float64)
  np.testing.assert_allclose(trajectory, recursion, rtol=1e-6)


def test_in_float32(recursion):
  """As trained. Down to -10, where the loss takes over, to 2e-5.

  In the last epochs a step is less than half of s's last bit and is lost.
  """
  trajectory = ours(np.float32)
  decaying = recursion < -10
  assert 20 < decaying.sum() < 50
  np.testing.assert_allclose(
    trajectory[decaying], recursion[decaying], rtol=2e-5
  )
  np.testing.assert_allclose(trajectory, recursion, rtol=1e-3)


def test_the_closed_form():
  """s = s_init * exp(-wd * sum(lr) / (1 - m)), but for the momentum's lag.

  The lag adds the factor exp(-sum (lr wd)^2 m / (1 - m)^3), to first order.
  """
  with jax.enable_x64(True):
    trajectory = ours(np.float64)
  exponent = -DECAY / (1 - MOMENTUM) * STEPS * np.cumsum(RATES)
  np.testing.assert_allclose(START * np.exp(exponent), trajectory, rtol=4e-3)
  squares = STEPS * np.cumsum((RATES * DECAY) ** 2)
  exponent -= squares * MOMENTUM / (1 - MOMENTUM) ** 3
  np.testing.assert_allclose(START * np.exp(exponent), trajectory, rtol=2e-4)
