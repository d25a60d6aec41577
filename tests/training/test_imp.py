"""Iterative magnitude pruning: what each round starts from and leaves."""

import argparse
import itertools
import json
import os
import pathlib
import signal

import numpy as np
import pytest
from flax import traverse_util

import main
from str_jax.commands import report
from str_jax.training import build, checkpoint, flags, imp, loop, records
from str_jax.training import stage as stages

pytestmark = pytest.mark.usefixtures('quick')
ROOT = pathlib.Path(main.__file__).parent
ROUNDS = {
  'imp.rounds': 2,
  'imp.sparsity': 0.75,
  'log_every_steps': 1,
  'eval_every_steps': 20,
  'checkpoint_every_steps': 9,
}
REWINDS = {'rate': None, 'weights': 7}
_trained = {}


@pytest.fixture
def trained(make_config, tmp_path_factory):
  """From what is rewound to a finished loop: its config, folder, summary."""

  def get(rewinds):
    if rewinds not in _trained:
      config = make_config(**ROUNDS, imp__rewind_steps=REWINDS[rewinds])
      directory = tmp_path_factory.mktemp(rewinds)
      _trained[rewinds] = config, directory, imp.train(config, directory)
    return _trained[rewinds]

  return get


def kernels(variables):
  flat = traverse_util.flatten_dict(variables['params'])
  return {path: w for path, w in flat.items() if path[-1] == 'kernel'}


def vector(variables):
  return np.concatenate([w.ravel() for w in kernels(variables).values()])


def learning_rates(folder):
  lines = records.read_lines(folder / 'metrics.jsonl')
  return {r['step']: r['learning_rate'] for r in lines if r['kind'] == 'train'}


@pytest.mark.parametrize('rewinds', REWINDS)
def test_each_round_prunes_the_smallest_and_keeps_its_zeros(rewinds, trained):
  _, directory, summary = trained(rewinds)
  size = summary['weights']
  left = [row['nonzero'] for row in summary['rounds']]
  assert left == [size, size - round(0.5 * size), size - round(0.75 * size)]
  start = REWINDS[rewinds] or 0
  for before, after in itertools.pairwise(range(3)):
    trained_before = vector(
      checkpoint.read_variables(directory / f'round-{before}')
    )
    folder = directory / f'round-{after}'
    first = vector(checkpoint.read_variables(folder, start))
    last = vector(checkpoint.read_variables(folder))
    np.testing.assert_array_equal(first == 0, last == 0)
    assert (last != 0).sum() == left[after]
    assert (last[trained_before == 0] == 0).all()
    magnitude = np.abs(trained_before)
    assert magnitude[last == 0].max() <= magnitude[last != 0].min()
    lines = records.read_lines(folder / 'metrics.jsonl')
    sparsities = {r['sparsity'] for r in lines if r['kind'] == 'train'}
    assert sparsities == {summary['rounds'][after]['sparsity']}


def test_the_rate_is_rewound_and_the_weights_are_kept(
  trained, assert_trees_equal
):
  _, directory, _ = trained('rate')
  for number in (1, 2):
    before = checkpoint.read_variables(directory / f'round-{number - 1}')
    first = checkpoint.read_variables(directory / f'round-{number}', 0)
    for path, w in kernels(first).items():
      np.testing.assert_array_equal(
        w, np.where(w != 0, kernels(before)[path], 0)
      )
    assert_trees_equal(first['batch_stats'], before['batch_stats'])
    rates = learning_rates(directory / f'round-{number}')
    assert rates == learning_rates(directory / 'round-0')
    assert len(rates) == 20


def test_the_weights_are_rewound(trained, assert_trees_equal):
  _, directory, _ = trained('weights')
  origin = checkpoint.read_variables(directory / 'round-0', 7)
  rates = learning_rates(directory / 'round-0')
  for number in (1, 2):
    folder = directory / f'round-{number}'
    first = checkpoint.read_variables(folder, 7)
    for path, w in kernels(first).items():
      np.testing.assert_array_equal(
        w, np.where(w != 0, kernels(origin)[path], 0)
      )
    for name in first['params']:
      if 'kernel' not in first['params'][name]:
        assert_trees_equal(first['params'][name], origin['params'][name])
    assert_trees_equal(first['batch_stats'], origin['batch_stats'])
    later = {step: rate for step, rate in rates.items() if step > 7}
    assert learning_rates(folder) == later


