"""The configs: two steps of each with each of its methods."""

import itertools

import jax
import numpy as np
import pytest
from test_configs import MODULES, every_variant

from str_jax import data, models, report
from str_jax.paths import named_leaves
from str_jax.training import placement as placements
from str_jax.training import plan as plans
from str_jax.training import stage


def one_variant_a_method():
  """The first variant of each config with each method."""
  found = {}
  for name, variant in every_variant():
    config = MODULES[name].get_config(variant)
    found.setdefault((name, config.method.name), (name, variant))
  return list(found.values())


# What a model is shrunk to; else it is a small ConvNet.
SMALL = {
  'wrn_34_2': {'stage_sizes': (1,), 'width': 4},
  'fastgrnn': {},
  'vit_micro': {'width': 12, 'depth': 1, 'patch': 4},
}


@pytest.fixture
def small_model(monkeypatch):
  """A small model, whatever the config asks for."""
  create = models.create

  def create_small(name, **settings):
    if name in SMALL:
      return create(name, **(settings | SMALL[name]))
    return create('convnet', widths=(4, 4), **settings)

  monkeypatch.setattr(models, 'create', create_small)


def shrink(config):
  """Two steps in all, and all of a method's schedule within them."""
  values = {'total_epochs': None, 'total_steps': 2, 'batch_size': 4}
  values |= {'schedule.warmup_epochs': None, 'schedule.warmup_steps': 0}
  if config.method.end_epochs or config.method.end_steps:
    values |= {'method.start_epochs': None, 'method.start_steps': 0}
    values |= {'method.end_epochs': None, 'method.end_steps': 2}
  config.update_from_flattened_dict(values)
  return config


@pytest.mark.parametrize('name, variant', one_variant_a_method())
def test_two_steps_of_it_shrunk(name, variant, small_model):
  config = shrink(MODULES[name].get_config(variant))
  dataset = data.load('fake', image_size=8, fake_classes=4, fake_examples=4)
  plan = plans.create(config, dataset.size('train'))
  placement = placements.create(devices=jax.devices()[:1])
  ready = stage.create(config, plan, plan.phases[0], dataset, placement)
  first = ready.init(config.seed)
  before = jax.device_get(first.variables['params'])
  (batch,) = itertools.islice(data.train_batches(dataset, 4, seed=0), 1)
  batch = placement.put(batch)
  after = ready.train_step(ready.train_step(first, batch), batch)
  assert int(after.step) == 2
  assert int(after.first_nonfinite) == -1
  assert float(after.sums['loss']) > 0
  # Every kernel moves, and so does every learned threshold; shares of a target
  # stay equal at a rate of 0.
  moving = {'kernel', 'kernel_threshold'}
  if getattr(ready.method, 'rate', None) == 0:
    moving.remove('kernel_threshold')
  after_params = named_leaves(jax.device_get(after.variables['params']))
  for path, value in named_leaves(before).items():
    if path[-1] in moving:
      assert np.any(value != after_params[path]), path
  if config.method.name.startswith('st3'):
    layers = report.sparsity_report(ready.method, after.variables)
    assert layers.sparsity == pytest.approx(config.method.sparsity, abs=0.01)
