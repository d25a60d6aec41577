"""Which checkpoints stay, and what becomes of damaged ones."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax.training import checkpoint, loop
from str_jax.training.state import State

pytestmark = [
  pytest.mark.usefixtures('quick'),
  # Orbax 0.12.8: other reads of a damaged folder end after their event loop.
  pytest.mark.filterwarnings('ignore:Exception ignored:pytest.PytestWarning'),
]


def steps(directory):
  return sorted(int(p.name) for p in (directory / 'checkpoints').iterdir())


@pytest.fixture
def scripted(monkeypatch):
  """Accuracies on validation by step, in place of evaluations."""

  def script(accuracies, crash_at=None):
    log_validation, evaluate = loop.Run.log_validation, loop.Run.evaluate
    at = []

    def noting(run, stage, state, log):
      at.append(int(state.step))
      if at[-1] == crash_at and at.count(crash_at) == 1:
        raise RuntimeError('crash')
      return log_validation(run, stage, state, log)

    def scripted_evaluate(run, stage, variables, split):
      if split == 'validation':
        return {'loss': 1.0, 'accuracy': accuracies[at[-1]], 'examples': 240.0}
      return evaluate(run, stage, variables, split)

    monkeypatch.setattr(loop.Run, 'log_validation', noting)
    monkeypatch.setattr(loop.Run, 'evaluate', scripted_evaluate)

  return script


# Checkpoints are due every 4 steps and at evaluations, every 5 and at the end
# of a phase. ST-3 has its sparsity from step 8 on and trains to 12, then 18;
# STR may call one the best from step 18 of 20 on.
@pytest.mark.parametrize(
  'method, accuracies, best, kept',
  [
    ('dense', (0.2, 0.9, 0.3, 0.4), 10, [0, 10, 16, 20]),
    ('dense', (0.2, 0.3, 0.9, 0.4), 15, [0, 15, 16, 20]),
    ('str', (0.9, 0.8, 0.7, 0.1), 20, [0, 16, 20]),
    ('st3', (0.9, 0.4, 0.5, 0.3, 0.2), 12, [0, 12, 16, 18]),
    ('st3', (0.9, 0.5, 0.4, 0.3, 0.2), 10, [0, 10, 16, 18]),
  ],
)
@pytest.mark.parametrize('crash', [False, True])
def test_initial_last_two_and_best_stay(
  method, accuracies, best, kept, crash, make_config, scripted, tmp_path
):
  config = make_config(method)
  at = (5, 10, 12, 15, 18) if method == 'st3' else (5, 10, 15, 20)
  by_step = dict(zip(at, accuracies))
  scripted(by_step, crash_at=15 if crash else None)
  with pytest.raises(RuntimeError) if crash else contextlib.nullcontext():
    loop.train(config, tmp_path)
  summary = loop.train(config, tmp_path)  # goes on, or shows what it found
  assert steps(tmp_path) == kept
  assert summary['best_step'] == best
  assert summary['best_validation_top1'] == by_step[best]
  assert summary['best_top1'] is not None


def test_without_validation_nothing_is_best(make_config, tmp_path):
  summary = loop.train(make_config(validation=0), tmp_path)
  assert summary['best_step'] is summary['best_top1'] is None
  assert steps(tmp_path) == [0, 16, 20]
  assert '"validation"' not in (tmp_path / 'metrics.jsonl').read_text()


def test_a_checkpoint_by_name(recorded):
  directory = recorded('st3').directory / 'checkpoints'
  with contextlib.closing(checkpoint.Checkpoints(directory)) as checkpoints:
    assert checkpoints.find('last') == 18
    assert checkpoints.find('best') == recorded('st3').summary['best_step']
    assert checkpoints.find('16') == 16
    for wrong in ('17', '-1', 'newest'):
      with pytest.raises(FileNotFoundError, match=f"no checkpoint '{wrong}'"):
        checkpoints.find(wrong)


@pytest.fixture(scope='module')
def stopped(recorded, tmp_path_factory):
  """A folder without its summary, checkpoints of steps 16 and 20 the last."""
  directory = tmp_path_factory.mktemp('stopped') / 'run'
  shutil.copytree(recorded('str').directory, directory)
  (directory / 'summary.json').unlink()
  assert steps(directory) == [0, 16, 20]
  return directory


def biggest(folder):
  files = [p for p in folder.rglob('*') if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def overwrite(path, change):
  path.write_bytes(change(path.read_bytes()))


def cut(content):
  return content[: len(content) // 2]


def flip(content):
  middle = len(content) // 2
  bad = bytes(b ^ 0x41 for b in content[middle : middle + 4])
  return content[:middle] + bad + content[middle + 4 :]


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


DAMAGES = {
  'cut': lambda f: overwrite(biggest(f / 'default' / 'd'), cut),
  'flipped': lambda f: overwrite(biggest(f / 'default' / 'd'), flip),
  'missing': lambda f: biggest(f / 'default' / 'd').unlink(),
  'empty': empty,
  'metrics cut': lambda f: overwrite(f / 'metrics' / 'metrics', cut),
  'metrics flipped': lambda f: overwrite(f / 'metrics' / 'metrics', flip),
  'metrics missing': lambda f: (f / 'metrics' / 'metrics').unlink(),
  'metrics bare': lambda f: (f / 'metrics' / 'metrics').write_text('{}'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
  damage, stopped, recorded, tmp_path, capsys, assert_same_run
):
  run, directory = recorded('str'), tmp_path / 'run'
  shutil.copytree(stopped, directory)
  DAMAGES[damage](directory / 'checkpoints' / '20')
  summary = loop.train(run.config, directory)
  printed = capsys.readouterr().out
  assert f'{directory}/checkpoints/20 cannot be read' in printed
  assert f'moved to {directory}/unreadable/20;' in printed
  assert 'goes on from step 16 of 20' in printed
  assert (directory / 'unreadable' / '20').is_dir()
  assert_same_run(directory, summary, run)
  assert steps(directory) == [0, 16, 20]


def test_what_a_kill_left_unfinished_is_cleared_away(
  stopped, recorded, tmp_path, assert_same_run
):
  run, directory = recorded('str'), tmp_path / 'run'
  shutil.copytree(stopped, directory)
  checkpoints = directory / 'checkpoints'
  for name in ('7.orbax-checkpoint-tmp', '20.orbax-checkpoint-tmp-1234'):
    shutil.copytree(checkpoints / '16', checkpoints / name)
  assert_same_run(directory, loop.train(run.config, directory), run)
  assert not (directory / 'unreadable').exists()


def test_the_initial_one_is_gone_back_to_at_last(
  stopped, recorded, tmp_path, assert_same_run
):
  run, directory = recorded('str'), tmp_path / 'run'
  shutil.copytree(stopped, directory)
  for step in (16, 20):
    DAMAGES['missing'](directory / 'checkpoints' / str(step))
  (directory / 'unreadable' / '20').mkdir(parents=True)  # from before
  assert_same_run(directory, loop.train(run.config, directory), run)
  unreadable = {p.name for p in (directory / 'unreadable').iterdir()}
  assert unreadable == {'16', '20', '20.1'}


def test_all_damaged_is_an_error_that_stays(stopped, recorded, tmp_path):
  directory = tmp_path / 'run'
  shutil.copytree(stopped, directory)
  for step, damage in ((0, 'cut'), (16, 'flipped'), (20, 'metrics cut')):
    DAMAGES[damage](directory / 'checkpoints' / str(step))
  before = (directory / 'metrics.jsonl').read_bytes()
  for _ in range(2):
    with pytest.raises(ValueError, match='no checkpoint of the run can be'):
      loop.train(recorded('str').config, directory)
  assert (directory / 'metrics.jsonl').read_bytes() == before


def test_a_damaged_best_does_not_lose_the_run(
  recorded, tmp_path, scripted, make_config, capsys
):
  directory = tmp_path / 'run'
  scripted({5: 0.1, 10: 0.9, 15: 0.2, 20: 0.3})
  good = loop.train(make_config(), directory)
  assert good['best_step'] == 10
  (directory / 'summary.json').unlink()
  DAMAGES['flipped'](directory / 'checkpoints' / '10')
  summary = loop.train(make_config(), directory)
  assert summary['best_top1'] is None
  assert summary['top1'] == good['top1']
  assert 'checkpoints/10 cannot be read' in capsys.readouterr().out


def big_state(step):
  """Arrays too big for the storage's own, checksummed, index."""
  values = np.random.default_rng(step).normal(size=(64, 1000))
  return State(
    step=jnp.int32(step),
    variables={'params': {'kernel': jnp.array(values, jnp.float32)}},
    opt_state=({'trace': jnp.array(values, jnp.bfloat16)},),
    sums={'loss': jnp.float32(0.5)},
    first_nonfinite=jnp.int32(-1),
  )


