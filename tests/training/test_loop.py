"""Runs that are stopped, killed and resumed, and what a run leaves."""

import contextlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from str_jax import data
from str_jax.training import finish, imp, loop, records
from str_jax.training import stage as stages

pytestmark = pytest.mark.usefixtures('quick')
ROOT = pathlib.Path(__file__).parents[2]


def stop_at(monkeypatch, steps, stop):
  """Calls a function while each of these steps is made, once."""
  state = {'step': None, 'left': list(steps)}

  def stopping(placement, batches):
    for batch in batches:
      state['step'] += 1
      if state['left'] and state['step'] == state['left'][0]:
        state['left'].pop(0)
        stop()
      yield placement.put(batch)

  train_phase = loop.Run.train_phase

  def counting_train_phase(run, stage, at, *args):
    state['step'] = int(at.step)
    return train_phase(run, stage, at, *args)

  monkeypatch.setattr(stages.Placement, 'ahead', stopping)
  monkeypatch.setattr(loop.Run, 'train_phase', counting_train_phase)
  return state['left']


@pytest.mark.parametrize('method', ['dense', 'str', 'st3'])
def test_an_exception_at_some_steps_changes_nothing(
  method, recorded, tmp_path, monkeypatch, assert_same_run
):
  run = recorded(method)

  def fail():
    raise RuntimeError('a cable was pulled')

  left = stop_at(monkeypatch, [1, 6, 10, 18], fail)
  while left:
    with pytest.raises(RuntimeError, match='cable'):
      loop.train(run.config, tmp_path / 'run')
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)


@pytest.mark.parametrize(
  'method, step',
  [('str', s) for s in (1, 5, 14, 20)] + [('st3', s) for s in (12, 13, 16)],
)
def test_what_a_kill_leaves_is_gone_on_from(
  method, step, recorded, tmp_path, assert_same_run
):
  run = recorded(method)
  directory = run.at(step, tmp_path / 'run')
  assert not (directory / 'summary.json').exists()
  assert_same_run(directory, loop.train(run.config, directory), run)


KILLED = """
import sys, pathlib
import jax
jax.config.update('jax_num_cpu_devices', 8)
from configs import common
from str_jax.training import loop
config = common.get_config()
with config.unlocked():
  config.model.widths = (4, 8)
config.update_from_flattened_dict(eval(sys.argv[2]))
loop.train(config, pathlib.Path(sys.argv[1]))
"""


def test_kill_9_of_a_process(recorded, tmp_path, assert_same_run):
  run = recorded('str')
  directory = tmp_path / 'run'
  fields = {
    f'{k}.{part}' if part else k: value
    for k, values in json.loads(run.config.to_json()).items()
    for part, value in (
      values.items() if isinstance(values, dict) else [('', values)]
    )
    if value is not None and part not in ('widths', 'boundaries_epochs')
  }
  process = subprocess.Popen(
    [sys.executable, '-c', KILLED, str(directory), repr(fields)],
    stdout=subprocess.PIPE,
    cwd=ROOT,
    text=True,
  )
  wanted = random.randint(1, 4)
  lines = 0
  for line in process.stdout:
    lines += line.startswith('step')
    if lines == wanted:
      break
  time.sleep(random.uniform(0, 0.05))
  process.kill()
  rest = process.stdout.read()
  assert process.wait() == -signal.SIGKILL, rest
  assert not (directory / 'summary.json').exists()
  assert_same_run(directory, loop.train(run.config, directory), run)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(
  number, recorded, tmp_path, monkeypatch, capsys, assert_same_run
):
  run = recorded('st3')
  before = signal.getsignal(number)
  # The step before the frozen phase, its last and first, and one within.
  steps = [7, 11, 12, 13, 18]
  left = stop_at(monkeypatch, steps, lambda: os.kill(os.getpid(), number))
  for step in steps:
    with pytest.raises(SystemExit) as stopped:
      loop.train(run.config, tmp_path / 'run')
    assert stopped.value.code == 0
    assert f'stopped by {number.name} at step {step}' in capsys.readouterr().out
    assert (tmp_path / 'run' / 'checkpoints' / str(step)).is_dir()
    assert signal.getsignal(number) is before
  assert not left
  summary = loop.train(run.config, tmp_path / 'run')
  assert 'goes on from step 18 of 18' in capsys.readouterr().out
  assert_same_run(tmp_path / 'run', summary, run)


