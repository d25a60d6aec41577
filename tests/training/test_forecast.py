"""The course of s by decay alone, against Optax, the papers and real runs."""

import importlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from str_jax.methods.str import THRESHOLD_FUNCTIONS
from str_jax.training import flags, forecast, loop
from str_jax.training import plan as plans

# Training images, of the configs as they are.
SIZES = {
  'digits': 1_197,
  'cifar10': 45_000,
  'cifar100': 45_000,
  'imagenet2012': 1_281_167,
  'har2': 7_352,
  'google12': 85_511,
}
IMAGENETS = {'method.init_value': -3200.0, 'optimizer.weight_decay': 2.25e-5}
OPTIMIZERS = {
  'sgd': {},
  'plain': {'optimizer.momentum': 0.0},
  'nesterov': {'optimizer.nesterov': True},
  'clipped': {'optimizer.clip_norm': 0.5},
  'uncoupled': {'optimizer.coupled': False},
  'threshold_decay': {'optimizer.threshold_decay': 0.03},
  'adam': {'optimizer.name': 'adam'},
  'adamw': {'optimizer.name': 'adamw', 'optimizer.coupled': False},
}


def make(**fields):
  """A config of 200 steps, and its plan."""
  config = common.get_config()
  base = {
    'total_steps': 200,
    'method.name': 'str',
    'method.init_value': -20.0,
    'optimizer.weight_decay': 0.02,
    'schedule.warmup_steps': 20,
  }
  config.update_from_flattened_dict(
    base | {k.replace('__', '.'): v for k, v in fields.items()}
  )
  return config, plans.create(config, SIZES['digits'])


def forecast_of(spec, *overrides):
  config, _ = flags.load_config(spec, overrides)
  return forecast.create(config, plans.create(config, SIZES[config.dataset]))


