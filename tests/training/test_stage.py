"""The compiled step on its devices: placement, donation, number types."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import data
from str_jax.training import loop
from str_jax.training import placement as placements
from str_jax.training import stage as stages

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture(scope='module')
def started(recorded):
  """From a method: the run's stage, a state of it, and some batches."""

  def start(method, count=3):
    run = loop.Run(recorded(method).config, recorded(method).directory)
    run.checkpoints.close()
    stage = run.stage(run.plan.phases[0])
    stream = data.train_batches(run.dataset, 64, seed=0)
    batches = [run.placement.put(next(stream)) for _ in range(count)]
    return run, stage, stage.init(0), batches

  return start


@pytest.mark.parametrize('method', ['str', 'st3'])
def test_nothing_crosses_to_the_host_within_a_step(method, started):
  _, stage, state, batches = started(method)
  state = stage.train_step(state, batches[0])
  with jax.transfer_guard('disallow'):
    for batch in batches:
      state = stage.train_step(state, batch)
  assert int(state.step) == 4
  assert stage.train_step._cache_size() == 1  # and nothing is compiled anew


def test_the_state_is_donated_and_the_batch_is_not(started):
  _, stage, state, batches = started('str')
  before = jax.tree.leaves((state.variables, state.opt_state))
  stage.train_step(state, batches[0])
  assert all(leaf.is_deleted() for leaf in before)
  assert not batches[0]['image'].is_deleted()


def test_thresholds_are_those_of_the_new_weights(started, assert_trees_equal):
  """Steps 3 and 4: the ramp from step 2 to 8 has begun."""
  run, stage, state, batches = started('st3', 4)
  method = run.plan.phases[0].method
  update = jax.jit(str_jax.update_thresholds, static_argnums=0)
  for step, batch in enumerate(batches, start=1):
    state = stage.train_step(state, batch)
    expected = update(method, state.variables, step)
    assert_trees_equal(state.variables, expected)
  assert all(t.max() > 0 for t in jax.tree.leaves(expected['thresholds']))


def test_one_device_and_eight_give_the_same(started):
  """BatchNorm's statistics, too, are those of the whole batch."""
  run, stage, state, batches = started('dense')
  alone = placements.create(devices=jax.devices()[:1])
  stage_alone = stages.create(
    run.config, run.plan, run.plan.phases[0], run.dataset, alone
  )
  state_alone = alone.lay(jax.device_get(state))
  for batch in batches:
    image = batch['image']
    assert len(image.sharding.device_set) == 8
    assert image.addressable_shards[0].data.shape[0] == 8
    local = alone.put(jax.device_get(batch))
    state = stage.train_step(state, batch)
    state_alone = stage_alone.train_step(state_alone, local)
    for name in ('loss', 'grad_norm'):
      assert float(state.sums[name]) == pytest.approx(
        float(state_alone.sums[name]), rel=1e-5
      )
  for a, b in zip(
    jax.tree.leaves(state.variables), jax.tree.leaves(state_alone.variables)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_bfloat16_computes_in_it_and_keeps_float32(make_config, tmp_path):
  run = loop.Run(make_config('str', model__dtype='bfloat16'), tmp_path)
  run.checkpoints.close()
  stage = run.stage(run.plan.phases[0])
  batch = next(data.train_batches(run.dataset, 64, seed=0))
  new = jax.eval_shape(stage.train_step, stage.target, batch)
  for leaf in jax.tree.leaves((new.variables, new.sums)):
    assert leaf.dtype == jnp.float32
  text = str(jax.make_jaxpr(stage.train_step)(stage.target, batch))
  convolutions = [x for x in text.splitlines() if 'conv_general_dilated' in x]
  assert convolutions and all('bf16[' in x for x in convolutions)


def test_only_training_asks_that_the_devices_divide_the_batch(
  recorded, make_config, tmp_path
):
  shutil.copytree(recorded('dense').directory, tmp_path / 'run')
  config = make_config(batch_size=60)  # for 8 devices
  run = loop.Run(config, tmp_path / 'run')
  stage, state = run.restore(20)
  assert run.evaluate(stage, state.variables, 'test')['examples'] == 360
  with pytest.raises(ValueError, match='a multiple of the 8 devices, got 60'):
    run.complete('')
