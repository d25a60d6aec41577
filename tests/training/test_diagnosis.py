"""Each diagnosis: something that causes it, and where it must stay silent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import methods, report
from str_jax.training import checkup, diagnosis, loop

RNG = np.random.default_rng(0)
KERNELS = {
  'stem': jnp.asarray(RNG.normal(size=(3, 3, 1, 8)), 'f4'),
  'conv': jnp.asarray(RNG.normal(size=(3, 3, 8, 16)), 'f4'),
  'classifier': jnp.asarray(RNG.normal(size=(16, 10)), 'f4'),
}
USES = {'stem': 64, 'conv': 16, 'classifier': 1}
FLOPS = {k: USES[k] * w.size for k, w in KERNELS.items()}
EVEN = {k: w.size for k, w in KERNELS.items()}


def examine(method, s=None, pulls=None, decay=0.0, kernels=None, flops=FLOPS):
  """Findings by (kind, layer) on weights with some learned thresholds."""
  params = {k: {'kernel': w} for k, w in (kernels or KERNELS).items()}
  variables = str_jax.add_thresholds(method, {'params': params})
  for name, value in (s or {}).items():
    layer = variables['params'][name]
    layer['kernel_threshold'] = jnp.full_like(layer['kernel_threshold'], value)
  variables = str_jax.update_thresholds(method, variables, 1)
  layers = report.sparsity_report(method, variables, flops=flops)
  found = diagnosis.examine(method, variables, layers, pulls or {}, decay)
  return {(f.kind, f.layer): f.text for f in found}


def test_nothing_amiss():
  for method in (
    methods.create('str', target=0.8),
    methods.create('st3', target=0.8),
    methods.create('str', init_value=-0.5),
  ):
    assert examine(method) == {}


def test_a_dead_layer_that_gets_no_gradient():
  method = methods.create('str', target=0.9, rate=1.0, gradient_scale=0.0)
  found = examine(method, s={'conv': 9.0}, flops=EVEN)
  assert set(found) == {('dead', 'conv')}
  text = found['dead', 'conv']
  assert 'no weight left' in text and 'no gradient, and stay so' in text
  assert 'target_floor' in text


def test_a_dead_layer_may_come_back_where_gradients_pass():
  method = methods.create('str', target=0.9, rate=1.0, gradient_scale=0.3)
  text = examine(method, s={'conv': 9.0})['dead', 'conv']
  assert 'may come back' in text


def test_a_floor_leaves_no_layer_dead():
  target = methods.Target(0.9, floor=4)
  method = methods.create('str', target=target, rate=1.0)
  assert examine(method, s={'conv': 9.0}, flops=EVEN) == {}


def test_thresholds_that_have_not_left_zero():
  method = methods.create('str', init_value=-1890.0)
  found = examine(method, decay=1e-4)
  assert set(found) == {('dense', k) for k in KERNELS}
  text = found['dense', 'conv']
  assert 'has not left zero' in text and 's = -1890' in text
  assert 'up by 0.19' in text  # 1e-4 * 1890, a unit of the learning rate
  assert 'doctor --config' in text


def test_a_loss_that_holds_a_threshold_down():
  large = KERNELS | {'conv': jnp.sign(KERNELS['conv']) * 3}
  method = methods.create('str', init_value=-0.5)
  pulls = {'conv': 0.25, 'stem': 0.5}
  found = examine(method, pulls=pulls, decay=0.1, kernels=large)
  assert set(found) == {('dense', 'conv')}
  text = found['dense', 'conv']
  assert 'the loss holds its threshold down' in text
  assert 'up by 0.05' in text and 'the loss by -0.25' in text
  risen = examine(method, pulls={'conv': -0.25}, decay=0.1, kernels=large)
  assert 'on its way' in risen['dense', 'conv']


@pytest.mark.parametrize('name', ['st3', 'gmp'])
def test_weights_too_large_for_the_nets_threshold(name):
  large = KERNELS | {'conv': KERNELS['conv'] * 1e5}
  method = methods.create(name, target=0.15, budget='global')
  found = examine(method, kernels=large)
  assert ('dense', 'conv') in found
  assert 'large beside the threshold' in found['dense', 'conv']


def test_a_low_share_that_was_learned():
  method = methods.create('str', target=0.15, rate=1.0)
  text = examine(method, s={'conv': -9.0})['dense', 'conv']
  assert 'has learned a low share (s = -6.00)' in text


def test_flops_in_one_layer():
  heavy = FLOPS | {'stem': 40 * FLOPS['stem']}
  method = methods.create('str', target=0.8)
  found = examine(method, flops=heavy)
  assert set(found) == {('flops', 'stem')}
  assert 'method.target_flops' in found['flops', 'stem']


@pytest.mark.parametrize('name', ['str', 'st3'])
def test_what_another_sparsity_takes(name):
  method = methods.create(name, target=0.8)
  params = {k: {'kernel': w} for k, w in KERNELS.items()}
  variables = str_jax.add_thresholds(method, {'params': params})
  variables = str_jax.update_thresholds(method, variables, 1)
  low, now, high = diagnosis.curve(method, variables, (0.5, 0.8, 0.95))
  assert now.factor == pytest.approx(1, rel=1e-5)
  assert low.factor < 0.9 and high.factor > 1.1
  every = np.sort(np.abs(np.concatenate([w.ravel() for w in KERNELS.values()])))
  removed = every[: int(np.ceil(0.95 * every.size))]
  assert high.largest == pytest.approx(removed[-1], rel=1e-5)
  assert high.mass == pytest.approx(removed.sum() / every.sum(), rel=1e-4)


@pytest.mark.usefixtures('quick')
def test_stale_statistics_of_norms(recorded):
  finished = recorded('str')
  run = loop.Run(finished.config, finished.directory)
  stage, state = run.restore(run.checkpoints.find('last'))

  def with_statistics(change):
    stats = jax.tree.map(change, state.variables['batch_stats'])
    variables = {**state.variables, 'batch_stats': stats}
    return dataclasses.replace(state, variables=variables)

  (found,) = checkup.stale_norms(run, stage, with_statistics(lambda x: 9 * x))
  assert found.kind == 'norms' and 'stale' in found.text
  assert '--config.norm_batches=50' in found.text
  fresh = checkup.norms.reestimate(run, stage, state.variables, 50)
  state = dataclasses.replace(state, variables=fresh)
  assert checkup.stale_norms(run, stage, state) == []


@pytest.mark.usefixtures('quick')
def test_a_checkup_of_a_run(recorded, capsys):
  found = checkup.run(recorded('str').directory)
  out = capsys.readouterr().out
  for row in recorded('str').summary['layers']:
    assert row['name'] in out
  assert 'what another sparsity would take' in out and 'dL/ds' in out
  for finding in found:
    assert finding.text[:40] in out


@pytest.mark.usefixtures('quick')
def test_pulls_are_the_gradients_of_the_thresholds(recorded):
  """Moving s by a little changes the loss by the pull."""
  finished = recorded('str')
  run = loop.Run(finished.config, finished.directory)
  stage, state = run.restore(run.checkpoints.find('last'))
  pulls = checkup.pulls(run, stage, state)
  assert set(pulls) == {row['name'] for row in finished.summary['layers']}
  loss = checkup.step.make_loss(
    stage.model, run.dataset, label_smoothing=0.0, seed=0
  )
  batches = run.batches()
  some = [run.placement.put(next(batches)) for _ in range(8)]

  of = jax.jit(lambda p, b: loss(p, state.variables, b, state.step)[0])

  def at(move):
    params = dict(state.variables['params'])
    s = params['conv1']['kernel_threshold']
    params['conv1'] = params['conv1'] | {'kernel_threshold': s + move}
    # One after another: on shared devices several at once may block.
    return np.mean([float(of(params, b)) for b in some])

  slope = (at(0.05) - at(-0.05)) / 0.1
  assert pulls['conv1'] == pytest.approx(slope, rel=0.2, abs=1e-4)


@pytest.mark.parametrize(
  ('fields', 'decay'),
  [
    ({'method.target': 0.5}, 0.02),
    ({'method.target': 0.5, 'optimizer.threshold_decay': 0.25}, 0.25),
    ({'optimizer.threshold_decay': None}, 5e-3),
  ],
)
@pytest.mark.usefixtures('quick')
def test_the_decay_shown_is_the_one_trained_with(
  fields, decay, make_config, tmp_path, monkeypatch
):
  base = {'optimizer.threshold_decay': None, 'total_steps': 4}
  loop.train(make_config('str', **base | fields), tmp_path / 'run')
  seen = []
  monkeypatch.setattr(
    checkup.diagnosis, 'examine', lambda *args: seen.append(args[-1]) or []
  )
  monkeypatch.setattr(checkup, 'stale_norms', lambda *args: [])
  checkup.run(tmp_path / 'run')
  assert seen == [decay]
