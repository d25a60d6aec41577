"""What happens to a run, and that nothing is lost by it.

More of it, and the full length: benchmarks/faults.py and benchmarks/soak.py.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks import processes, record, trials
from str_jax.training import loop, workdir
from str_jax.training.checkpoint import Checkpoints
from str_jax.training.metrics import Log

pytestmark = pytest.mark.usefixtures('quick')

CONFIG = """
from configs import common

def get_config(variant=None):
  config = common.get_config()
  with config.unlocked():
    config.model.widths = (4, 8)
  config.update_from_flattened_dict({fields!r})
  return config
"""


@pytest.fixture
def command(tmp_path):
  """From a config to the arguments of main.py that train it at tmp_path."""

  def make(config):
    fields = {
      f'{name}.{part}' if part else name: value
      for name, values in json.loads(config.to_json()).items()
      for part, value in (
        values.items() if isinstance(values, dict) else [('', values)]
      )
      if value is not None and part not in ('widths', 'boundaries_epochs')
    }
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(fields=fields))
    return [f'--config={path}', f'--workdir={tmp_path / "run"}']

  return make


@contextlib.contextmanager
def room(size):
  """Files take no more than so many bytes, as if the disk were full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def saved_at_once(monkeypatch):
  """No save goes on in the background."""
  save = Checkpoints.save

  def waiting(checkpoints, *args):
    save(checkpoints, *args)
    checkpoints._wait()

  monkeypatch.setattr(Checkpoints, 'save', waiting)


def sentence(error):
  text = str(error.value)
  assert '\n' not in text and len(text) < 400
  return text


def test_a_disk_full_in_a_save(
  recorded, saved_at_once, tmp_path, assert_same_run
):
  run, save = recorded('str'), Checkpoints.save

  def full(checkpoints, state, *args):
    with room(100) if int(state.step) == 8 else contextlib.nullcontext():
      save(checkpoints, state, *args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Checkpoints, 'save', full)
    with pytest.raises(OSError, match='could not be saved') as error:
      loop.train(run.config, tmp_path / 'run')
  text = sentence(error)
  assert '(File too large)' in text and 'free space' in text
  assert str(tmp_path / 'run' / 'checkpoints') in text
  # The process would end here, and its threads with it; other parts than the
  # one that failed may be saved by now, which is never taken for the whole.
  for thread in threading.enumerate():
    if type(thread).__module__.startswith('orbax'):
      thread.join(30)
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)


def test_a_disk_full_in_a_line(
  recorded, saved_at_once, tmp_path, assert_same_run
):
  run, train = recorded('str'), Log.train
  metrics = tmp_path / 'run' / 'metrics.jsonl'

  with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as limit:

    def full(log, record):
      if record['step'] == 9:
        limit.enter_context(room(metrics.stat().st_size + 10))
      train(log, record)

    patch.setattr(Log, 'train', full)
    with pytest.raises(OSError, match='cannot be written') as error:
      loop.train(run.config, tmp_path / 'run')
  assert str(metrics) in sentence(error)
  assert not metrics.read_bytes().endswith(b'\n')  # a piece of the line
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)


def test_a_disk_too_full_for_tensorboard(recorded, tmp_path, assert_same_run):
  """Its events are an extra, and never hold up a run."""
  run, train = recorded('str'), Log.train

  def full(log, record):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(
        log._board._file,
        'write_event',
        lambda event: open('/dev/full', 'wb').write(b'x' * 10**6),
      )
      train(log, record)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Log, 'train', full)
    summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)


def test_a_second_run_names_the_first(recorded, tmp_path):
  config = recorded('str').config
  workdir.claim(tmp_path, config)
  with workdir.held(tmp_path):
    with pytest.raises(ValueError, match='in use') as error:
      loop.train(config, tmp_path)
    assert f'by process {os.getpid()} on ' in sentence(error)
  assert not (tmp_path / 'checkpoints').exists()
  with workdir.held(tmp_path):  # free again
    pass


def test_a_folder_whose_lock_cannot_be_made(recorded, tmp_path):
  run = recorded('str')
  (tmp_path / 'run' / 'lock').mkdir(parents=True)
  with pytest.raises(ValueError, match='--workdir .* cannot be') as error:
    loop.train(run.config, tmp_path / 'run')
  assert 'choose another --workdir' in sentence(error)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_clock_that_jumps(
  recorded, saved_at_once, tmp_path, monkeypatch, assert_same_run
):
  """By a day, ahead and back: between saves, and once within one."""
  run, save, now = recorded('str'), Checkpoints.save, time.time
  day = 24 * 3600
  clock = {'ahead': 0, 'jumps within': 8}

  def jump():  # at every look: of any two of Orbax's a day apart
    clock['ahead'] += day
    return clock['ahead']

  def saving(checkpoints, state, *args):
    within = int(state.step) == clock['jumps within']
    clock['ahead'] = 0
    ahead = jump if within else lambda: clock['ahead']
    monkeypatch.setattr(time, 'time', lambda: now() + ahead())
    save(checkpoints, state, *args)
    clock['ahead'] = day

  monkeypatch.setattr(Checkpoints, 'save', saving)
  # Orbax takes it that the save has hung for a day.
  with pytest.raises(OSError, match='could not be saved .*timed out') as error:
    loop.train(run.config, tmp_path / 'failed')
  sentence(error)
  clock['jumps within'] = None
  # Its threads live on with this process, and may still write.
  unfinished = shutil.ignore_patterns('*.orbax-checkpoint-tmp*')
  shutil.copytree(tmp_path / 'failed', tmp_path / 'run', ignore=unfinished)
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)
  assert 0 < summary['seconds'] < 600


def test_kill_9_at_two_moments(recorded, command, tmp_path, assert_same_run):
  """At any: while it starts, compiles, trains or writes its report."""
  run = recorded('str')
  arguments = command(run.config)
  for _ in range(2):
    (process,) = processes.start(arguments, devices=8)
    time.sleep(random.uniform(1, 5))
    process.kill()
    code, output = trials.end(process)
    assert code == -signal.SIGKILL or 'test accuracy' in output, output
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)


def test_sigterm_to_one_process_of_two(make_config, command, tmp_path):
  config = make_config('str', total_steps=2000, log_every_steps=10)
  both = processes.start(command(config), processes=2)
  trials.reach(both[0], 10, 2000)
  both[1].send_signal(signal.SIGTERM)
  (code, output), other = [trials.end(p, 60) for p in both]
  assert code == 0 and other[0] == 0, output
  (said,) = trials.sentences(output, tmp_path)
  step = int(said.split('at step ')[1].split(';')[0])
  assert said.startswith('stopped by SIGTERM') and 10 <= step < 1000
  run = loop.Run(config, tmp_path / 'run')
  with contextlib.closing(run.checkpoints):
    _, state = run.start()
  assert int(state.step) == step


HUSHED = """
import asyncio
from absl import logging
from str_jax.training import console

console.hush_libraries()
try:
  raise ValueError('not shown')
except ValueError:
  logging.exception('not shown')
logging.error('shown')
loop = asyncio.new_event_loop()
loop.close()
try:
  loop.call_soon_threadsafe(print)
except RuntimeError as late:
  import sys, types
  sys.unraisablehook(types.SimpleNamespace(exc_value=late, object=None))
"""


def test_what_libraries_print_of_errors_that_are_raised_too():
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', HUSHED],
    capture_output=True,
    text=True,
    cwd=record.ROOT,
  )
  lines = done.stderr.splitlines()
  assert done.returncode == 0 and len(lines) == 1, done.stderr
  assert lines[0].endswith('shown') and 'not shown' not in lines[0]
