"""Every benchmark runs, for one iteration at its smallest size."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  accuracy,
  alternate,
  fastgrnn,
  first_seconds,
  memory,
  record,
  thresholds,
  train_step,
)
from str_jax import quantile

SHAPES = [(3, 3, 2, 5), (7, 4), (3, 1)]


def counter(step):
  """A program that counts its own steps."""
  done = []
  facts = {}

  def run(steps):
    done.extend([step] * steps)
    facts['steps'] = len(done)

  return alternate.Program(run, facts, peak_bytes=lambda: 12)


def test_alternate_runs_each_in_a_process_and_in_turns():
  results = alternate.measure(
    [alternate.Contender(str(i), counter, {'step': i}) for i in range(2)],
    alternations=3,
    seconds=0.0,
    threads=1,
  )
  assert list(results) == ['0', '1']
  for result in results.values():
    assert len(result.seconds) == 3 and min(result.seconds) > 0
    assert result.peak_bytes == 12
    assert result.facts['steps'] == 3 + 3  # three to begin, one a turn
  middle, least, most = alternate.ratios(results['0'], results['1'])
  assert 0 < least <= middle <= most


def test_a_contender_that_fails_is_named():
  with pytest.raises(RuntimeError, match='the bad one failed'):
    alternate.measure(
      [alternate.Contender('the bad one', math.sqrt, {})],
      alternations=1,
      seconds=0.0,
      threads=1,
    )


def test_train_step_of_ours():
  results = alternate.measure(
    train_step.contenders('convnet', ['st3'], [], 8, 'float32'),
    alternations=1,
    seconds=0.0,
    threads=2,
  )
  (row,) = train_step.records(
    'convnet', 8, results, dtype='float32', threads=1, device='here'
  )
  assert row['method'] == 'st3' and row['program'] == 'str_jax'
  assert row['images_per_second'][0] > 0
  assert row['temporary_bytes'] > 1e5 and row['argument_bytes'] > 2e5
  assert 'convnet, batch 8 | st3' in train_step.table([row])


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('name', list(thresholds.PROGRAMS))
def test_thresholds(name, devices, monkeypatch):
  if name.startswith('torch'):
    pytest.importorskip('torch')
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  build, settings = thresholds.PROGRAMS[name]
  program = build(SHAPES, **settings)
  program.run(3)
  weights = np.concatenate([abs(w).ravel() for w in thresholds.draw(SHAPES)])
  if name == 'jnp.quantile':
    expected = np.quantile(weights, 0.9)
  else:
    expected = np.sort(weights)[thresholds.rank(SHAPES) - 1]
  assert program.facts['value'] == pytest.approx(expected, rel=1e-6)
  if 'nothing' in name:
    passes = {1: (10, 11), 8: (29, 31)}[devices]
    assert passes[0] <= program.facts['passes'] <= passes[1]
  if name == thresholds.OURS:
    assert program.facts['passes'] <= {1: 13, 8: 33}[devices]


def test_thresholds_records():
  results = {
    thresholds.OURS: alternate.Result([1.0, 1.0], 0, 0, {'passes': 6}),
    'torch.sort': alternate.Result([2.0, 4.0], 0, 0, {}),
  }
  rows = thresholds.records('net', 10, results, threads=1, device='here')
  assert rows[1]['time_over_ours'] == [3.0, 2.0, 4.0]
  assert '3.00 (2.00-4.00)' in thresholds.table(rows)


def test_one_device_finds_the_same_with_fewer_passes(monkeypatch):
  """With ties, zeros, scales, uses and guesses near and far."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  rng = np.random.default_rng(0)
  tree = [
    rng.normal(size=(7, 5)).astype('f4'),
    np.repeat(np.float32([0.5, -0.5, 0.0]), 9),
    np.float32([1e-30, -3e38, 2e-38]),
  ]
  ordered = np.sort(np.concatenate([abs(w).ravel() for w in tree]))
  kth = jax.jit(lambda k, near: quantile.kth_magnitude(tree, k, near=near))
  plain = jax.jit(lambda k: quantile.kth_magnitude(tree, k))
  for k in range(len(ordered) + 2):
    expected = [0.0, *ordered, np.inf][k]
    assert plain(jnp.int32(k)) == expected
    for near in (0.0, np.inf, np.nan, expected, expected * 1.001, 0.9):
      assert kth(jnp.int32(k), jnp.float32(near)) == expected, (k, near)
  each = quantile.kth_magnitudes(tree, [w.size for w in tree])
  np.testing.assert_array_equal(each, [abs(w).max() for w in tree])
  scales = (0.37, 1.9, 1.0)
  c = np.float32(quantile.kth_magnitude(tree, 40, scales=scales))
  up_to = lambda c: sum(
    (abs(w) <= c * np.float32(s)).sum() for w, s in zip(tree, scales)
  )
  assert up_to(np.nextafter(c, np.float32(0))) < 40 <= up_to(c)
  assert quantile.count_up_to(tree, c, scales=scales) == up_to(c)
  above = [
    (abs(w) / np.float32(s))[abs(w) > c * np.float32(s)]
    for w, s in zip(tree, scales)
  ]
  smallest = np.concatenate(above).min()
  found = float(quantile.next_magnitude(tree, c, scales=scales))
  assert found == pytest.approx(smallest, rel=1e-6)  # XLA's division


