"""From a config's part `method` to a method, and its course in a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import budgets, data, methods
from str_jax.training import build, loop
from str_jax.training import plan as plans

pytestmark = pytest.mark.usefixtures('quick')
SIZES = {'stem': 36, 'conv1': 288, 'classifier': 80}  # of widths (4, 8)
USES = {'stem': 64, 'conv1': 16, 'classifier': 1}  # output positions
GIVEN = {'stem': 0.5, 'conv1': 0.9, 'classifier': 0.25}


@pytest.fixture
def with_method(make_config):
  """A small config with the fields of a method; saved at its end alone."""

  def make(name, **fields):
    ramped = name in ('gmp', 'st3', 'feather') or 'target' in str(fields)
    steps = {'end_steps': 8} if ramped else {}
    fields = {f'method.{k}': v for k, v in {**steps, **fields}.items()}
    rarely = {'eval_every_steps': 20, 'checkpoint_every_steps': 20}
    return make_config('dense', **rarely, **{'method.name': name, **fields})

  return make


def method_of(config):
  digits = data.load('digits')
  inputs = build.Inputs(digits.image_shape, digits.num_classes)
  return plans.create(config, digits.size('train'), inputs).phases[0].method


def zeros(summary):
  return {r['name']: r['weights'] - r['nonzero'] for r in summary['layers']}


def test_a_budget_is_a_name_or_a_file(with_method, tmp_path):
  named = method_of(with_method('gmp', sparsity=0.8, budget='erk'))
  assert named == methods.create('gmp', sparsity=0.8, end_step=8, budget='erk')
  budgets.write_csv(tmp_path / 'b.csv', GIVEN)
  read = method_of(with_method('st3', budget=str(tmp_path / 'b.csv')))
  assert read == methods.create('st3', end_step=8, budget=GIVEN)


def test_a_run_does_not_need_its_budgets_file_any_more(with_method, tmp_path):
  budgets.write_csv(tmp_path / 'b.csv', GIVEN | {'stem': 1 / 3})
  config = with_method('gmp', budget=str(tmp_path / 'b.csv'))
  before = method_of(config)
  summary = loop.train(config, tmp_path / 'run')
  (tmp_path / 'b.csv').unlink()
  assert method_of(config) == before and 1 / 3 in dict(before.budget).values()
  again = with_method('gmp', budget=str(tmp_path / 'b.csv'))
  assert loop.train(again, tmp_path / 'run')['layers'] == summary['layers']
  with pytest.raises(FileNotFoundError, match='b.csv is missing'):
    loop.train(
      with_method('gmp', budget=str(tmp_path / 'b.csv')), tmp_path / 'other'
    )


def test_a_ratio_held_per_epoch_changes_once_an_epoch(with_method):
  config = with_method('gmp', sparsity=0.8, hold='epoch', end_steps=19)
  assert method_of(config).every_steps == 19
  assert method_of(with_method('gmp', sparsity=0.8)).every_steps == 1


def test_the_uses_of_a_weight_are_what_the_model_multiplies(with_method):
  method = method_of(with_method('st3', target_flops=0.2))
  assert dict(method.target.uses) == USES
  plain = method_of(with_method('st3', target=0.8))
  assert plain.target == methods.Target(0.8)


@pytest.mark.parametrize(
  ('steps', 'way'), [(12, (0, 6)), (1200, (60, 600)), (1, (0, 1))]
)
def test_a_target_is_reached_halfway_if_nothing_is_said(
  steps, way, with_method
):
  config = with_method('str')
  config.total_steps, config.method.target = steps, 0.9
  method = method_of(config)
  assert (method.start_step, method.end_step) == way


@pytest.mark.parametrize('name', ['gmp', 'dnw', 'st3'])
def test_a_run_keeps_to_its_budget(name, with_method, tmp_path):
  budgets.write_csv(tmp_path / 'b.csv', GIVEN)
  config = with_method(name, budget=str(tmp_path / 'b.csv'))
  summary = loop.train(config, tmp_path / 'run')
  assert zeros(summary) == {
    k: int(np.ceil(GIVEN[k] * SIZES[k] - 1e-6)) for k in SIZES
  }
  assert summary['method'].startswith(type(method_of(config)).__name__)
  first = json.loads((tmp_path / 'run' / 'metrics.jsonl').open().readline())
  if name == 'dnw':  # sparse from the first step on
    assert first['layer_sparsity']['conv1'] == pytest.approx(260 / 288)
  else:
    assert first['layer_sparsity']['conv1'] < 0.9


MADDS = sum(USES[k] * n for k, n in SIZES.items())


@pytest.mark.parametrize('name', ['str', 'st3'])
@pytest.mark.parametrize(
  ('fields', 'weights', 'madds'),
  [
    ({'target': 0.873}, 51, None),
    ({'target_nonzero': 17, 'target_floor': 3}, 17, None),
    ({'target_flops': 0.2}, None, MADDS // 5),
    ({'target_madds': 500}, None, 500),
  ],
)
def test_a_run_lands_on_its_target(
  name, fields, weights, madds, with_method, tmp_path
):
  config = with_method(name, **fields)
  summary = loop.train(config, tmp_path / 'run')
  if weights:
    assert summary['nonzero'] == weights
  else:
    assert madds - max(USES.values()) < summary['flops'] <= madds
  if 'target_floor' in fields:
    assert min(row['nonzero'] for row in summary['layers']) >= 3


def test_sgd_has_other_defaults_on_the_way_to_a_target(with_method):
  config = with_method('str', target=0.5)
  method = lambda: build.scheduled(config, 19, 20, None)
  settings = lambda m: (m.rescales, m.theta)
  assert settings(method()) == (False, 0.3)
  again = build.method(config.method, **build.beside(config))
  assert settings(again) == (False, 0.3)
  config.method.rescale = True
  assert settings(method()) == (True, 0.3)
  config.method.target = None
  assert build.beside(config) == {}
  config = with_method('str', target=0.5)
  config.optimizer.name = 'adamw'
  assert settings(method()) == (True, 0.1)
  assert settings(methods.create('str', target=0.5)) == (True, 0.1)
  assert settings(methods.create('str')) == (False, 0.0)


def test_dense_layers_count_towards_a_target(with_method, tmp_path):
  config = with_method('str', target=0.75)
  config.model.last_layer_dense = True
  summary = loop.train(config, tmp_path / 'run')
  assert summary['nonzero'] == 101 and zeros(summary)['classifier'] == 0


def test_a_global_threshold_is_one_number_in_every_layer(make_config, tmp_path):
  config = make_config(
    'str', **{'method.granularity': 'global', 'optimizer.clip_norm': 3.0}
  )
  run = loop.Run(config, tmp_path / 'run')
  stage, state = run.start()
  batches = data.train_batches(run.dataset, config.batch_size, seed=0)
  for _ in range(3):
    state = stage.train_step(state, run.placement.put(next(batches)))
  run.checkpoints.close()
  params = state.variables['params']
  values = {float(params[k]['kernel_threshold'].ravel()[0]) for k in SIZES}
  assert len(values) == 1 and values != {-3.0}


def test_another_methods_weights_are_pruned_before_the_first_step(
  recorded, with_method, tmp_path
):
  config = with_method('dnw', sparsity=0.75)
  config.init_from = str(recorded('dense').directory)
  run = loop.Run(config, tmp_path / 'run')
  _, state = run.start()
  run.checkpoints.close()
  t = state.variables['thresholds']['conv1']['kernel_threshold']
  w = state.variables['params']['conv1']['kernel']
  assert int(jnp.sum(jnp.abs(w) <= t)) == 216


@pytest.mark.parametrize(
  ('name', 'fields', 'wanted'),
  [
    ('gmp', {}, 'GMP needs sparsity'),
    ('gmp', {'budget': 'stem=0.5,conv1'}, 'a name, a file NAME.csv or LAYER='),
    ('gmp', {'budget': 'stem=0.5,stem=0.6'}, 'every layer once'),
    ('gmp', {'budget': 'none.csv'}, 'the budget none.csv is missing'),
    (
      'gmp',
      {'sparsity': 0.5, 'budget': 'er'},
      "global, uniform, erk.*got 'er'",
    ),
    ('gmp', {'budget': 'str-resnet50-90.23'}, 'lacks conv1.*besides names'),
    ('gmp', {'sparsity': 0.5, 'hold': 'day'}, "method.hold .*got 'day'"),
    (
      'dense',
      {'target': 0.5},
      'dense has no method.end_steps, method.target: .* str, st3,',
    ),
    ('str', {'target': 0.5, 'target_flops': 0.5}, 'one target, but .* are set'),
    ('str', {'target': 1.0}, r'in \[0, 1\); 90% is 0.9, got 1.0'),
    ('str', {'target_floor': 5}, 'set a target too'),
    ('str', {'target': 0.5, 'end_steps': 40}, 'within the run of'),
    (
      'st3',
      {'target': 0.5, 'sparsity': 0.5},
      'target alone.*set --config.method.sparsity=None.$',
    ),
    (
      'gmp',
      {'target': 0.5, 'sparsity': 0.5},
      'sparsity=None and --config.method.budget=global',
    ),
    ('gmp', {'target': 0.5}, 'set --config.method.budget=global'),
    ('str', {'sparsity': 0.8}, 'ask for it by --config.method.target=0.8'),
    ('str', {'sparsity': 0.8, 'target': 0.8}, 'has no method.sparsity; the'),
    ('dense', {'g': 'exp', 'pattern': '2:4'}, 'nor any other field: leave'),
    ('str', {'hold': 'epoch'}, 'str has method.hold on the way to a target'),
    ('str', {'target_madds': 100_000}, 'ask for madds from 1 to 6,992'),
    ('str', {'target_nonzero': 5, 'target_floor': 4}, 'from 12 to 404'),
    ('str', {'hold': 'epoch', 'power': 2.0}, 'on the way to a target only'),
    ('frozen', {'hold': 'epoch'}, 'frozen has no method.hold'),
    (
      'str',
      {'budget': 'erk'},
      'str has no method.budget; the fields of str are .*hold',
    ),
    (
      'gmp',
      {'sparsity': 0.5, 'hold': 'epoch', 'end_steps': 19, 'start_steps': 1},
      'within the run of 18 steps',
    ),
  ],
)
def test_what_a_method_cannot_do_is_named(
  name, fields, wanted, with_method, tmp_path
):
  config = with_method(name, **fields)
  if fields.get('hold') == 'epoch':
    config.total_steps = 18
  with pytest.raises((ValueError, FileNotFoundError), match=wanted) as error:
    loop.Run(config, tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_a_pattern_runs_along_the_inputs_of_a_vit(make_config):
  config = make_config('dense', method__pattern='2:4', method__sparsity=0.0)
  with config.unlocked():
    del config.model.widths
  config.update_from_flattened_dict(
    {'method.name': 'dnw', 'model.name': 'vit_micro', 'model.depth': 1}
    | {'model.width': 8, 'model.heads': 2}
  )
  method = build.scheduled(config, 19, 20, None)
  assert method == build.method(config.method, **build.beside(config))
  model = build.model(config, 10, method)
  images = jnp.zeros((1, 8, 8, 4))
  variables = model.init(jax.random.key(0), images)
  params = str_jax.effective_params(
    method, str_jax.update_thresholds(method, variables, 0)
  )
  for name, layer in params['block1']['attention'].items():
    groups = np.asarray(layer['kernel']).reshape(2, 4, 8)
    assert ((groups != 0).sum(1) == 2).all(), name
