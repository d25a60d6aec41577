"""Learning rates against the papers' formulas, epoch by epoch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar10, mobilenet_v1, resnet50
from str_jax.training import plan as plans
from str_jax.training import schedule


def values(steps, name, rate, **settings):
  function = jax.jit(schedule.create(name, rate, **settings))
  return np.array([function(jnp.int32(step)) for step in steps])


def released_cosine(rate, epochs=100, warmup=5):
  """cosine_lr in utils/schedulers.py of STR's code; CosineLR of ST-3's."""
  epoch = np.arange(epochs, dtype=np.float64)
  cosine = 0.5 * (1 + np.cos(np.pi * (epoch - warmup) / (epochs - warmup)))
  return rate * np.where(epoch < warmup, (epoch + 1) / warmup, cosine)


@pytest.mark.parametrize(
  ('config', 'variant', 'train_size', 'expected'),
  [
    (resnet50, 'str-90.23', 1_281_167, released_cosine(0.256)),
    (mobilenet_v1, 'str-89.01', 1_281_167, released_cosine(0.256)),
    (resnet50, 'st3-90', 1_281_167, released_cosine(0.2)),
    # multistep: a tenth of the rate from epoch 80 on, and again from 120.
    (
      cifar10,
      'st3-90-paper',
      45_000,
      np.repeat([0.1, 0.01, 1e-3], [80, 40, 40]),
    ),
  ],
)
def test_the_papers_rates_at_every_step(config, variant, train_size, expected):
  plan = plans.create(config.get_config(variant), train_size)
  epochs = plan.phases[0].stop // plan.steps_per_epoch
  steps = jnp.arange(epochs * plan.steps_per_epoch, dtype=jnp.int32)
  rates = np.asarray(jax.jit(jax.vmap(plan.learning_rate))(steps))
  rates = rates.reshape(epochs, plan.steps_per_epoch)
  assert (rates == rates[:, :1]).all()
  np.testing.assert_allclose(rates[:, 0], expected, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize('config', [resnet50, mobilenet_v1])
def test_every_row_of_str_has_the_same_schedule(config):
  schedules = {
    str((c.schedule, c.total_epochs, c.batch_size))
    for name, c in ((name, config.get_config(name)) for name in config.VARIANTS)
    if name.startswith(('str-', 'dense'))
  }
  assert len(schedules) == 1


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
