"""What is measured on a GPU, made small: the trainer of many seeds, the parts.

The parts' processes are not started here; what they would say is made up.
"""

import gzip
import itertools
import json
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu, gpu_tables, record, resident, seeds
from benchmarks.alternate import Result
from str_jax import data
from str_jax.data.augment import Shift
from str_jax.training import flags, placement
from str_jax.training import state as states

SHIFT = Shift(4, cv2.BORDER_REPLICATE, flip=True)
SMALL = {
  'batch_size': 8,
  'total_epochs': 2.0,
  'schedule.boundaries_epochs': (1.0, 1.5),
  'method.start_epochs': 0.2,
  'method.end_epochs': 1.0,
  'method.finetune_epochs': 0.6,
  'model.name': 'convnet',
}


@pytest.fixture(scope='module')
def small():
  """From a variant and seeds to a training: 10 steps, and 3 with frozen zeros.

  36 images are no multiple of the batch, so epochs begin within a step.
  """
  loaded = data.load(
    'fake',
    image_size=8,
    augment='crop_flip',
    validation=8,
    fake_classes=4,
    fake_examples=44,
  )
  splits = {s: resident.on_device(loaded, s) for s in loaded.splits}

  def make(variant, chosen, path):
    spec = str(record.ROOT / 'configs' / f'cifar10.py:{variant}')
    config, _ = flags.load_config(spec, [])
    with config.unlocked():
      config.model.widths = (4, 8)
    config.update_from_flattened_dict(SMALL)
    return seeds.Training(config, chosen, path)

  with pytest.MonkeyPatch.context() as patch:
    there = resident.Resident(loaded, splits)
    patch.setattr(resident, 'load', lambda config: there)
    yield make


def train(training):
  state = training.initial()
  while (step := int(state.step[0])) < training.plan.total_steps:
    state = training.advance(state, training.room(step))
  return jax.device_get(state)


def of_seed(state, i):
  return jax.tree.map(lambda x: x[i], state)


def assert_close(ours, theirs):
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.fixture(scope='module')
def together(small, tmp_path_factory):
  training = small('st3-90-paper', [3, 4], tmp_path_factory.mktemp('x') / 'a')
  return training, train(training)


def test_steps_are_the_trainers(small, together, tmp_path):
  training, state = together
  images, plan = training.images['train'], training.plan
  order = resident.orders(jnp.int32(4), jnp.int32(0), 4, 36)
  first, second = (training.stage(phase) for phase in plan.phases)
  now = first.init(4)
  for step in range(plan.total_steps):
    batch = resident.batch_of(
      images, jnp.int32(4), jnp.int32(step), order, jnp.int32(0), 8, SHIFT
    )
    if step == plan.phases[0].stop:
      now = jax.jit(lambda s: states.freeze(first.method, s, second.tx))(now)
    made = first if step < plan.phases[0].stop else second
    now = made.train_step(now, placement.create().put(jax.device_get(batch)))
  ours = of_seed(state, 1)
  assert int(now.step) == ours.step == 13
  assert_close(ours.variables, jax.device_get(now.variables))
  row = training.results(state)[1]
  assert row['seed'] == 4 and row['sparsity'] == pytest.approx(0.9, abs=1e-3)


def test_seeds_do_not_touch_each_other(small, together, tmp_path):
  alone = train(small('st3-90-paper', [3], tmp_path / 'a'))
  both = together[1]
  assert_close(of_seed(both, 0), of_seed(alone, 0))
  largest = max(
    np.abs(w[0] - w[1]).max() for w in jax.tree.leaves(both.variables['params'])
  )
  assert largest > 0.1


def test_a_stopped_training_goes_on(small, together, tmp_path, monkeypatch):
  ended = []
  monkeypatch.setattr(seeds, '_AT_ONCE', 1)  # an epoch a call
  monkeypatch.setattr(
    seeds.Training, 'results', lambda self, state: ended.append(state) or [{}]
  )
  starts = 0
  while not ended:
    starts += 1
    clock = itertools.count()
    turned = types.SimpleNamespace(perf_counter=lambda c=clock: next(c))
    monkeypatch.setattr(seeds, 'time', turned)
    training = small('st3-90-paper', [3, 4], tmp_path / 'a.npz')
    training._compiled = together[0]._compiled
    training.run(deadline=2.5)
  assert starts > 2 and not (tmp_path / 'a.npz').exists()
  for a, b in zip(
    jax.tree.leaves(ended[0]), jax.tree.leaves(together[1]), strict=True
  ):
    np.testing.assert_array_equal(a, b)


def test_a_state_of_other_settings_is_refused(small, tmp_path):
  training = small('st3-90-paper', [3], tmp_path / 'a.npz')
  training._save(training.initial())
  with pytest.raises(ValueError, match='other settings'):
    small('st3-95-paper', [3], tmp_path / 'a.npz').start()


def test_every_image_once_an_epoch():
  order = resident.orders(jnp.int32(1), jnp.int32(5), 2, 36)
  assert sorted(order[:36].tolist()) == sorted(order[36:].tolist())
  assert sorted(order[:36].tolist()) == list(range(36))
  later = resident.orders(jnp.int32(1), jnp.int32(6), 1, 36)
  np.testing.assert_array_equal(order[36:], later)


