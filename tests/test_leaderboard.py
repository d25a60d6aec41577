"""The leaderboard: its rows are trainings, kept once, and told in a table."""

import json
import pathlib
import subprocess
import types

import pytest

from benchmarks import record, seeds
from benchmarks.leaderboard import __main__ as leaderboard
from benchmarks.leaderboard import rows
from benchmarks.leaderboard.table import table
from str_jax.training import build, flags
from str_jax.training import plan as plans


def config_of(board, fields):
  overrides = [f'--config.{name}={value}' for name, value in fields.items()]
  return flags.load_config(str(record.ROOT / board.config), overrides)[0]


@pytest.mark.parametrize('name', rows.BOARDS)
def test_every_row_is_a_run_that_differs_by_its_method_alone(name):
  board = rows.BOARDS[name]
  calibrations = [
    {'row': 'STR', 'decay': decay, 'sparsity': 1 - 0.5**i}
    for i, decay in enumerate(board.decays, 1)
  ]
  dense = config_of(board, rows.fields(board, rows.Run('dense', None, 5), []))
  inputs = build.Inputs((8, 8, 1), 10)
  for run in rows.runs(board, list(rows.ROWS), [0.95], [5]):
    config = config_of(board, rows.fields(board, run, calibrations))
    differs = {
      field
      for field, value in config.to_dict().items()
      if value != dense.to_dict()[field]
    }
    assert differs <= {'method', 'optimizer'}, run
    assert run.row == 'STR' or 'optimizer' not in differs, run
    config.model.name = 'convnet'
    plan = plans.create(config, 957, inputs)
    (phase,) = plan.phases  # nobody is fine-tuned
    method = phase.method
    assert (method is None) == (run.row == 'dense')
    if run.row == 'STR, target':
      rising = method.start_step, method.final_step
  for row in ('ST-3', 'GMP', 'Feather'):
    run = rows.Run(row, 0.95, 5)
    config = config_of(board, rows.fields(board, run, []))
    config.model.name = 'convnet'
    method = plans.create(config, 957, inputs).phases[0].method
    assert (method.start_step, method.end_step) == rising, row


def test_strs_decay_is_read_off_its_calibrations():
  board = rows.BOARDS['cifar10']
  runs = [
    {'row': 'STR', 'decay': decay, 'sparsity': sparsity}
    for decay, sparsity in zip(board.decays, (0.8, 0.92, 0.99))
  ]
  decay = lambda sparsity: rows.fields(
    board, rows.Run('STR', sparsity, 5), runs
  )['optimizer.weight_decay']
  assert 1e-4 < decay(0.9) < 3e-4 < decay(0.98) < 1e-3
  assert rows.decay_for(0.9999999, {1e-3: 0.9, 2e-3: 1.0}) < 6e-3
  with pytest.raises(LookupError, match='calibrations'):
    rows.fields(board, rows.Run('STR', 0.9, 5), runs[:2])


@pytest.fixture
def results(tmp_path, monkeypatch):
  monkeypatch.setattr(record, 'RESULTS', tmp_path)
  # They ask programs, which some tests replace.
  monkeypatch.setattr(record, 'device', lambda: 'a processor')
  monkeypatch.setattr(record, 'origin', lambda _: {})
  return tmp_path


class Training:
  """In the place of benchmarks/seeds.py, which has tests of its own."""

  made: list = []
  diverges = False

  def __init__(self, config, seeds, path):
    self.config, self.seeds, self.path = config, seeds, path
    self.plan = types.SimpleNamespace(total_steps=config.total_steps)
    self.dataset = types.SimpleNamespace(note='')
    self.made.append(self)

  def run(self, deadline):
    if self.diverges and 6 in self.seeds:
      raise FloatingPointError('not finite')
    counts = {'nonzero': 5, 'flops': 5, 'dense_flops': 10}
    row = counts | {'top1': 0.5, 'sparsity': 0.9}
    return [row | {'seed': seed} for seed in self.seeds]