def test_stopped_in_round_1_it_goes_on(trained, tmp_path, monkeypatch, capsys):
  config, directory, summary = trained('weights')
  steps = itertools.count(1)

  def stopping(placement, batches):
    for batch in batches:
      if next(steps) == 20 + 5:
        os.kill(os.getpid(), signal.SIGTERM)
      yield placement.put(batch)

  def fail(*args):
    raise RuntimeError('a cable was pulled')

  again = tmp_path / 'again'
  with monkeypatch.context() as patch:
    patch.setattr(imp, 'masks', fail)  # the folder of round 1 is made by then
    patch.setattr(stages.Placement, 'ahead', stopping)
    with pytest.raises(RuntimeError, match='cable'):
      imp.train(config, again)
  with monkeypatch.context() as patch:
    patch.setattr(stages.Placement, 'ahead', stopping)
    with pytest.raises(SystemExit):
      imp.train(config, again)
  assert not (again / 'round-1' / 'summary.json').exists()
  assert not (again / 'round-2').exists()
  capsys.readouterr()
  resumed = imp.train(config, again)
  printed = capsys.readouterr().out
  assert 'round 0 of' not in printed
  assert 'goes on from step 12 of 20' in printed
  for row, wanted in zip(resumed['rounds'], summary['rounds'], strict=True):
    assert row | {'seconds': 0} == wanted | {'seconds': 0}
  for name in (
    'metrics.jsonl',
    *(f'round-{i}/metrics.jsonl' for i in range(3)),
  ):
    assert (again / name).read_bytes() == (directory / name).read_bytes()


def test_a_finished_loop_is_left_alone_and_reported(trained, capsys):
  config, directory, summary = trained('rate')

  def look():
    return {p: p.stat().st_mtime_ns for p in directory.rglob('*')}

  before = look()
  assert imp.train(config, directory)['rounds'] == summary['rounds']
  assert look() == before
  assert 'nothing was changed' in capsys.readouterr().out
  parser = argparse.ArgumentParser()
  report.add_arguments(parser)
  report.run(parser.parse_args([str(directory)]))
  printed = capsys.readouterr().out
  assert 'IMP(rounds=2, sparsity=0.75)' in printed
  for number, row in enumerate(summary['rounds']):
    assert f'round {number}: sparsity {row["sparsity"]:.2%}' in printed
  last = json.loads((directory / 'round-2' / 'summary.json').read_text())
  assert summary['top1'] == last['top1'] == summary['rounds'][2]['top1']
  with pytest.raises(ValueError, match='name the folder of a round'):
    loop.Run(config, directory)


def test_of_ties_exactly_as_many_as_asked_for():
  rng = np.random.default_rng(0)
  weights = {
    (name,): rng.integers(-4, 5, shape).astype(np.float32)
    for name, shape in (('a', (7, 5)), ('b', (3, 3, 2, 4)), ('c', (11,)))
  }
  size = sum(w.size for w in weights.values())
  for zeros in range(0, size + 1, 13):
    kept = imp.masks(weights, zeros)
    flat = np.concatenate([np.abs(w).ravel() for w in weights.values()])
    mask = np.concatenate([m.ravel() for m in kept.values()])
    assert mask.size - mask.sum() == zeros
    if 0 < zeros < size:
      assert flat[~mask].max() <= flat[mask].min()


def test_a_layer_that_is_to_stay_dense_is_not_pruned(make_config):
  config = make_config(model__first_layer_dense=True)
  names = {
    path[0] for path in build.prunable(config, build.Inputs((8, 8, 1), 10))
  }
  assert names == {'conv1', 'classifier'}


@pytest.mark.parametrize(
  'fields, wanted',
  [
    ({'imp.rounds': 0}, 'imp.rounds must be 1 or more .* got 0'),
    ({'imp.rounds': -1}, 'imp.rounds must be 1 or more .* got -1'),
    ({'imp.sparsity': None}, 'imp.sparsity, .* got None'),
    ({'imp.sparsity': 90.0}, 'imp.sparsity, .* got 90.0; 90% is 0.9'),
    ({'imp.sparsity': 0.0}, 'imp.sparsity, .* got 0.0'),
    ({'method.name': 'frozen'}, 'method.name=dense .* got method.name=frozen'),
    ({'method.rewind_steps': 0}, 'no other field .* method.rewind_steps=0'),
    ({'checkpoint_keep_steps': 3}, 'set imp.rewind_steps'),
    ({'imp.rewind_steps': 20}, 'imp.rewind.* within the run of 20 .* step 20'),
    ({'imp.rewind_steps': -1}, 'rewind_steps must be 0 or more'),
    (
      {'imp.rewind_steps': 1, 'imp.rewind_epochs': 1.0},
      'rewind is set twice',
    ),
  ],
)
def test_a_bad_value_is_named(fields, wanted, make_config, tmp_path):
  config = make_config(**ROUNDS | fields)
  with pytest.raises(ValueError, match=wanted) as error:
    imp.train(config, tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_the_command_line_chooses_the_loop(tmp_path, monkeypatch):
  called = []
  for module in (imp, loop):
    monkeypatch.setattr(
      module, 'train', lambda *args, module=module: called.append(module)
    )
  spec = str(ROOT / 'configs/digits.py')
  flags.run(f'{spec}:imp', [], str(tmp_path))
  flags.run(f'{spec}:dense', [], str(tmp_path))
  flags.run(f'{spec}:dense', ['--config.imp.sparsity=0.5'], str(tmp_path))
  flags.run(f'{spec}:dense', ['--config.imp.rewind_steps=0'], str(tmp_path))
  assert called == [imp, loop, imp, imp]
