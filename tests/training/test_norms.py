"""BatchNorm's statistics, re-estimated with the weights held."""

import contextlib
import copy
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from str_jax import data
from str_jax.training import build, checkpoint, loop, norms

pytestmark = pytest.mark.usefixtures('quick')


def flat(variables):
  return {
    path: np.asarray(leaf)
    for path, leaf in traverse_util.flatten_dict(variables, sep='/').items()
  }


@pytest.fixture
def opened(recorded, tmp_path):
  """The run of STR, its stage and its last variables."""
  source = recorded('str')
  shutil.copytree(source.directory, tmp_path / 'opened')
  run = loop.Run(source.config, tmp_path / 'opened')
  with contextlib.closing(run.checkpoints):
    stage, state = run.restore(20)
  return run, stage, state.variables


def of_each_batch(run, stage, variables, images):
  """Eagerly, the statistics that a norm without memory is left with."""
  config = copy.deepcopy(run.config)
  config.model.norm_momentum = 0.0
  model = build.model(config, run.dataset.num_classes, stage.method)
  host = jax.device_get(variables)
  return [
    flat(
      model.apply(host, x, train=True, mutable=['batch_stats'])[1][
        'batch_stats'
      ]
    )
    for x in images
  ]


def images_of(run, count):
  stream = data.train_batches(
    run.dataset, run.config.batch_size, seed=run.config.seed
  )
  mean, std = run.dataset.mean[0], run.dataset.std[0]
  return [
    jnp.asarray((next(stream)['image'] - mean) / std, jnp.float32)
    for _ in range(count)
  ]


def test_they_are_those_of_the_batches_together(opened):
  run, stage, variables = opened
  new = norms.reestimate(run, stage, variables, 3)
  assert new.keys() == variables.keys()
  for name in new.keys() - {'batch_stats'}:
    assert new[name] is variables[name]
  statistics = flat(new['batch_stats'])
  images = images_of(run, 3)
  # What the first norm sees hangs on no other: one large batch is the same.
  (whole,) = of_each_batch(run, stage, variables, [jnp.concatenate(images)])
  each = of_each_batch(run, stage, variables, images)
  first = [path for path in statistics if path.startswith('stem_norm/')]
  assert len(first) == 2 and len(statistics) == 4
  for path in first:
    np.testing.assert_allclose(statistics[path], whole[path], rtol=1e-5)
  for path, value in statistics.items():
    stacked = np.stack([s[path] for s in each])
    expected = stacked.mean(0)
    if path.endswith('/var'):
      means = [s[path.removesuffix('var') + 'mean'] for s in each]
      expected += np.stack(means).var(0)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    assert value.dtype == np.float32


def test_drift_is_in_standard_deviations_and_logarithms():
  def variables(mean, var):
    layer = {'mean': jnp.array(mean), 'var': jnp.array(var)}
    return {'batch_stats': {'block': {'norm': layer}}}

  new = variables([1.0, 0.0], [4.0, 1.0])
  assert norms.drift(new, new) == {'block/norm': 0.0}
  shifted = norms.drift(variables([4.0, 0.1], [4.0, 1.0]), new)
  assert shifted['block/norm'] == pytest.approx(1.5, rel=1e-4)
  for var in (0.25, 4.0):
    stretched = norms.drift(variables([1.0, 0.0], [4.0, var]), new)
    assert stretched['block/norm'] == pytest.approx(np.log(4), rel=1e-4)
  # A channel without weights: its old average fades, and nobody sees it.
  dead = variables([0.0, 0.0], [1e-12, 1.0])
  gone = variables([0.0, 0.0], [0.0, 1.0])
  assert norms.drift(dead, gone)['block/norm'] < 1e-6


def test_more_batches_drift_less(opened):
  run, stage, variables = opened
  many = norms.reestimate(run, stage, variables, 19)
  few = norms.reestimate(run, stage, variables, 1)
  drift = [max(norms.drift(v, many).values()) for v in (many, few, variables)]
  assert drift[0] == 0 < drift[1] < drift[2]


def test_a_model_without_norms(opened):
  run, stage, variables = opened
  without = {k: v for k, v in variables.items() if k != 'batch_stats'}
  assert norms.reestimate(run, stage, without, 2) == without
  assert norms.drift(without, without) == {}


def test_no_batches(opened):
  with pytest.raises(ValueError, match='1 batch or more to be .* got 0'):
    norms.reestimate(*opened, 0)


def test_a_run_ends_with_them(recorded, make_config, tmp_path):
  """The last of its phases alone, and nothing but the statistics changes."""
  before = recorded('st3')
  config = make_config('st3', norm_batches=2)
  summary = loop.train(config, tmp_path / 'run')
  old = flat(checkpoint.read_variables(before.directory))
  new = flat(checkpoint.read_variables(tmp_path / 'run'))
  changed = {path for path in old if (old[path] != new[path]).any()}
  assert changed == {path for path in old if path.startswith('batch_stats/')}
  run = loop.Run(config, tmp_path / 'run')
  with contextlib.closing(run.checkpoints):
    stage, state = run.restore(summary['steps'])
  again = norms.reestimate(run, stage, state.variables, 2)
  assert norms.drift(state.variables, again) == {
    'stem_norm': 0.0,
    'norm1': 0.0,
  }
  assert run.evaluate(stage, again, 'test')['loss'] == summary['eval_loss']
  assert summary['eval_loss'] != before.summary['eval_loss']
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_bytes().splitlines()
  assert lines[:-1] == before.lines.splitlines()[:-1]
  assert lines[-1] != before.lines.splitlines()[-1]


def test_a_run_that_was_stopped_ends_with_the_same(
  make_config, tmp_path, monkeypatch
):
  config = make_config('str', norm_batches=2)
  whole = loop.train(config, tmp_path / 'whole')
  save = checkpoint.Checkpoints.save

  def failing_save(self, state, *accuracy):
    if int(state.step) == 20:
      raise RuntimeError('no space left')
    save(self, state, *accuracy)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, 'save', failing_save)
    with pytest.raises(RuntimeError, match='no space'):
      loop.train(config, tmp_path / 'cut')
  loop.train(config, tmp_path / 'cut')
  (tmp_path / 'cut' / 'summary.json').unlink()  # and once more, after its end
  cut = loop.train(config, tmp_path / 'cut')
  assert cut['eval_loss'] == whole['eval_loss']
  a, b = (
    flat(checkpoint.read_variables(tmp_path / name))
    for name in ('whole', 'cut')
  )
  for path in a:
    np.testing.assert_array_equal(a[path], b[path])


def test_a_number_of_batches_below_zero(make_config, tmp_path):
  with pytest.raises(ValueError, match='norm_batches must be 0 or more'):
    loop.train(make_config(norm_batches=-1), tmp_path / 'run')