@pytest.mark.parametrize('border', [cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT])
def test_augmentation_is_the_pipelines(border):
  images = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), np.uint8)
  at = np.array([[-4, 4, 0, 2, -1], [4, -4, 0, -3, 1]])
  flipped = np.array([True, False, True, True, False])

  class Drawn:
    def __init__(self, i):
      self.numbers = [at[:, i] + SHIFT.padding, int(flipped[i])]

    def integers(self, *_):
      return self.numbers.pop(0)

  shift = Shift(SHIFT.padding, border, flip=True)
  wanted = [
    shift.random_map({'image': images[i]}, Drawn(i))['image'] for i in range(5)
  ]
  ours = resident.shifted(
    jnp.array(images), jnp.arange(5), jnp.array(at), jnp.array(flipped), border
  )
  np.testing.assert_array_equal(ours, np.stack(wanted))


@pytest.fixture
def results(tmp_path, monkeypatch):
  monkeypatch.setattr(gpu, 'RESULTS', tmp_path / 'benchmarks.gpu.json')
  return tmp_path


@pytest.fixture
def measured(monkeypatch):
  """The contenders asked for; those named in ``broken`` fail."""
  asked, broken = [], []

  def measure(contenders, **_):
    asked.append([c.name for c in contenders])
    for c in contenders:
      if c.name in broken:
        raise RuntimeError(f'{c.name} failed: see above.')
    slower = lambda c: 2.0 if c.name.endswith('str_jax') else 3.0
    return {c.name: Result([slower(c)] * 3, 1.0, 2**30, {}) for c in contenders}

  monkeypatch.setattr(gpu.alternate, 'measure', measure)
  return asked, broken


def test_steps_are_held_against_peers_and_peak(results, measured):
  command = ['--parts=peak,steps', '--models=resnet50', '--methods=str']
  command += ['--batches=256,1024', '--sizes=1000']
  gpu.main(command)
  asked, _ = measured
  names = ['dense str_jax', 'str str_jax', 'str channels_last', 'str compiled']
  assert names in asked and [[n] for n in names] == asked[-4:]
  rows = {(r['program'], r.get('batch')): r for r in record.read(gpu.RESULTS)}
  ours = rows['str_jax', 256]
  assert ours['over_compiled'] == [1.5] * 3
  # 4.09e9 multiply-adds forward, and 128 images a second.
  gflops = ours['gflops_per_image']
  assert gflops == pytest.approx(24.5, rel=0.01)
  peak = rows['bfloat16', None]['tflops'][0]
  share = f'{128 * gflops / 1e3 / peak:.1%}'
  assert share in (results / 'benchmarks.gpu.md').read_text()
  count = len(asked)
  gpu.main(command)  # everything is there
  assert len(asked) == count


def test_a_flag_that_is_refused(results, measured, monkeypatch):
  unknown = '--xla_this_is_no_flag=1'
  assert 'this_is_no_flag' in gpu.refused(unknown)
  monkeypatch.setattr(gpu, 'refused', lambda f: 'no' if f == unknown else '')
  asked, broken = measured
  broken.append('cuBLASLt')
  command = ['--parts=flags', '--methods=str', '--models=resnet20']
  gpu.main([*command, f'--flags=NCHW convolutions,cuBLASLt,{unknown}'])
  assert asked[-1] == ['none', 'NCHW convolutions']
  rows = {r['program']: r for r in record.read(gpu.RESULTS)}
  assert rows['NCHW convolutions']['over_none'] == [1.0] * 3
  assert (
    rows[unknown]['refused'] == 'no'
    and 'failed' in (rows['cuBLASLt']['refused'])
  )
  text = (results / 'benchmarks.gpu.md').read_text()
  assert text.count('| refused |') == 2


def test_operations_of_a_trace(tmp_path):
  numbers = jax.random.normal(jax.random.key(0), (64, 64))
  with jax.profiler.trace(str(tmp_path)):
    jax.block_until_ready(jax.jit(jnp.sort)(numbers))
  found = gpu_tables.operations(tmp_path)
  assert any('sort' in row['name'] and row['ms'] > 0 for row in found)


def test_an_operation_has_its_own_time_once(tmp_path):
  def event(tid, ts, dur, name, **args):
    args = {'hlo_op': name, **args}
    return {'ph': 'X', 'pid': 1, 'tid': tid, 'ts': ts, 'dur': dur, 'args': args}

  thread = {'ph': 'M', 'pid': 1, 'tid': 7, 'name': 'thread_name'}
  events = [
    event(1, 0, 9000, 'while.1'),
    event(1, 1000, 2000, 'fusion.1', hlo_category='loop fusion'),
    event(1, 3000, 5000, 'fusion.2', hlo_category='loop fusion'),
    event(1, 9000, 500, 'cudnn-conv.3.remat'),
    event(1, 9500, 500, 'cudnn-conv.3.remat'),
  ]
  write = lambda found: (tmp_path / 'a.trace.json.gz').write_bytes(
    gzip.compress(json.dumps({'traceEvents': found}).encode())
  )
  write(events)
  found = gpu_tables.summary(gpu_tables.operations(tmp_path))
  assert found['ms'] == 10
  assert found['categories'] == {
    'loop fusion': 7,
    'while': 2,
    'cudnn-conv': 1,
  }
  assert found['operations'][-1]['calls'] == 2
  # A GPU's trace has the same operations again, on a line of their own.
  again = [e | {'tid': 7} for e in events]
  write([*events, *again, thread | {'args': {'name': 'XLA Ops'}}])
  assert gpu_tables.summary(gpu_tables.operations(tmp_path)) == found