def pasted(sentence):
  """The command line's arguments in a sentence, but for the target."""
  found = re.findall(r'--config\.\S+=[^\s;]+', sentence)
  return [text for text in found if 'target' not in text]


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_the_course_is_the_optimizers_own(name):
  config, plan = make(**OPTIMIZERS[name])
  tx = plans.optimizer(config, plan, plan.phases[0])
  params = {
    'kernel': jnp.ones((1, 1)),
    'kernel_threshold': jnp.full((1, 1), -20.0),
  }
  zero = jax.tree.map(jnp.zeros_like, params)

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(zero, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params['kernel_threshold'][0, 0]

  _, course = jax.lax.scan(step, (params, tx.init(params)), length=200)
  ours = forecast.create(config, plan).course
  assert ours[0] == -20 and ours[-1] > -19.5
  np.testing.assert_allclose(ours[1:], course, rtol=1e-4)


@pytest.mark.parametrize('momentum', [0.0, 0.875])
def test_the_papers_closed_form(momentum):
  config, plan = make(
    optimizer__momentum=momentum,
    optimizer__weight_decay=2e-4,
    total_steps=20_000,
  )
  found = forecast.create(config, plan)
  rate = 2e-4 / (1 - momentum)
  expected = -20 * math.exp(-rate * found.learning_rates.sum(dtype=np.float64))
  assert found.course[-1] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize('g', THRESHOLD_FUNCTIONS)
def test_levels_invert_the_thresholds(g):
  config, plan = make(method__g=g, method__slope=0.5)
  found = forecast.create(config, plan)
  for threshold in (forecast.LEAVES_ZERO, forecast.REACHES_WEIGHTS):
    s = found.level(threshold)
    given = 0.5 * THRESHOLD_FUNCTIONS[g](s)
    assert float(given) == pytest.approx(threshold, rel=1e-5)


def papers_runs():
  # Of the many rows of ResNet50 those with the most and the least decay, the
  # highest and the lowest start, and the default.
  for row in ('79.55', '90.23', '96.11', '99.10'):
    yield f'configs/resnet50.py:str-{row}'
  for file in ('fastgrnn', 'digits'):
    module = importlib.import_module(f'configs.{file}')
    for variant, fields in module.VARIANTS.items():
      if fields.get('method.name') == 'str':
        yield f'configs/{file}.py:{variant}'
  yield from ('configs/cifar10.py:str', 'configs/cifar100.py:str')


def test_the_configs_own_settings_are_fine():
  specs = list(papers_runs())
  assert 'configs/fastgrnn.py:google12' in specs
  verdicts = {spec: forecast_of(spec).verdict for spec in specs}
  assert set(verdicts.values()) == {'fine'}, verdicts


def test_imagenets_settings_on_ten_epochs_of_cifar():
  spec = 'configs/cifar10.py:str'
  imagenets = [
    '--config.optimizer.weight_decay=2.251757813e-5',
    '--config.method.init_value=-3200',
  ]
  config, _ = flags.load_config(spec, imagenets)
  sentence = forecast.warning(config, plans.create(config, 45_000))
  assert 's reaches -3076 at the end' in sentence and '0% sparse' in sentence
  proposals = pasted(sentence)
  assert [text.partition('=')[0] for text in proposals] == [
    '--config.optimizer.weight_decay',
    '--config.method.init_value',
  ]
  for text in proposals:
    found = forecast_of(spec, *imagenets, text)
    assert found.verdict == 'fine'
    reached = found.first(forecast.REACHES_WEIGHTS) / found.steps
    assert 0.25 < reached < 0.55
    assert (
      forecast.warning(found.config, plans.create(found.config, 45_000)) is None
    )


@pytest.mark.parametrize(
  'verdict, fields',
  [
    ('none', {'method.init_value': -3200.0}),
    ('late', {'method.init_value': -10.0, 'optimizer.weight_decay': 2e-3}),
    ('late', {'method.init_value': -14.9, 'optimizer.weight_decay': 1e-2}),
    ('early', {'method.init_value': -1.0}),
    ('early', {'optimizer.weight_decay': 3.0, 'optimizer.momentum': 0.0}),
    ('over', {'optimizer.weight_decay': 0.3}),
    ('fine', {'method.init_value': -5.0}),
    ('fine', {'optimizer.weight_decay': 0.3, 'optimizer.momentum': 0.0}),
  ],
)
def test_verdicts_and_what_is_proposed(verdict, fields):
  config, plan = make(**fields)
  found = forecast.create(config, plan)
  assert found.verdict == verdict
  sentence = forecast.warning(config, plan)
  assert (sentence is None) == (verdict == 'fine')
  for proposal in found.proposals():
    if proposal.value is not None:
      better, plan = make(**fields | {proposal.field: proposal.value})
      better = forecast.create(better, plan)
      assert better.verdict == 'fine'
      reached = better.first(forecast.REACHES_WEIGHTS) / better.steps
      assert 0.3 < reached < 0.5


@pytest.mark.parametrize(
  'decay, init_value, fields',
  [
    ('rate is 0', 'rate is 0', {'schedule.learning_rate': 0.0}),
    (None, 'without decay', {'optimizer.weight_decay': 0.0}),
    ('starts at -3', None, {'method.init_value': -3.0}),
    ('slope of 0.001', 'slope of 0.001', {'method.slope': 1e-3}),
    ('whatever the decay', None, {'optimizer.name': 'adam'}),
    (
      'too far off',
      'so small a decay',
      {
        'optimizer.name': 'adamw',
        'optimizer.coupled': False,
        'method.init_value': -1e38,
        'schedule.learning_rate': 1e-6,
      },
    ),
    (None, 'so large a decay', {'optimizer.weight_decay': 0.8}),
    (None, 'so small a decay', {'optimizer.weight_decay': 1e-7}),
  ],
)
def test_why_there_is_no_proposal(decay, init_value, fields):
  config, plan = make(**fields)
  found = forecast.create(config, plan).proposals()
  for proposal, reason in zip(found, (decay, init_value), strict=True):
    assert (proposal.value is None) == (reason is not None), proposal
    assert (reason or '') in proposal.reason
  said = forecast.advice(forecast.create(config, plan))
  good = [str(p) for p in found if p.value is not None]
  bad = [p for p in found if p.value is None]
  reach = 'would reach -5 at 40% of training'
  if good:
    assert said.startswith(f'{" or ".join(good)} {reach}; no value of ')
  elif 'slope' not in said:
    assert said.startswith(f'no value of {bad[0].field} {reach}: ')
  for proposal in bad[not good :]:
    assert f'no value of {proposal.field} would: {proposal.reason}' in said


def test_where_s_is_no_matter_of_decay():
  assert forecast.create(*make(method__target=0.9)) is None
  st3 = {'method.name': 'st3', 'method.sparsity': 0.9}
  config, plan = make(**st3, method__init_value=None)
  assert forecast.create(config, plan) is None
  assert forecast.warning(config, plan) is None
  bad = {'method.init_value': -3200.0}
  assert forecast.warning(*make(**bad)) is not None
  assert forecast.warning(*make(**bad, init_from='a/run')) is None


def test_the_optimizers_mistakes_are_told():
  with pytest.raises(ValueError, match='name must be one of sgd, adam, adamw'):
    forecast.create(*make(optimizer__name='rmsprop'))


def test_a_real_run_does_as_forecast(make_config, tmp_path, quick):
  del quick

  def run(name, **fields):
    config = make_config(
      'str',
      **{
        'total_steps': 150,
        'log_every_steps': 150,
        'eval_every_steps': 150,
        'checkpoint_every_steps': 150,
        'optimizer.threshold_decay': None,
        **IMAGENETS,
        **fields,
      },
    )
    plan = plans.create(config, SIZES['digits'])
    summary = loop.train(config, tmp_path / name)
    return forecast.create(config, plan), summary

  bad, summary = run('bad')
  assert bad.verdict == 'none' and summary['sparsity'] == 0
  assert [proposal.value for proposal in bad.proposals()] == [None, None]
  assert '=-10 with --config.optimizer.' in forecast.advice(bad)
  both = {p.field: p.value for p in bad.from_nearby()}
  good, better = run('good', **both)
  assert good.verdict == 'fine' and 0.05 < better['sparsity'] < 0.95
  assert better['top1'] > summary['top1'] - 0.15
