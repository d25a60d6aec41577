"""Lines and events of a run, and what a resumed run does with earlier ones."""

import contextlib
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

import str_jax
from configs import common
from str_jax.training.metrics import Log
from str_jax.training.writers import Board, distributions


def record(step, loss=0.25):
  return {
    'step': step,
    'loss': loss,
    'accuracy': 0.5,
    'sparsity': 0.125,
    'layer_sparsity': {'stem': 0.1, 'head': 1 / 3},
  }


@contextlib.contextmanager
def open_log(directory, start_step=0):
  log = Log(
    directory,
    common.get_config(),
    start_step=start_step,
    total_steps=9,
    batch_size=8,
  )
  with contextlib.closing(log):
    yield log


@pytest.fixture
def written(tmp_path):
  """Lines at steps 2, 3 (of validation), 4 and 6."""
  with open_log(tmp_path) as log:
    log.train(record(2))
    log.validation({'step': 3, 'loss': 1.5, 'accuracy': 0.75}, began=0.0)
    log.train(record(4, loss=1e-7))
    log.train(record(6))
  return tmp_path


def lines(directory, name='metrics.jsonl'):
  return (directory / name).read_text().splitlines()


def test_lines_after_the_step_are_dropped_and_the_others_kept(written):
  before = lines(written)
  assert [json.loads(line)['kind'] for line in before] == [
    *('train', 'validation', 'train', 'train')
  ]
  for start, kept in ((6, 4), (5, 3), (4, 3), (3, 2), (1, 0)):
    with open_log(written, start):
      pass
    assert lines(written) == before[:kept]
    steps = [json.loads(t)['step'] for t in lines(written, 'timing.jsonl')]
    assert steps == [s for s in (2, 4, 6) if s <= start]
  assert not list(written.glob('*.unfinished'))


@pytest.mark.parametrize('cut', [1, 20, -1])
@pytest.mark.parametrize('name', ['metrics.jsonl', 'timing.jsonl'])
def test_a_last_line_cut_by_a_kill_is_written_anew(written, name, cut):
  before = lines(written)
  path = written / name
  text = path.read_text()
  begin = text.rstrip('\n').rindex('\n') + 1
  end = len(text) - 2 if cut < 0 else begin + cut
  path.write_text(text[:end])
  with open_log(written, start_step=4) as log:
    log.train(record(6))
  assert lines(written) == before
  assert len(lines(written, 'timing.jsonl')) == 3


def test_a_line_without_its_newline_stays_a_line(written):
  before = lines(written)
  path = written / 'metrics.jsonl'
  path.write_text(path.read_text().rstrip('\n'))
  with open_log(written, start_step=6) as log:
    log.train(record(8))
  assert lines(written)[:-1] == before


@pytest.mark.parametrize('bad', ['{"step": 2, "lo', '[]', '\0\0\0', 'ÿ'])
def test_a_damaged_line_in_the_middle_is_named(written, bad):
  path = written / 'metrics.jsonl'
  good = path.read_text().splitlines()
  content = '\n'.join([good[0], bad, *good[2:]]) + '\n'
  path.write_bytes(content.encode('latin-1'))
  with pytest.raises(ValueError, match='line 2 of .*metrics.jsonl') as error:
    with open_log(written, start_step=6):
      pass
  assert '\n' not in str(error.value)
  assert path.read_bytes() == content.encode('latin-1')


def test_time_and_rate_go_on(written):
  path = written / 'timing.jsonl'
  times = [json.loads(line) for line in path.read_text().splitlines()]
  for time, rate in zip(times, (1.0, 500.0, 700.0)):
    time |= {'seconds': 100.0 + time['step'], 'examples_per_second': rate}
  path.write_text(''.join(json.dumps(time) + '\n' for time in times))
  with open_log(written, start_step=6) as log:
    assert 106 <= log.seconds < 107
    assert log.examples_per_second == 700.0  # the first line compiled
  with open_log(written) as log:
    assert log.seconds < 1 and log.examples_per_second is None