def test_a_changed_byte_that_the_storage_lets_pass(
  tmp_path, assert_trees_equal
):
  said = []
  directory = tmp_path / 'checkpoints'
  with contextlib.closing(checkpoint.Checkpoints(directory)) as checkpoints:
    for step in (1, 2, 3):
      checkpoints.save(big_state(step))
  at = {}
  for file in (directory / '3').rglob('*'):
    if file.is_file() and file.stat().st_size > 10_000:
      for where in range(5_000, file.stat().st_size, 40_000):
        at[file, where] = file.read_bytes()
  unnoticed = 0
  for (file, where), content in at.items():
    file.write_bytes(flip(content[: 2 * where]) + content[2 * where :])
    with contextlib.closing(
      checkpoint.Checkpoints(directory, warn=said.append)
    ) as checkpoints:
      with pytest.raises(ValueError, match='3 cannot be read') as error:
        checkpoints.restore(3, big_state(3))
      unnoticed += 'not the ones that were saved' in str(error.value)
    with pytest.raises(ValueError, match='3 cannot be read'):
      checkpoint.read_variables(tmp_path)
    file.write_bytes(content)
  assert unnoticed, 'the storage noticed all: this test has lost its point'
  file.write_bytes(flip(content))
  with contextlib.closing(
    checkpoint.Checkpoints(directory, warn=said.append)
  ) as checkpoints:
    state = checkpoints.restore_latest(lambda step: big_state(step))
  assert_trees_equal(state, big_state(2))
  assert len(said) == 1 and '\n' not in said[0]


