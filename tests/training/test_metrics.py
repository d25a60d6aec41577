"""What a resumed run does with the lines that are there already."""

import contextlib
import json

import pytest

from str_jax.training.metrics import Log


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
  log = Log(directory, start_step=start_step, total_steps=9, batch_size=8)
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