@pytest.mark.parametrize('method', ['dense', 'str', 'st3'])
def test_a_run_killed_before_its_summary(
  method, recorded, tmp_path, assert_same_run
):
  run = recorded(method)
  shutil.copytree(run.directory, tmp_path / 'run')
  (tmp_path / 'run' / 'summary.json').unlink()
  summary = loop.train(run.config, tmp_path / 'run')
  assert_same_run(tmp_path / 'run', summary, run)
  assert summary['seconds'] > 0 and summary['examples_per_second'] > 0


def test_a_finished_run_is_left_alone(recorded, capsys):
  run = recorded('str')

  def look():
    return {
      path: path.stat().st_mtime_ns for path in run.directory.rglob('*')
    } | {run.directory: run.directory.stat().st_mtime_ns}

  before = look()
  summary = loop.train(run.config, run.directory)
  assert look() == before
  written = json.loads((run.directory / 'summary.json').read_text())
  assert summary == written == run.summary
  printed = capsys.readouterr().out
  assert 'finished run of 20 steps; nothing was changed' in printed
  assert f'test accuracy {summary["top1"]:.2%}' in printed


def test_what_a_run_leaves(recorded):
  run = recorded('st3')
  left = {path.name for path in run.directory.iterdir()}
  assert left == {
    *('config.json', 'summary.json', 'metrics.jsonl', 'timing.jsonl'),
    *('checkpoints', 'tensorboard', 'lock'),
  }
  assert list((run.directory / 'tensorboard').glob('events.*'))
  summary = run.summary
  assert summary['steps'] == 18 and summary['method'].startswith('ST3')
  assert summary['sparsity'] == pytest.approx(0.8, abs=2e-3)
  assert summary['nonzero'] == sum(x['nonzero'] for x in summary['layers'])
  times = records.read_lines(run.directory / 'timing.jsonl')
  assert [t['step'] for t in times] == [3, 6, 9, 12, 15, 18]


def test_the_seed_makes_the_run(
  recorded, make_config, tmp_path, assert_same_run
):
  run = recorded('dense')
  again = loop.train(run.config, tmp_path / 'again')
  assert_same_run(tmp_path / 'again', again, run)
  loop.train(make_config(seed=1), tmp_path / 'other')
  other = (tmp_path / 'other' / 'metrics.jsonl').read_bytes()
  for mine, theirs in zip(run.lines.splitlines(), other.splitlines()):
    assert json.loads(mine)['loss'] != json.loads(theirs)['loss']


def test_a_log_line_is_the_mean_since_the_last(recorded, tmp_path, make_config):
  """Also the last one, whose 2 steps are fewer than log_every_steps."""
  run = recorded('str')
  loop.train(make_config('str', log_every_steps=1), tmp_path)
  each = records.read_lines(tmp_path / 'metrics.jsonl')
  lines = records.read_lines(run.directory / 'metrics.jsonl')
  validation = [r for r in lines if r['kind'] == 'validation']
  assert [r['step'] for r in validation] == [5, 10, 15, 20]
  assert validation == [r for r in each if r['kind'] == 'validation']
  each = [r for r in each if r['kind'] == 'train']
  lines = [r for r in lines if r['kind'] == 'train']
  assert [r['step'] for r in lines] == [3, 6, 9, 12, 15, 18, 20]
  last = 0
  for line in lines:
    since = each[last : line['step']]
    for name in ('loss', 'accuracy', 'grad_norm'):
      mean = sum(r[name] for r in since) / len(since)
      assert line[name] == pytest.approx(mean, rel=1e-6), name
    for name in ('learning_rate', 'sparsity', 'layer_threshold'):
      assert line[name] == since[-1][name], name
    last = line['step']
  # The rate of update number t + 1, t made before it: cosine over 20 steps.
  rates = [0.05 * (1 + math.cos(math.pi * t / 20)) for t in range(20)]
  assert [r['learning_rate'] for r in each] == pytest.approx(rates, rel=1e-5)


def test_the_frozen_phase_keeps_its_zeros_and_its_rate(recorded):
  lines = records.read_lines(recorded('st3').directory / 'metrics.jsonl')
  after = [r for r in lines if r['kind'] == 'train' and r['step'] > 12]
  assert [r['step'] for r in after] == [15, 18]
  for line in after:
    assert line['learning_rate'] == pytest.approx(0.05)
    assert line['sparsity'] == pytest.approx(0.8, abs=2e-3)
    assert line['layer_threshold'] == after[0]['layer_threshold']


