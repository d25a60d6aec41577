"""Weights and Biases: what it is told, and that it never stops a run."""

import importlib.machinery
import json
import sys
import types

import pytest

from configs import common
from str_jax.training import distributed, loop, metrics
from str_jax.training.writers_wandb import check


class Run:
  """What wandb.init returns, as far as we use it."""

  def __init__(self, arguments):
    self.arguments, self.logged, self.summary = arguments, [], {}
    self.metric = self.code = self.broken = None

  def define_metric(self, name, step_metric):
    self.metric = name, step_metric

  def log(self, values):
    if self.broken:
      raise self.broken
    self.logged.append(values)

  def finish(self, exit_code):
    self.code = exit_code


@pytest.fixture
def wandb(monkeypatch):
  """A module in the place of the package; its ``runs`` were begun."""
  fake = types.ModuleType('wandb')
  fake.__spec__ = importlib.machinery.ModuleSpec('wandb', None)
  fake.runs, fake.fails, fake.torn = [], {}, 0

  def init(mode=None, **arguments):
    if mode in fake.fails:
      raise fake.fails[mode]
    fake.runs.append(Run(arguments | {'mode': mode}))
    return fake.runs[-1]

  def teardown():
    fake.torn += 1

  fake.init, fake.teardown = init, teardown
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  return fake


def config(project='sparse'):
  config = common.get_config()
  config.wandb = project
  return config


def open_log(directory, start_step=0, project='sparse'):
  return metrics.Log(
    directory,
    config(project),
    start_step=start_step,
    total_steps=9,
    batch_size=8,
  )


def write(log, *steps):
  for step in steps:
    log.train(
      {
        'step': step,
        'loss': 1 / step,
        'accuracy': 0.5,
        'sparsity': 0.25,
        'layer_sparsity': {'stem': 0.125},
      }
    )
    if step % 2 == 0:
      log.validation({'step': step, 'loss': 1.0, 'accuracy': 0.75}, began=0.0)


def as_logged(directory):
  """The lines of metrics.jsonl, by W&B's names."""
  rows = []
  for line in (directory / 'metrics.jsonl').read_text().splitlines():
    record = json.loads(line)
    kind, row = record.pop('kind'), {'step': record.pop('step')}
    for layer, value in record.pop('layer_sparsity', {}).items():
      row[f'layer_sparsity/{layer}'] = value
    rows.append(row | {f'{kind}/{k}': v for k, v in record.items()})
  return rows


def without_rates(rows):
  timed = 'train/examples_per_second'
  return [{k: v for k, v in row.items() if k != timed} for row in rows]


def test_it_gets_what_the_files_get(wandb, tmp_path):
  log = open_log(tmp_path)
  write(log, 1, 2, 3)
  log.results({'steps': 3, 'top1': 0.9, 'sparsity': 0.25, 'flops': 7, 'x': []})
  log.close()
  (run,) = wandb.runs
  assert without_rates(run.logged) == as_logged(tmp_path)
  assert all('train/examples_per_second' in r for r in run.logged[::3])
  assert run.metric == ('*', 'step')
  assert run.summary == {'steps': 3, 'top1': 0.9, 'sparsity': 0.25, 'flops': 7}
  assert run.code == 0
  assert run.arguments['project'] == 'sparse'
  assert run.arguments['name'] == tmp_path.name
  assert run.arguments['config'] == config().to_dict()


def test_a_resumed_run_is_the_same_and_repeats_nothing(wandb, tmp_path):
  log = open_log(tmp_path)
  write(log, 1, 2, 3, 4)
  log.close()
  log = open_log(tmp_path, start_step=2)
  write(log, 3, 4, 5, 6)
  log.close()
  first, second = wandb.runs
  assert first.arguments['id'] == second.arguments['id']
  assert second.arguments['resume'] == 'allow'
  assert first.code == second.code == 1  # neither came to its end
  logged = without_rates(first.logged + second.logged)
  assert logged == as_logged(tmp_path)
  open_log(tmp_path, 6, project='another').close()
  assert wandb.runs[-1].arguments['id'] != first.arguments['id']


def test_it_begun_later_gets_all_that_is_written_from_then_on(wandb, tmp_path):
  log = open_log(tmp_path, project=None)
  write(log, 1, 2, 3)
  log.close()
  assert not wandb.runs
  log = open_log(tmp_path, start_step=2)
  write(log, 3)
  log.close()
  assert [row['step'] for row in wandb.runs[0].logged] == [3]


def test_no_service_keeps_the_records_on_disk(wandb, tmp_path, capsys):
  wandb.fails[None] = ConnectionError('no\nroute')
  log = open_log(tmp_path)
  write(log, 1)
  log.close()
  (run,) = wandb.runs
  assert run.arguments['mode'] == 'offline' and len(run.logged) == 1
  assert wandb.torn == 1
  assert 'Biases failed (no route); the run goes on' in capsys.readouterr().out


def test_it_never_stops_a_run(wandb, tmp_path, capsys):
  log = open_log(tmp_path)
  write(log, 1)
  wandb.runs[0].broken = BrokenPipeError('gone')
  write(log, 2, 3)
  log.results({'steps': 3, 'top1': 0.9, 'sparsity': 0.25, 'flops': 7})
  log.close()
  assert capsys.readouterr().out.count('warning: ') == 1
  assert len(as_logged(tmp_path)) == 4
  wandb.fails |= {None: OSError('a'), 'offline': OSError('b')}
  log = open_log(tmp_path, start_step=3)
  write(log, 4)
  log.close()
  assert len(as_logged(tmp_path)) == 6


def test_without_the_package(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  check(None)
  open_log(tmp_path, project=None).close()
  with pytest.raises(ValueError, match=r"install -e '.\[wandb\]'") as error:
    check('sparse')
  assert '\n' not in str(error.value)


def test_other_processes_tell_it_nothing(wandb, tmp_path, monkeypatch):
  monkeypatch.setattr(distributed, 'is_first', lambda: False)
  run = types.SimpleNamespace(config=config(), directory=tmp_path)
  log = loop.Run.open_log(run, 0)
  log.train({})
  log.results({})
  assert not wandb.runs


def test_the_package_itself(tmp_path, monkeypatch):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  for start, steps in ((0, (1, 2)), (1, (2, 3))):
    log = open_log(tmp_path, start)
    write(log, *steps)
    if start:
      log.results({'steps': 3, 'top1': 0.9, 'sparsity': 0.25, 'flops': 7})
    log.close()
  run_id = json.loads((tmp_path / 'wandb.json').read_text())['id']
  files = sorted(tmp_path.glob(f'wandb/offline-run-*/run-{run_id}.wandb'))
  assert len(files) == 2 and b'layer_sparsity/stem' in files[0].read_bytes()
