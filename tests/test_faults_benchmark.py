"""The benchmarks of faults and of the soak: what they see, and what they do."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import fault_causes, faults, record, soak, trials


@pytest.fixture
def checkpoint(tmp_path):
  """A folder like a checkpoint's."""
  for name, size in {
    'default/d/1': 100,
    'default/ocdbt.process_0/d/2': 1000,
    'default/manifest.ocdbt': 50,
    'metrics/metrics': 40,
  }.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(10)) * (size // 10))
  return tmp_path


def content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(
  'damage, name, size',
  [
    (fault_causes.truncate, 'default/ocdbt.process_0/d/2', 500),
    (fault_causes.flip_arrays, 'default/ocdbt.process_0/d/2', 1000),
    (fault_causes.flip_metrics, 'metrics/metrics', 40),
    (fault_causes.flip_manifest, 'default/manifest.ocdbt', 50),
  ],
)
def test_a_damage_changes_one_file(damage, name, size, checkpoint):
  before = content(checkpoint)
  damage(checkpoint)
  after = content(checkpoint)
  assert [k for k in before if before[k] != after[k]] == [name]
  assert len(after[name]) == size


def test_an_emptied_folder_stays(checkpoint):
  fault_causes.empty(checkpoint)
  assert checkpoint.is_dir() and not any(checkpoint.iterdir())


def test_where_two_files_part(tmp_path):
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  theirs.write_text('1\n2\n3\n')
  assert trials.equal(ours, theirs) == 'missing'
  for text, said in {
    '1\n2\n3\n': 'equal',
    '1\n9\n3\n': 'differs from line 2 on (3 and 3 lines)',
    '1\n2\n': 'differs from line 3 on (2 and 3 lines)',
    '1\n2\n3': 'differs from line 4 on (3 and 3 lines)',
  }.items():
    ours.write_text(text)
    assert trials.equal(ours, theirs) == said


def test_a_traceback_is_noticed(tmp_path):
  output = 'step 1/3 ok\nTraceback (most recent call last):\nKeyError: 1\n'
  assert trials.sentences(output, tmp_path) == ['TRACEBACK: KeyError: 1']
  assert trials.went_on('step 1/3') == '0'
  assert trials.went_on('x holds a finished run of 3 steps') == 'finished'


def program(*lines, seconds=0.0):
  """A process that prints lines, then waits."""
  source = f'import time\nfor x in {lines!r}: print(x, flush=True)\n'
  return subprocess.Popen(
    [sys.executable, '-c', source + f'time.sleep({seconds})'],
    stdout=subprocess.PIPE,
    text=True,
  )


def test_a_step_is_waited_for():
  process = program('step  1/30  a', 'step 10/30  b', 'step 20/30  c')
  assert 'step 20' not in trials.reach(process, 10, 30)
  code, rest = trials.end(process)
  assert code == 0 and rest.endswith('step 20/30  c\n')
  process = program('step  1/30  a')
  with pytest.raises(RuntimeError, match='ended before step 10'):
    trials.reach(process, 10, 30)


def test_one_that_hangs_is_ended():
  code, output = trials.end(program('x', seconds=60), timeout=0.5)
  assert code == 124 and output == 'x\n'


def test_a_row_holds_a_run_against_the_untouched(tmp_path, monkeypatch):
  """The runs are made up: one ends in an error, then goes on."""
  monkeypatch.setattr(record, 'RESULTS', tmp_path)
  monkeypatch.setattr(faults, 'RESULTS', tmp_path / 'faults.json')
  said = {'untouched-1': 'fine', '7': 'goes on from step 25 of 300\n'}

  def run(trial, processes):
    (trial.workdir / 'checkpoints' / '0').mkdir(parents=True, exist_ok=True)
    (trial.workdir / 'metrics.jsonl').write_text('1\n')
    return [(0, said[trial.folder.name])] * processes

  monkeypatch.setattr(trials.Trial, 'run', run)
  trial = trials.Trial(tmp_path / '7')
  cause = lambda t: [(2, f'error: {t.workdir} is full.')]
  found = faults.faced(trial, cause, faults.Untouched(tmp_path))
  assert found == {
    'exit code': '2',
    'said': 'error: DIR/run is full.',
    'went on from': '25',
    'metrics.jsonl': 'equal',
    'checkpoints': '0',
    'exit code again': '0',
  }
  faults.keep('a fault', found)
  text = (tmp_path / 'faults.md').read_text()
  assert '| a fault | 2 | error: DIR/run is full. | 25 | equal | 0 |' in text
  assert '1 of 1 runs end with' in text


def test_a_watch_sees_steps_and_processes():
  process = program('step  10/30  loss 1', 'step 20/30  loss 1', seconds=60)
  watch = soak.Watch(process)
  try:
    watch.until(20)
    watch._sample()  # the first may be of a program that has yet to start
    assert watch.alive() == [process.pid]
  finally:
    process.kill()
  assert watch.close() < 0 and watch.step == 20 and watch.alive() == []
  # Nor is it the last, which may be of a process that has just been killed.
  sample = max(watch.samples, key=lambda sample: sample.mb)
  assert 1 < sample.mb < 200 and sample.threads >= 1 and sample.processes == 1


def test_growth_is_measured_once_a_leg_has_settled():
  samples = [
    soak.Sample(step, 900 if step < 50 else 100 + step / 100, 9, 5, 2)
    for step in range(0, 400, 10)
  ]
  found = soak.measured(samples)
  assert found['MB per 1,000 steps'] == pytest.approx(10)
  assert found['peak MB'] == 900 and found['median MB'] == 102
  assert soak.measured(samples[:4])['MB per 1,000 steps'] is None


def test_the_soak_is_drawn_and_told(tmp_path):
  samples = [soak.Sample(s, 100.0, 9, 5, 2) for s in range(0, 400, 10)]
  leg = {'from': 0, 'to': 390, 'exit code': 0} | soak.measured(samples)
  leg |= {'gone after s': 0, 'processes left': 0, 'shared memory left': 0}
  row = {'steps': 400, 'metrics.jsonl': 'equal', 'files': 'the same'}
  row['legs'] = [leg, leg, leg]
  text = soak.table([json.loads(json.dumps(row))])
  assert text.count('| 390 |') == 3 and '100 to 100 MB' in text
  assert soak.picture(row).count('<svg') == 1


def test_names_of_files_are_compared(tmp_path):
  for run in ('a', 'b'):
    (tmp_path / run / 'checkpoints' / '0').mkdir(parents=True)
  assert soak.compared(tmp_path / 'a', tmp_path / 'b') == 'the same'
  (tmp_path / 'a' / 'checkpoints' / '5.orbax-checkpoint-tmp').mkdir()
  left = soak.compared(tmp_path / 'a', tmp_path / 'b')
  assert left == os.path.join('checkpoints', '5.orbax-checkpoint-tmp')
