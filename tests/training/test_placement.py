"""Where a state lies on a mesh, and that it makes no difference to a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import str_jax
from benchmarks import hlo
from str_jax.paths import named_leaves
from str_jax.training import integrity, loop, placement

pytestmark = pytest.mark.usefixtures('quick')

COMPARED = {
  'str': {},
  'st3': {'method.finetune_steps': None, 'total_steps': 12},
  'target': {'method.target': 0.8},
}


def specs(made, tree):
  return {
    '/'.join(path): sharding.spec
    for path, sharding in named_leaves(made.shardings(tree)).items()
  }


def test_kernels_and_their_thresholds_are_split_and_nothing_else():
  made = placement.create(4)
  shape = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
  tree = {
    'conv': {
      'kernel': shape(3, 3, 8, 16),
      'kernel_threshold': shape(1, 1, 1, 16),
      'bias': shape(16),
    },
    'odd': {'kernel': shape(8, 10), 'kernel_threshold': shape(1, 10)},
    'small': {'kernel': shape(3, 5), 'kernel_threshold': shape(1, 1)},
    'momentum': {'trace': {'conv': {'kernel': shape(3, 3, 8, 16)}}},
  }
  nowhere, last = PartitionSpec(), PartitionSpec(None, None, None, 'fsdp')
  assert specs(made, tree) == {
    'conv/kernel': last,
    'conv/kernel_threshold': last,
    'conv/bias': nowhere,
    'odd/kernel': PartitionSpec('fsdp', None),
    'odd/kernel_threshold': nowhere,
    'small/kernel': nowhere,
    'small/kernel_threshold': nowhere,
    'momentum/trace/conv/kernel': last,
  }
  assert set(specs(placement.create(), tree).values()) == {nowhere}


@pytest.mark.parametrize('fsdp', [0, 3, 16])
def test_devices_that_cannot_be_divided_are_an_error(fsdp):
  with pytest.raises(ValueError, match=f'the 8 devices, got {fsdp}'):
    placement.create(fsdp)


def test_a_split_that_divides_no_weight_is_an_error(make_config, tmp_path):
  config = make_config('str')
  config.model.widths = (3, 5)
  config.fsdp = 8
  with pytest.raises(ValueError, match='fsdp=8 divides no axis of any weight'):
    loop.Run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_what_a_device_holds():
  tree = {
    'kernel': jax.ShapeDtypeStruct((3, 8), jnp.float32),
    'bias': jax.ShapeDtypeStruct((8,), jnp.bfloat16),
  }
  assert placement.create(4).share(tree) == (24 + 16, 96 + 16)
  assert placement.create().share(tree) == (96 + 16, 96 + 16)


@pytest.mark.parametrize('method', COMPARED)
def test_split_or_not_the_numbers_are_the_same(method, make_config, tmp_path):
  found = {}
  for fsdp in (None, 4):
    name = 'str' if method == 'target' else method
    config = make_config(name, log_every_steps=1, **COMPARED[method])
    config.fsdp = fsdp
    summary = loop.train(config, tmp_path / str(fsdp))
    lines = (tmp_path / str(fsdp) / 'metrics.jsonl').read_text().splitlines()
    found[fsdp] = lines, summary
  (lines, whole), (parts, split) = found.values()
  assert len(lines) == len(parts)
  losses = [
    [json.loads(line)['loss'] for line in side] for side in (lines, parts)
  ]
  np.testing.assert_allclose(losses[0][:3], losses[1][:3], atol=1e-6)
  np.testing.assert_allclose(losses[0], losses[1], atol=2e-2)
  if method != 'str':
    assert whole['nonzero'] == split['nonzero']
  assert whole['nonzero'] == pytest.approx(split['nonzero'], rel=1e-3)


def test_a_split_state_is_split_and_goes_on_anywhere(make_config, tmp_path):
  config = make_config('st3')
  config.fsdp = 4
  run = loop.Run(config, tmp_path / 'run')
  stage, state = run.start()
  run.checkpoints.close()
  for tree in (state.variables['params'], state.opt_state):
    kernels = {
      path: leaf
      for path, leaf in named_leaves(tree).items()
      if path[-1] == 'kernel'
    }
    assert kernels
    for leaf in kernels.values():
      assert leaf.addressable_shards[0].data.size == leaf.size // 4
  config.fsdp = None
  again = loop.Run(config, tmp_path / 'run')
  _, restored = again.start()  # its checksum is that of the split one
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored)):
    assert b.sharding.is_fully_replicated
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_net_wide_threshold_gathers_nothing(make_config, tmp_path):
  config = make_config('str', **{'method.target': 0.8})
  config.fsdp = 8
  run = loop.Run(config, tmp_path / 'run')
  stage = run.stage(run.plan.phases[0])
  here = run.placement.shardings(stage.target.variables)
  update = jax.jit(
    lambda v: str_jax.update_thresholds(stage.method, v, 20),
    in_shardings=(here,),
    out_shardings=here,
  )
  text = update.lower(stage.target.variables).compile().as_text()
  sent = hlo.collectives(text)
  assert {c.kind for c in sent} == {'all-reduce'}
  assert 'all-gather' not in text and 'sort(' not in text
  assert sum(c.bytes for c in sent) <= 64  # a pass, or what stands once


@pytest.mark.parametrize('parts', [2, 4])
def test_a_batch_in_parts_gives_the_same_gradient(parts, make_config, tmp_path):
  """Without BatchNorm, which sees a part at a time."""
  settings = {'model.name': 'fastgrnn', 'batch_size': 32}
  states = {}
  for count in (None, parts):
    config = make_config('str', **settings)
    with config.model.unlocked():
      del config.model.widths
    config.accumulate_steps = count
    run = loop.Run(config, tmp_path / str(count))
    stage, state = run.start()
    batches = run.batches()
    for _ in range(3):
      state = stage.train_step(state, run.placement.put(next(batches)))
    run.checkpoints.close()
    states[count] = jax.device_get(state)
  whole, split = states[None], states[parts]
  for a, b in zip(
    jax.tree.leaves(whole.variables), jax.tree.leaves(split.variables)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  for name, value in whole.sums.items():
    np.testing.assert_allclose(value, split.sums[name], rtol=1e-4)


def test_parts_train_with_batch_norm_too(make_config, tmp_path):
  config = make_config('str', batch_size=32, log_every_steps=1)
  config.accumulate_steps = 2
  loop.train(config, tmp_path / 'run')
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  losses = [r['loss'] for r in map(json.loads, lines) if r['kind'] == 'train']
  assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize(('batch', 'parts'), [(24, 2), (64, 16)])
def test_a_batch_that_does_not_divide(batch, parts, make_config, tmp_path):
  config = make_config(batch_size=batch)
  config.accumulate_steps = parts
  with pytest.raises(
    ValueError, match=f'accumulate_steps={parts}, got {batch}'
  ):
    loop.Run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_the_checksum_is_that_of_the_elements_wherever_they_lie():
  rng = np.random.default_rng(0)
  tree = {
    'kernel': rng.normal(size=(8, 16)).astype(np.float32),
    'bias': rng.normal(size=3).astype(np.float16),
    'count': np.int32(7),
    'empty': np.zeros((0, 2), np.float32),
    'flag': np.array([True, False]),
  }
  checksum = integrity.describe(tree, 0.5)['checksum']
  for fsdp in (1, 8):
    laid = placement.create(fsdp).lay(tree)
    assert integrity.describe(laid, 0.5)['checksum'] == checksum
  for name, value in tree.items():
    flat = np.ascontiguousarray(value).reshape(-1).copy()
    if flat.size > 1:
      swapped = flat[::-1].reshape(value.shape)
      assert integrity.describe(tree | {name: swapped}, 0.5)['checksum'] != (
        checksum
      )
    if flat.size:
      flat.view(np.uint8)[0] ^= 1
      flipped = tree | {name: flat.reshape(np.shape(value))}
      assert integrity.describe(flipped, 0.5)['checksum'] != checksum
