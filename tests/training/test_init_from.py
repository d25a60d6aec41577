"""Runs that start from another's weights."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

import str_jax
from str_jax import methods
from str_jax.training import checkpoint, init_from, loop

pytestmark = pytest.mark.usefixtures('quick')


def flat(variables):
  return {
    path: np.asarray(leaf)
    for path, leaf in traverse_util.flatten_dict(variables, sep='/').items()
  }


def last(run):
  return flat(checkpoint.read_variables(run.directory))


def before_the_frozen_phase(run, tmp_path):
  """ST-3's folder with the checkpoint at the end of ST-3 proper the last."""
  directory = run.at(16, tmp_path / 'st3')  # the one of 15 may be unfinished
  for folder in (directory / 'checkpoints').iterdir():
    if folder.name != '12':
      shutil.rmtree(folder)
  return directory


def start(config, directory):
  """The variables that a run starts with, which its checkpoint 0 holds."""
  run = loop.Run(config, directory)
  with contextlib.closing(run.checkpoints):
    _, state = run.start()
  started = flat(state.variables)
  saved = flat(checkpoint.read_variables(directory))
  assert started.keys() == saved.keys()
  assert all((started[path] == saved[path]).all() for path in saved)
  assert int(state.step) == 0
  return started


def test_dense_to_str(recorded, make_config, tmp_path, capsys):
  theirs = last(recorded('dense'))
  config = make_config('str', init_from=str(recorded('dense').directory))
  ours = start(config, tmp_path / 'run')
  printed = capsys.readouterr().out
  added = {path for path in ours if path.endswith('/kernel_threshold')}
  assert set(ours) - set(theirs) == added and len(added) == 3
  for path in added:
    assert (ours[path] == -3.0).all()
    assert path in printed
  for path in theirs:  # running statistics too
    np.testing.assert_array_equal(ours[path], theirs[path])
  assert f'{len(theirs)} of {len(ours)} arrays taken from' in printed
  assert 'not found there: params/classifier/kernel_threshold' in printed


def test_a_run_from_another_is_trained_and_resumed_like_any(
  recorded, make_config, tmp_path, monkeypatch
):
  config = make_config('str', init_from=str(recorded('dense').directory))
  first = loop.train(config, tmp_path / 'run')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
  assert lines != recorded('str').lines
  assert first['top1'] != recorded('str').summary['top1']
  (tmp_path / 'run' / 'summary.json').unlink()

  def no_load(*args):
    raise AssertionError('a resumed run starts from its own checkpoint')

  monkeypatch.setattr(init_from, 'load', no_load)
  loop.train(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == lines


def test_str_to_st3_takes_effective_weights(
  recorded, make_config, tmp_path, capsys
):
  run = recorded('str')
  variables = checkpoint.read_variables(run.directory)
  expected = str_jax.effective_params(
    methods.create('str', init_value=-3.0), variables
  )
  expected = flat({'params': expected})
  config = make_config('st3', init_from=str(run.directory))
  ours = start(config, tmp_path / 'run')
  for path, weight in expected.items():
    np.testing.assert_array_equal(ours[path], weight)
  kernels = [w for path, w in expected.items() if path.endswith('/kernel')]
  zeros = sum((w == 0).sum() for w in kernels) / sum(w.size for w in kernels)
  assert zeros == pytest.approx(run.summary['sparsity']) and zeros > 0.1
  assert not any(path.endswith('params/stem/kernel_threshold') for path in ours)
  thresholds = [p for p in ours if p.startswith('thresholds/')]
  assert len(thresholds) == 3 and all(ours[p] == 0 for p in thresholds)
  assert 'thresholds/stem/kernel_threshold' in capsys.readouterr().out


def test_st3_to_st3_takes_weights_and_thresholds(
  recorded, make_config, tmp_path, capsys
):
  source = before_the_frozen_phase(recorded('st3'), tmp_path)
  theirs = flat(checkpoint.read_variables(source))
  # Another target on another course: the thresholds still mean the same.
  config = make_config(
    'st3',
    init_from=str(source),
    **{'method.sparsity': 0.5, 'method.end_steps': 5},
  )
  ours = start(config, tmp_path / 'run')
  assert ours.keys() == theirs.keys()
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf)
  assert all(w > 0 for p, w in ours.items() if p.startswith('thresholds/'))
  assert 'starts afresh' not in capsys.readouterr().out


