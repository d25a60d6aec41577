"""Learning rates against the papers' formulas, epoch by epoch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax.training import schedule


def values(steps, name, rate, **settings):
  function = jax.jit(schedule.create(name, rate, **settings))
  return np.array([function(jnp.int32(step)) for step in steps])


def str_paper(epoch, warmup=5, epochs=100, rate=0.256):
  """Appendix of STR: linear warm-up, then cosine, once an epoch."""
  if epoch < warmup:
    return rate * (epoch + 1) / warmup
  progress = (epoch - warmup) / (epochs - warmup)
  return 0.5 * rate * (1 + math.cos(math.pi * progress))


def test_str_on_imagenet():
  settings = {
    'total_steps': 100 * 5005,
    'steps_per_epoch': 5005,
    'warmup_steps': 5 * 5005,
    'hold': 'epoch',
  }
  expected = [str_paper(epoch) for epoch in range(100)]
  for within in (0, 1, 2500, 5004):
    steps = [epoch * 5005 + within for epoch in range(100)]
    rates = values(steps, 'cosine', 0.256, **settings)
    np.testing.assert_allclose(rates, expected, rtol=2e-5, atol=1e-9)
    assert rates.max() == np.float32(0.256)
  assert rates.dtype == np.float32


def test_st3_on_cifar10():
  """Batch 128 of 45,000: 352 steps; a tenth of the rate from 80, and 120."""
  settings = {
    'total_steps': 160 * 352,
    'steps_per_epoch': 352,
    'boundaries_epochs': (80.0, 120.0),
    'factor': 0.1,
  }
  expected = [0.1] * 80 + [0.01] * 40 + [0.001] * 40
  for hold in ('epoch', 'step'):
    for within in (0, 351):
      steps = [epoch * 352 + within for epoch in range(160)]
      rates = values(steps, 'multistep', 0.1, hold=hold, **settings)
      np.testing.assert_allclose(rates, expected, rtol=1e-5)


@pytest.mark.parametrize('warmup', [0, 1, 7])
def test_cosine_by_step(warmup):
  rates = values(
    range(53),
    'cosine',
    0.4,
    total_steps=50,
    steps_per_epoch=9,
    warmup_steps=warmup,
  )
  expected = [0.4 * (t + 1) / warmup for t in range(warmup)]
  expected += [
    0.2 * (1 + math.cos(math.pi * (t - warmup) / (50 - warmup)))
    for t in range(warmup, 50)
  ]
  expected += [0.0] * 3  # no rise after the end
  np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)


def test_multistep_by_step_within_an_epoch():
  rates = values(
    range(20),
    'multistep',
    1.0,
    total_steps=20,
    steps_per_epoch=8,
    boundaries_epochs=(0.5, 2.0),
    factor=0.5,
    warmup_steps=2,
  )
  expected = [0.5, 1.0] + [1.0] * 2 + [0.5] * 12 + [0.25] * 4
  np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.parametrize('hold', ['step', 'epoch'])
def test_exponential_begins_after_the_warmup(hold):
  rates = values(
    range(40),
    'exponential',
    0.3,
    total_steps=40,
    steps_per_epoch=10,
    warmup_steps=20,
    factor=0.9,
    hold=hold,
  )
  t = np.arange(40) // 10 * 10 if hold == 'epoch' else np.arange(40)
  rising = (t // 10 + 1) / 2 if hold == 'epoch' else (t + 1) / 20
  expected = np.where(t < 20, 0.3 * rising, 0.3 * 0.9 ** ((t - 20) / 10))
  np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_constant():
  rates = values(
    range(6),
    'constant',
    0.3,
    total_steps=6,
    steps_per_epoch=2,
    warmup_steps=3,
  )
  np.testing.assert_allclose(rates, [0.1, 0.2] + [0.3] * 4, rtol=1e-6)


@pytest.mark.parametrize(
  'changed, wanted',
  [
    ({'name': 'linear'}, "schedule needs to be one of .*'linear'"),
    ({'hold': 'batch'}, "hold needs to be one of step, epoch, got 'batch'"),
    ({'warmup_steps': 11}, 'warmup_steps .* 10 of the run, got 11'),
    ({'warmup_steps': -1}, 'warmup_steps .* got -1'),
  ],
)
def test_wrong_values(changed, wanted):
  settings = {'name': 'cosine', 'learning_rate': 0.1, 'total_steps': 10}
  with pytest.raises(ValueError, match=wanted):
    schedule.create(**settings | changed, steps_per_epoch=5)