@pytest.mark.parametrize('batch_size', [1, 7, 256])
def test_every_example_is_evaluated_once(
  batch_size, recorded, make_config, tmp_path
):
  config = make_config('str', eval_batch_size=batch_size)
  shutil.copytree(recorded('str').directory, tmp_path / 'run')
  run = loop.Run(config, tmp_path / 'run')
  with contextlib.closing(run.checkpoints):
    stage, state = run.restore(20)
  result = run.evaluate(stage, state.variables, 'test')
  source = run.dataset.splits['test']
  images = np.stack([source[i]['image'] for i in range(len(source))])
  labels = np.array([source[i]['label'] for i in range(len(source))])
  images = (images - run.dataset.mean[0]) / run.dataset.std[0]
  logits = stage.model.apply(state.variables, images.astype(np.float32))
  logits = np.asarray(logits, np.float64)
  log_sum = np.log(np.exp(logits).sum(1))
  loss = np.mean(log_sum - logits[np.arange(len(labels)), labels])
  assert result['examples'] == len(labels) == 360
  assert result['accuracy'] == np.mean(logits.argmax(1) == labels)
  assert result['loss'] == pytest.approx(loss, rel=1e-5)
  assert recorded('str').summary['top1'] == result['accuracy']


@pytest.fixture
def diverging(make_config):
  """Its rate leaps to 1e20 in step 7: some later step is not finite."""

  def make(**fields):
    leap = {'schedule.boundaries_epochs': (6 / 19,), 'schedule.factor': 1e21}
    return make_config('dense', **leap, schedule__name='multistep', **fields)

  return make


def test_nan_stops_the_run_and_is_never_saved(diverging, tmp_path):
  with pytest.raises(ValueError, match='finite numbers at step') as error:
    loop.train(diverging(log_every_steps=1), tmp_path / 'often')
  step = int(re.search(r'at step (\d+)', str(error.value))[1])
  assert 7 <= step < 10
  # Seen first by the evaluation at step 10, before it writes a line.
  config = diverging(log_every_steps=20, checkpoint_every_steps=6)
  for _ in range(2):  # the same command again meets it again
    with pytest.raises(ValueError, match=f'at step {step};') as error:
      loop.train(config, tmp_path / 'seldom')
    assert '\n' not in str(error.value)
    lines = (tmp_path / 'seldom' / 'metrics.jsonl').read_text()
    assert 'NaN' not in lines and '"step": 10' not in lines
  run = loop.Run(config, tmp_path / 'seldom')
  with contextlib.closing(run.checkpoints):
    last = run.checkpoints.find('last')
    assert last == 6 < step
    stage, state = run.restore(last)

  def is_finite(state):
    leaves = jax.tree.leaves((state.variables, state.opt_state))
    return all(np.isfinite(leaf).all() for leaf in leaves)

  batches = data.train_batches(
    run.dataset, config.batch_size, seed=config.seed, start_step=last
  )
  for at in range(last + 1, step + 1):
    assert is_finite(state), at
    state = stage.train_step(state, run.placement.put(next(batches)))
  assert int(state.first_nonfinite) == step


def test_a_network_with_dead_layers_says_so(recorded, tmp_path, capsys):
  summary = json.loads(json.dumps(recorded('st3').summary))
  finish.show(summary, tmp_path)
  assert 'no weight left' not in capsys.readouterr().out
  for row in summary['layers'][:2]:
    row['nonzero'] = 0
  doctor = 'python -m str_jax doctor'
  finish.show(summary, tmp_path / 'a run')
  said = f"2 layers have no weight left: {doctor} '{tmp_path}/a run' says why\n"
  assert said in capsys.readouterr().out
  summary['layers'][0]['nonzero'] = 1
  row = {name: summary[name] for name in imp._ROW}
  finish.show(summary | {'rounds': [row, row]}, tmp_path)
  said = f'1 layer has no weight left: {doctor} {tmp_path}/round-1 says why\n'
  assert said in capsys.readouterr().out


def test_the_end_of_a_run_names_its_dead_layers(make_config, tmp_path, capsys):
  config = make_config('str', method__target_nonzero=1, method__end_steps=8)
  assert loop.train(config, tmp_path / 'run')['nonzero'] == 1
  printed = capsys.readouterr().out
  assert '2 layers have no weight left: ' in printed
  assert f'doctor {tmp_path}/run says why' in printed