def test_counting_on_one_cpu_device_copies_no_weights(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  kernel = jax.ShapeDtypeStruct((128, 256), jnp.float32)
  near = jax.ShapeDtypeStruct((), jnp.float32)
  find = jax.jit(lambda w, c: quantile.kth_magnitude([w], 9, near=c))
  stats = find.lower(kernel, near).compile().memory_analysis()
  assert stats.temp_size_in_bytes < 4 * 128 * 256 / 8


def test_memory():
  row = memory.measure('convnet', 'st3', 8)
  assert row['weight_bytes'] == 4 * 56_800
  assert row['peak_bytes'] > row['state_bytes'] > 2 * row['weight_bytes']
  dense = {**row, 'method': 'dense', 'commit': 'c', 'device': 'd'}
  st3 = {**dense, 'method': 'st3'}
  st3['peak_bytes'] += row['weight_bytes']
  assert '| 1.000 |' in memory.table([dense, st3]).splitlines()[-1]


def test_memory_sees_a_mask():
  kernel = jax.ShapeDtypeStruct((3, 4), jnp.float32)
  state = types.SimpleNamespace(variables={'params': {'kernel': kernel}})
  out = lambda *shape: types.SimpleNamespace(
    out_info={'m': jax.ShapeDtypeStruct(shape, jnp.bool_)}
  )
  assert memory.masks(out(3, 4), state) == [(3, 4)]
  assert memory.masks(out(), state) == []


def test_records_replace_those_with_the_same_key(tmp_path):
  path = tmp_path / 'folder' / 'results.json'
  key = ('what', 'size')
  record.add(path, [{'what': 'a', 'size': 1, 'ms': 3}, {'what': 'b'}], key)
  rows = record.add(path, [{'what': 'a', 'size': 1, 'ms': 4}], key)
  assert rows == record.read(path) == json.loads(path.read_text())
  assert rows == [{'what': 'a', 'size': 1, 'ms': 4}, {'what': 'b'}]
  table = record.markdown(('what', 'ms'), [('a', 4)])
  assert table.splitlines() == ['| what | ms |', '|---|---:|', '| a | 4 |']


def test_an_origin_names_command_commit_machine_and_date():
  origin = record.origin()
  assert set(origin) >= {'command', 'commit', 'date', 'machine', 'versions'}
  assert origin['versions']['jax'] == jax.__version__
  assert record.device()


SHORT = ['--config.total_steps=4', '--config.log_every_steps=2']
SHORT += ['--config.schedule.warmup_steps=0']
EIGHTS = '--config.batch_size=80'  # for the tests' devices


def test_accuracy(tmp_path, monkeypatch):
  start = accuracy.subprocess.run
  monkeypatch.setattr(
    accuracy.subprocess,
    'run',
    lambda command, **options: start([*command, *SHORT], **options),
  )
  config = accuracy.ROOT / 'configs' / 'digits.py'
  run = accuracy.run(config, 'dense', 3, tmp_path)
  assert run['seed'] == 3 and run['steps'] == 4 and 0 < run['top1'] < 1
  assert '| dense | 1 |' in accuracy.table([run])
  assert accuracy.curves([run]).axes


def test_fastgrnn(tmp_path, monkeypatch):
  load = fastgrnn.flags.load_config
  monkeypatch.setattr(
    fastgrnn.flags,
    'load_config',
    lambda spec, overrides: load(spec, [*overrides, *SHORT, EIGHTS]),
  )
  run = fastgrnn.run('learned', 'digits', 3, tmp_path)
  assert run['steps'] == 4 and run['parameters'] > 1000
  assert '| learned | 1 |' in fastgrnn.table([run])


def test_first_seconds():
  first, second = first_seconds.rows_of('digits:str', 1, 2)
  assert first['from_cache'] == [0] and second['from_cache'][0] > 0
  for row in (first, second):
    parts = {part: seconds for part, (seconds,) in row['seconds'].items()}
    assert sum(parts.values()) == pytest.approx(row['total'][0], abs=0.01)
    assert min(parts['import'], parts['first step']) > 0
  assert 'digits:str | second | 2' in first_seconds.table([first, second])