@pytest.mark.parametrize('diverges', [False, True])
def test_seeds_side_by_side(results, capsys, monkeypatch, diverges):
  monkeypatch.setattr(seeds, 'Training', Training)
  monkeypatch.setattr(Training, 'made', [])
  monkeypatch.setattr(Training, 'diverges', diverges)
  arguments = ['digits', '--together=2', '--seeds=5,6', '--sparsities=0.9']
  arguments += ['--rows', 'STR, target', f'--runs={results}']
  arguments += ['--config.total_steps=60']
  leaderboard.main(arguments)
  leaderboard.main(arguments)
  assert capsys.readouterr().out.count('now Run') == 1
  # The seeds of one that diverges are told apart.
  expected = [[5, 6], [5], [6]] if diverges else [[5, 6]]
  assert [training.seeds for training in Training.made] == expected
  assert len({training.path for training in Training.made}) == len(expected)
  assert Training.made[0].config.method.target == 0.9
  assert Training.made[0].config.total_steps == 60
  found = json.loads((results / 'leaderboard_digits.json').read_text())
  assert [(r['seed'], r['together'], 'diverged' in r) for r in found] == [
    (5, 2, False),
    (6, 2, diverges),
  ]
  text = (results / 'leaderboard_digits.md').read_text()
  assert '## convnet, 60 steps' in text and '2 seeds side by side' in text


def test_time_is_up_before_a_run(results, capsys):
  leaderboard.main(['digits', '--minutes=0', f'--runs={results}'])
  assert 'the same command goes on' in capsys.readouterr().out
  assert not (results / 'leaderboard_digits.json').exists()


def test_runs_of_main_and_one_that_ends(results, monkeypatch, capsys):
  commands = []

  def run(command, **_):
    commands.append(command)
    workdir = pathlib.Path(command[-1].removeprefix('--workdir='))
    workdir.mkdir(parents=True)
    seed = next(c for c in command if 'config.seed' in c)
    if seed.endswith('7'):
      said = 'error: the loss of step 3 is not finite.'
      return subprocess.CompletedProcess(command, 2, stderr=said)
    summary = dict.fromkeys(leaderboard._KEPT, 1)
    summary |= {'top1': 0.5 + int(seed[-1]) / 100, 'sparsity': 0.9}
    summary |= {'model': 'convnet', 'note': 'Said.', 'flops': 0.25}
    (workdir / 'summary.json').write_text(json.dumps(summary))
    return subprocess.CompletedProcess(command, 0, stderr='')

  monkeypatch.setattr(subprocess, 'run', run)
  arguments = ['digits', '--sparsities=0.9', f'--runs={results}']
  leaderboard.main([*arguments, '--rows', 'dense', 'ST-3'])
  assert [c[1] for c in commands] == ['main.py'] * 6
  assert '--config.method.sparsity=0.9' in commands[-1]
  text = (results / 'leaderboard_digits.md').read_text()
  assert 'Dense: 55.50 ± 0.71 (2 runs, 1 diverged)' in text
  assert '| ST-3 | 55.50 ± 0.71 (2 runs, 1 diverged) |' in text
  assert '| ST-3 | 25.0 |' in text and 'Said.' in text
  leaderboard.main([*arguments, '--rows', 'dense', 'ST-3'])
  assert len(commands) == 6  # those that diverged are results too
  with pytest.raises(SystemExit):
    leaderboard.main([*arguments, '--rows', 'OBD'])
  assert "no rows {'OBD'}" in capsys.readouterr().err


def test_a_run_that_cannot_start_is_no_result(results, monkeypatch):
  failed = subprocess.CompletedProcess([], 2, stderr='error: no such folder.')
  monkeypatch.setattr(subprocess, 'run', lambda *_, **__: failed)
  with pytest.raises(SystemExit, match='no such folder'):
    leaderboard.main(['digits', '--rows', 'dense', f'--runs={results}'])
  assert not (results / 'leaderboard_digits.json').exists()


def test_zeros_that_were_not_asked_for_are_said():
  common = {'device': 'x', 'changes': '', 'together': 0, 'model': 'm'}
  common |= {'steps': 2, 'note': '', 'flops': 1, 'dense_flops': 4, 'row': 'STR'}
  runs = [
    common
    | {'asked': 0.9, 'decay': None, 'seed': s, 'top1': 0.5, 'sparsity': 0.912}
    for s in (5, 6, 7)
  ]
  calibration = runs[0] | {'asked': None, 'decay': 1e-3, 'top1': 0.1}
  text = table([*runs, calibration])
  assert '| STR | 50.00 ± 0.00 (91.2% zeros) |' in text
  assert '| STR | 25.0 |' in text
