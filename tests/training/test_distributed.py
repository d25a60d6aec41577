"""Several processes of one run: how they start, agree and end."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import processes, topologies
from str_jax.training import distributed

TIMEOUT = 240
ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ('environment', 'several'),
  [
    ({}, False),
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, True),
    ({'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4'}, False),  # salloc, no srun
    ({'SLURM_STEP_NODELIST': 'a', 'SLURM_NTASKS': '4'}, True),
    ({'SLURM_STEP_NODELIST': 'a', 'SLURM_NTASKS': '1'}, False),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, False),
    ({'JOB_COMPLETION_INDEX': '0'}, True),
  ],
)
def test_what_the_environment_says(environment, several):
  assert distributed.announced(environment) == several


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (('a:1', 2, None), 'needs all of --coordinator.*got a:1, 2 and None'),
    ((None, 2, 0), 'needs all of'),
    (('a', 2, 0), "must be HOST:PORT.*got 'a'"),
    (('a:b', 2, 0), 'must be HOST:PORT'),
    (('a:1', 2, 2), 'from 0, got 2 of 2'),
    (('a:1', 0, 0), 'from 0, got 0 of 0'),
  ],
)
def test_wrong_arguments_are_one_sentence(given, message):
  with pytest.raises(ValueError, match=message):
    distributed.start(*given)


@pytest.mark.parametrize('on_tpu', [True, False])
def test_announced_processes_that_are_not_found(monkeypatch, on_tpu):
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')  # and not how many
  monkeypatch.setattr(distributed, 'on_tpu', lambda environment: on_tpu)

  def initialize(*args, **kwargs):
    raise ValueError('Number of processes must be defined.')  # as JAX says it

  monkeypatch.setattr(distributed.jax.distributed, 'initialize', initialize)
  if on_tpu:  # of one host
    distributed.start()
  else:
    with pytest.raises(OSError, match='announces a run of several processes'):
      distributed.start()


def test_alone_everything_is_done_here():
  done = []
  distributed.on_first(lambda: done.append(1))
  assert done == [1] and distributed.is_first()
  assert distributed.all_agree(True) and not distributed.all_agree(False)
  with pytest.raises(KeyError), distributed.leaving():
    raise KeyError  # left as it is: nobody waits


AGREE = """
import sys
from str_jax.training import distributed

def fail():
  raise OSError('no space on the disk of the first')

with distributed.leaving():
  index = int(sys.argv[2])
  distributed.start(sys.argv[1], 2, index)
  done = []
  distributed.on_first(lambda: done.append(index))
  assert done == ([0] if index == 0 else []), done
  assert not distributed.all_agree(index == 0)
  assert distributed.all_agree(True)
  try:
    distributed.on_first(fail)
  except ValueError as error:
    print('both know:', error, file=sys.stderr, flush=True)
  print('only the first prints')
"""


def test_two_processes_agree_and_share_an_error():
  address = f'localhost:{processes.free_port()}'
  both = [
    subprocess.Popen(
      [sys.executable, '-c', AGREE, address, str(index)],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  ended = [(*p.communicate(timeout=TIMEOUT), p.returncode) for p in both]
  for _, err, code in ended:
    assert code == 0, err
    assert 'both know: no space on the disk of the first' in err
  assert ended[0][0].endswith('only the first prints\n')
  assert 'only' not in ended[1][0]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """A run with a target on one device of one process."""
  workdir = tmp_path_factory.mktemp('alone') / 'run'
  ((code, output),) = processes.run(
    topologies.arguments('target', 1, workdir), timeout=TIMEOUT
  )
  assert code == 0, output
  return topologies.measured(workdir)


def test_two_processes_of_four_devices_give_the_same(alone, tmp_path):
  workdir = tmp_path / 'run'
  arguments = topologies.arguments('target', 4, workdir)
  ended = processes.run(arguments, processes=2, devices=4, timeout=TIMEOUT)
  assert [code for code, _ in ended] == [0, 0], ended
  apart = topologies.compared(alone, topologies.measured(workdir))
  assert apart['first 3 steps'] < 1e-6
  assert apart['all steps'] < 2e-2
  assert apart['nonzero apart'] == 0
  assert 'step' in ended[0][1] and 'step' not in ended[1][1]
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['device'].startswith('8 x')


def test_one_of_two_is_told_to_stop_and_both_do(tmp_path):
  workdir = tmp_path / 'run'
  arguments = [
    *topologies.arguments('str', 1, workdir),
    '--config.total_steps=100000',
  ]
  both = processes.start(arguments, processes=2)
  try:
    metrics = workdir / 'metrics.jsonl'
    end = time.monotonic() + TIMEOUT
    while not (metrics.exists() and metrics.stat().st_size):
      assert time.monotonic() < end
      time.sleep(0.2)
    both[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=TIMEOUT)[0] for p in both]
  finally:
    for process in both:
      process.kill()
  assert [p.returncode for p in both] == [0, 0], outputs
  stopped = re.search(r'stopped by SIGTERM at step (\d+)', outputs[0])
  assert stopped
  assert (workdir / 'checkpoints' / stopped[1]).is_dir()


def test_a_config_mistake_ends_both(tmp_path):
  arguments = topologies.arguments('str', 3, tmp_path / 'run')
  for code, output in processes.run(arguments, processes=2, timeout=TIMEOUT):
    assert code == 2
    assert 'must divide the 2 devices, got 3' in output
    assert 'Traceback' not in output