def test_validation_does_not_count_as_training(tmp_path, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr('time.perf_counter', lambda: clock[0])
  with open_log(tmp_path) as log:
    clock[0] = 10.0
    log.validation({'step': 2, 'loss': 1.0, 'accuracy': 0.5}, began=4.0)
    log.train(record(2))  # 2 steps of 8 in 4 of the 10 seconds
    clock[0] = 12.0
    log.train(record(3))
  rates = [
    json.loads(line)['examples_per_second']
    for line in lines(tmp_path, 'timing.jsonl')
  ]
  assert rates == [4.0, 4.0]


def events(directory):
  """What TensorBoard shows: values by tag and step; a start drops later ones.

  Returns:
    Lists of (step, value), by tag.
  """
  shown = {}
  for path in sorted((directory / 'tensorboard').iterdir()):
    content = path.read_bytes()
    while content:
      (length,) = struct.unpack('<Q', content[:8])
      event = Event.FromString(content[12 : 12 + length])
      content = content[16 + length :]
      if event.session_log.status == SessionLog.START:
        shown = {
          tag: [(step, x) for step, x in values if step < event.step]
          for tag, values in shown.items()
        }
      for value in event.summary.value:
        shown.setdefault(value.tag, []).append((event.step, value))
  return shown


def test_tensorboard_shows_the_lines(written, monkeypatch):
  """Also of a resumed run, each of them once."""
  monkeypatch.setattr('time.time', lambda: 2e9)  # a file of its own
  with open_log(written, start_step=3) as log:
    log.train(record(4, loss=0.5))
    log.validation({'step': 5, 'loss': 1.0, 'accuracy': 0.5}, began=0.0)
  expected = {}
  for line in map(json.loads, lines(written)):
    kind, step = line.pop('kind'), line.pop('step')
    for layer, number in line.pop('layer_sparsity', {}).items():
      expected.setdefault(f'layer_sparsity/{layer}', []).append((step, number))
    for name, number in line.items():
      expected.setdefault(f'{kind}/{name}', []).append((step, number))
  shown = {
    tag: [(step, value.simple_value) for step, value in values]
    for tag, values in events(written).items()
  }
  rates = shown.pop('train/examples_per_second')
  assert [step for step, _ in rates] == [2, 4]
  assert shown.keys() == expected.keys()
  for tag, values in expected.items():
    assert shown[tag] == pytest.approx(np.array(values), rel=1e-6), tag


def test_histograms(tmp_path):
  arrays = {
    'weights/stem': np.float32([-1.0, 0.0, 0.5, 3.0]),
    'thresholds/stem': np.float32([1e-3]),
    'weights/lost': np.float32([np.nan, np.inf]),
  }
  with open_log(tmp_path) as log:
    log.histograms(arrays, 4)
  shown = events(tmp_path)
  assert shown.keys() == {'weights/stem', 'thresholds/stem'}
  ((step, value),) = shown['weights/stem']
  histogram = value.histo
  assert step == 4 and (histogram.min, histogram.max) == (-1.0, 3.0)
  assert histogram.num == sum(histogram.bucket) == 4 and histogram.sum == 2.5
  assert histogram.bucket_limit[-1] == 3.0 and len(histogram.bucket) == 65
  ((_, value),) = shown['thresholds/stem']  # narrow, where it is
  assert sum(value.histo.bucket) == 1
  assert value.histo.bucket_limit == pytest.approx([1e-3] * 2, rel=2e-3)


def test_distributions_are_of_every_layer():
  method = str_jax.methods.create('str', init_value=0.0, granularity='filter')
  params = {
    'a': {'kernel': jnp.ones((3, 2)), 'bias': jnp.ones(2)},
    'b': {'c': {'kernel': jnp.zeros((2, 2))}},
  }
  variables = str_jax.add_thresholds(method, {'params': params})
  arrays = distributions(method, variables)
  assert {tag: array.shape for tag, array in arrays.items()} == {
    'weights/a': (6,),
    'weights/b/c': (4,),
    'thresholds/a': (2,),
    'thresholds/b/c': (2,),
  }
  assert (arrays['thresholds/a'] == 0.5).all()
  dense = distributions(None, {'params': params})
  assert list(dense) == ['weights/a', 'weights/b/c']


def test_the_table_of_hyper_parameters(tmp_path):
  config = common.get_config()
  config.update_from_flattened_dict(
    {'seed': 3, 'method.sparsity': 0.9, 'schedule.boundaries_epochs': (1, 2)}
  )
  board = Board(tmp_path / 'tensorboard', 1)
  board.finish(config, {'top1': 0.5, 'sparsity': 0.25, 'flops': None}, 7)
  board.close()
  shown = events(tmp_path)
  assert [(s, v.simple_value) for s, v in shown['top1']] == [(7, 0.5)]
  assert [(s, v.simple_value) for s, v in shown['sparsity']] == [(7, 0.25)]
  parts = {
    tag: HParamsPluginData.FromString(values[0][1].metadata.plugin_data.content)
    for tag, values in shown.items()
    if tag.startswith('_hparams_/')
  }
  assert len(parts) == 3
  given = parts['_hparams_/session_start_info'].session_start_info.hparams
  assert given['seed'].number_value == 3
  assert given['method.sparsity'].number_value == 0.9
  assert given['method.name'].string_value == 'dense'
  assert given['optimizer.coupled'].bool_value is True
  assert given['schedule.boundaries_epochs'].string_value == '[1, 2]'
  assert 'method.target' not in given
  experiment = parts['_hparams_/experiment'].experiment
  kinds = {info.name: info.type for info in experiment.hparam_infos}
  # Unset ones too, as another run may set them: 1 text, 2 truth, 3 number.
  assert kinds['method.target'] == 3 and kinds['method.budget'] == 1
  assert kinds['method.hard'] == 2 and given.keys() < kinds.keys()
  metrics = [info.name.tag for info in experiment.metric_infos]
  assert metrics == ['top1', 'sparsity']


def test_a_run_leaves_them_all(recorded):
  run = recorded('str')
  shown = events(run.directory)
  layers = [layer['name'] for layer in run.summary['layers']]
  for tag in [f'{k}/{x}' for k in ('weights', 'thresholds') for x in layers]:
    assert [step for step, _ in shown[tag]] == [5, 10, 15, 20], tag
  for name in ('top1', 'sparsity', 'flops'):
    ((step, value),) = shown[name]
    assert step == 20
    assert value.simple_value == pytest.approx(run.summary[name])
  assert '_hparams_/experiment' in shown