def test_a_fault_of_the_machine_moves_nothing(
  recorded, stopped, tmp_path, monkeypatch
):
  """Out of memory, or a mistake of ours, is no damage to the checkpoint."""
  directory = tmp_path / 'run'
  shutil.copytree(stopped, directory)

  def no_memory(self, *args, **kwargs):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

  reader = checkpoint.ocp.Checkpointer
  monkeypatch.setattr(reader, 'restore', no_memory)
  with pytest.raises(jax.errors.JaxRuntimeError, match='out of memory'):
    loop.train(recorded('str').config, directory)
  assert steps(directory) == [0, 16, 20]


READ = """
import json, pathlib, sys
import jax
from str_jax.training import checkpoint
assert jax.device_count() == 1
v = checkpoint.read_variables(pathlib.Path(sys.argv[1]))
print(json.dumps(v['params']['stem']['kernel'].ravel().tolist()))
"""


def test_variables_are_read_where_there_are_fewer_devices(recorded):
  directory = recorded('str').directory
  ours = checkpoint.read_variables(directory)
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(ours))
  done = subprocess.run(
    [sys.executable, '-c', READ, str(directory)],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {'JAX_NUM_CPU_DEVICES': '1'},
    capture_output=True,
    text=True,
    check=True,
  )
  theirs = json.loads(done.stdout.splitlines()[-1])
  assert theirs == ours['params']['stem']['kernel'].ravel().tolist()


def test_reading_variables_where_there_are_none(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoints folder'):
    checkpoint.read_variables(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(FileNotFoundError, match='holds no finished checkpoint'):
    checkpoint.read_variables(tmp_path)
