"""Reading changes nothing; formats by number; what a kill half deleted."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

import str_jax
from str_jax import __main__ as command_line
from str_jax.training import checkpoint, integrity
from str_jax.training.state import State

ROOT = pathlib.Path(__file__).parents[2]
ALL = (1, 2, 3)


def state(step):
  return State(
    step=jnp.int32(step),
    variables={'params': {'kernel': jnp.full((3, 4), step, jnp.float32)}},
    opt_state=(),
    sums={'loss': jnp.float32(0.5)},
    first_nonfinite=jnp.int32(-1),
  )


def save(directory, steps, accuracy=checkpoint.UNRANKED):
  with contextlib.closing(checkpoint.Checkpoints(directory)) as checkpoints:
    for step in steps:
      checkpoints.save(state(step), accuracy)


def snapshot(folder):
  """All that is in a folder, and when each was last changed."""
  return {
    str(path): (
      path.stat().st_mtime_ns,
      path.read_bytes() if path.is_file() else None,
    )
    for path in (folder, *folder.rglob('*'))
  }


@pytest.fixture
def saved(tmp_path):
  """Checkpoints of steps 2 and 3, and 1, the best."""
  save(tmp_path / 'checkpoints', [1], accuracy=0.5)
  save(tmp_path / 'checkpoints', [2, 3])
  return tmp_path / 'checkpoints'


def edit_metrics(folder, **changes):
  path = folder / 'metrics' / 'metrics'
  metrics = json.loads(path.read_text()) | changes
  kept = {name: value for name, value in metrics.items() if value is not None}
  path.write_text(json.dumps(kept))


@pytest.mark.parametrize('damage', ['arrays', 'metrics'])
def test_reading_changes_nothing(damage, saved, assert_trees_equal):
  if damage == 'arrays':
    shutil.rmtree(saved / '2' / 'default')
  else:
    (saved / '2' / 'metrics' / 'metrics').write_text('{')
  shutil.copytree(saved / '3', saved / '4.orbax-checkpoint-tmp')
  shutil.copytree(saved / '2', saved / 'deleted' / '0')
  before = snapshot(saved.parent)
  with contextlib.closing(checkpoint.Checkpoints(saved)) as checkpoints:
    assert checkpoints.best() == (1, 0.5)
    assert checkpoints.find('last') == 3
    assert checkpoints.find('2') == 2
    assert_trees_equal(checkpoints.restore(3, state(3)), state(3))
    with pytest.raises(ValueError, match='checkpoints/2 cannot be read'):
      checkpoints.restore(2, state(2))
  assert snapshot(saved.parent) == before


def test_reading_variables_says_nothing(saved, caplog):
  variables = checkpoint.read_variables(saved.parent)
  assert (variables['params']['kernel'] == 3).all()
  assert not [r for r in caplog.records if r.levelname != 'INFO']


def test_looking_where_no_run_is_makes_no_folder(tmp_path):
  directory = tmp_path / 'checkpoints'
  with contextlib.closing(checkpoint.Checkpoints(directory)) as checkpoints:
    assert checkpoints.best() is None
    with pytest.raises(FileNotFoundError, match='it has none'):
      checkpoints.find('last')
  assert not directory.exists()


@pytest.mark.usefixtures('quick')
def test_evaluate_leaves_a_damaged_run_as_it_is(recorded, tmp_path, capsys):
  run, directory = recorded('str'), tmp_path / 'run'
  shutil.copytree(run.directory, directory)
  shutil.rmtree(directory / 'checkpoints' / '16' / 'default')
  (directory / 'checkpoints' / '0' / 'metrics' / 'metrics').write_text('{')
  before = snapshot(directory)
  command_line.main(['evaluate', str(directory)])
  top1 = run.summary['top1']
  assert f'step 20, test: accuracy {top1:.2%}' in capsys.readouterr().out
  with pytest.raises(SystemExit) as end:
    command_line.main(['evaluate', str(directory), '--checkpoint=16'])
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert 'checkpoints/16 cannot be read' in error
  assert '--checkpoint' in error and error.count('\n') == 1
  assert snapshot(directory) == before


def test_checkpoints_say_their_format(saved):
  for step in ALL:
    metrics = json.loads((saved / str(step) / 'metrics/metrics').read_text())
    assert metrics['format'] == integrity.FORMAT


def test_one_without_a_number_is_of_the_first_format(saved, assert_trees_equal):
  checksum = integrity._of_bytes(state(3))
  edit_metrics(saved / '3', format=None, checksum=checksum)
  with contextlib.closing(checkpoint.Checkpoints(saved)) as checkpoints:
    restored = checkpoints.restore_latest(state)
  assert_trees_equal(restored, state(3))


def test_a_newer_format_is_an_error_and_no_damage(saved):
  newer = integrity.FORMAT + 1
  # All else may have changed in it.
  edit_metrics(saved / '3', format=newer, accuracy=None, checksum=None)
  shutil.rmtree(saved / '3' / 'default')
  said = []
  checkpoints = checkpoint.Checkpoints(saved, warn=said.append)
  before = snapshot(saved.parent)
  for read in (
    lambda: checkpoints.restore_latest(state),
    lambda: checkpoints.restore(3, state(3)),
    lambda: checkpoint.read_variables(saved.parent),
  ):
    with pytest.raises(ValueError, match='upgrade str_jax') as error:
      read()
    assert f'{saved}/3 has format {newer}' in str(error.value)
    assert f'str_jax {str_jax.__version__} reads formats up to' in str(
      error.value
    )
  assert said == []
  assert snapshot(saved.parent) == before


def test_a_format_that_is_no_number_is_damage(saved, assert_trees_equal):
  edit_metrics(saved / '3', format='1')
  said = []
  checkpoints = checkpoint.Checkpoints(saved, warn=said.append)
  assert_trees_equal(checkpoints.restore_latest(state), state(2))
  assert len(said) == 1 and 'checkpoints/3 cannot be read' in said[0]


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
import test_checkpoint_reading as here
unlink = os.unlink
def dying(path, **kwargs):
  unlink(path, **kwargs)
  if os.path.basename(path) == 'metrics':
    os.kill(os.getpid(), signal.SIGKILL)
os.unlink = dying
here.save(pathlib.Path(sys.argv[1]), [1, 2, 3])
"""


def test_a_kill_in_the_middle_of_deleting_goes_unnoticed(
  tmp_path, assert_trees_equal
):
  directory, said = tmp_path / 'checkpoints', []
  done = subprocess.run(
    [sys.executable, '-c', KILLED, directory, pathlib.Path(__file__).parent],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == -signal.SIGKILL
  (half,) = directory.glob('**/1')
  assert any(half.iterdir()) and not (half / 'metrics' / 'metrics').exists()
  checkpoints = checkpoint.Checkpoints(directory, warn=said.append)
  assert_trees_equal(checkpoints.restore_latest(state), state(3))
  assert said == []
  assert sorted(p.name for p in directory.iterdir()) == ['2', '3']
  assert not (tmp_path / 'unreadable').exists()


def test_what_is_to_go_is_gone_in_the_end(tmp_path):
  directory = tmp_path / 'checkpoints'
  with contextlib.closing(checkpoint.Checkpoints(directory)) as checkpoints:
    for step in range(1, 6):
      checkpoints.save(state(step))
    checkpoints.best()  # waits
    assert len(list((directory / 'deleted').iterdir())) <= 1
  assert sorted(p.name for p in directory.iterdir()) == ['4', '5']