def test_a_net_wide_threshold_is_taken_whole_or_not_at_all(recorded):
  run = recorded('dense')
  method = methods.create('str', granularity='global', init_value=-3.0)
  dense = checkpoint.read_variables(run.directory)
  fresh = str_jax.add_thresholds(method, dense)
  part = str_jax.add_thresholds(
    methods.create('str', granularity='global', init_value=-1.0),
    dense,
    where=lambda path, _: path[-1] == 'kernel' and path[-2] != 'stem',
  )
  whole = str_jax.add_thresholds(
    methods.create('str', granularity='global', init_value=-1.0), dense
  )
  for theirs, wanted in ((part, {-3.0}), (whole, {-1.0})):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(checkpoint, 'read_variables', lambda _, t=theirs: t)
      patch.setattr(init_from, 'method_of', lambda *_: method)
      loaded = init_from.load(run.directory, fresh, 'convnet', method)
    found = {
      float(leaf.ravel()[0])
      for path, leaf in flat(loaded).items()
      if path.endswith('kernel_threshold')
    }
    assert found == wanted


def test_the_folder_of_several_rounds_is_no_run(recorded, tmp_path):
  saved = json.loads((recorded('dense').directory / 'config.json').read_text())
  saved['imp']['rounds'] = 2
  (tmp_path / 'config.json').write_text(json.dumps(saved))
  with pytest.raises(ValueError, match='name that of a round, as .*/round-2'):
    init_from.check(tmp_path, 'convnet')


def test_a_frozen_network_is_taken_as_it_is(recorded, make_config, tmp_path):
  run = recorded('st3')  # its last checkpoint is of the fine-tuning
  theirs = last(run)
  assert not any('threshold' in path for path in theirs)
  ours = start(make_config(init_from=str(run.directory)), tmp_path / 'run')
  for path, leaf in theirs.items():
    np.testing.assert_array_equal(ours[path], leaf)


@pytest.mark.parametrize(
  'changed', [{'g': 'exp'}, {'granularity': 'filter'}, {'slope': 0.5}]
)
def test_thresholds_of_another_meaning_are_not_taken(changed, recorded):
  """Else the same s would be another threshold, and other weights zero."""
  run = recorded('str')
  variables = checkpoint.read_variables(run.directory)
  theirs = methods.create('str', init_value=-3.0)
  ours = methods.create('str', init_value=-30.0, **changed)
  effective = str_jax.effective_params(theirs, variables)
  fresh = str_jax.add_thresholds(ours, str_jax.freeze(theirs, variables))
  loaded = flat(init_from.load(run.directory, fresh, 'convnet', ours))
  for path, weight in flat({'params': effective}).items():
    np.testing.assert_array_equal(loaded[path], weight)
  assert (loaded['params/stem/kernel_threshold'] == -30.0).all()


def test_leaves_without_a_match_are_named(recorded, capsys):
  """Another number of classes and a layer more: the rest is taken."""
  run = recorded('dense')
  theirs = checkpoint.read_variables(run.directory)
  ours = jax.tree.map(np.zeros_like, theirs)
  ours['params']['classifier']['kernel'] = np.zeros((8, 3), np.float32)
  ours['params']['conv2'] = {'kernel': np.zeros((3, 3), np.float32)}
  del ours['params']['norm1']
  loaded = init_from.load(run.directory, ours, 'convnet', None)
  printed = capsys.readouterr().out
  assert 'not found there: params/conv2/kernel\n' in printed
  assert 'of another shape there: params/classifier/kernel\n' in printed
  assert (
    'not used from there: params/norm1/bias, params/norm1/scale\n' in printed
  )
  assert loaded['params']['classifier']['kernel'].shape == (8, 3)
  np.testing.assert_array_equal(
    loaded['params']['stem']['kernel'], theirs['params']['stem']['kernel']
  )


@pytest.mark.parametrize(
  'model, variables, wanted',
  [
    # Its classifier would fit a ResNet-20, and nothing else of it.
    ('resnet20', None, 'must hold a resnet20 .* but holds a convnet'),
    ('convnet', {'params': {'a': np.zeros(3)}}, 'no parameter has the same'),
  ],
)
def test_another_model(model, variables, wanted, recorded):
  directory = recorded('dense').directory
  variables = variables or checkpoint.read_variables(directory)
  with pytest.raises(ValueError, match=wanted):
    init_from.load(directory, variables, model, None)


def test_a_folder_that_is_no_run(make_config, tmp_path):
  for source in (tmp_path / 'nowhere', tmp_path):
    config = make_config(init_from=str(source))
    with pytest.raises(FileNotFoundError, match='folder of a'):
      loop.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
