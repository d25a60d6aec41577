"""``python -m str_jax``: one sentence and exit code 2 for every mistake."""

import json
import pathlib
import subprocess
import sys

import pytest

from configs import common
from str_jax import __main__ as command_line

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A run's folder that holds a config and no checkpoint; a file beside it."""
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  config = common.get_config().to_dict() | {'total_steps': 1}
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'file').write_text('')
  return tmp_path


def change(folder, **fields):
  path = folder / 'run' / 'config.json'
  config = json.loads(path.read_text()) | fields
  kept = {name: value for name, value in config.items() if value != 'gone'}
  path.write_text(json.dumps(kept))


def error_of(arguments, capsys):
  with pytest.raises(SystemExit) as end:
    command_line.main(arguments)
  assert end.value.code == 2
  return capsys.readouterr().err


MISTAKES = {
  'report {}/none': 'none/summary.json is missing: name the folder of a',
  'report {}/file': 'file/summary.json is missing: name the folder of a',
  'report {}/run': 'run holds a run that is not finished: give the training',
  'evaluate {}/none': 'none/config.json is missing: name the folder of a',
  'evaluate {}/file': 'file/config.json is missing: name the folder of a',
  'evaluate {}/run': "run/checkpoints has no checkpoint 'last'; it has none",
  'evaluate {}/run --batch_size=0': 'must be 1 or more, got 0',
  'evaluate {}/run --batch_size=-1': 'must be 1 or more, got -1',
  'prepare cifar10 --data_dir={}/file': 'file/downloads cannot be made (Not a',
}


@pytest.mark.parametrize('command', MISTAKES)
def test_a_mistake_is_one_sentence(command, folder, capsys):
  error = error_of(command.format(folder).split(), capsys)
  assert MISTAKES[command] in error
  assert error.startswith('error: ') and error.count('\n') == 1


@pytest.mark.parametrize(
  'command, sentence',
  [
    ('', 'required: command'),
    ('nosuch', 'nosuch (choose from evaluate, prepare, report'),
    ('evaluate', 'required: directory'),
    ('evaluate {} --split=all', 'all (choose from train, validation, test'),
    ('evaluate {} --batch_size=x', 'invalid int value: x'),
    ('prepare mnist', 'mnist (choose from cifar10, cifar100'),
  ],
)
def test_an_argument_of_another_kind(command, sentence, folder, capsys):
  error = error_of(command.format(folder).split(), capsys)
  # Python 3.12 on has other quotation marks here.
  assert sentence in error.splitlines()[-1].replace("'", '')


@pytest.mark.parametrize('name', ['summary.json', 'config.json'])
def test_a_file_that_is_cut(name, folder, capsys):
  (folder / 'run' / name).write_text('{"model": "conv')
  command = {'summary.json': 'report', 'config.json': 'evaluate'}[name]
  error = error_of([command, str(folder / 'run')], capsys)
  assert f'{name} should hold one JSON object and is damaged' in error


def test_a_config_of_another_version(folder, capsys):
  change(folder, label_smoothing='gone')
  error = error_of(['evaluate', str(folder / 'run')], capsys)
  assert 'config.json lacks ' in error and 'label_smoothing' in error
  assert error.count('\n') == 1


def test_a_mistake_of_ours_is_no_users_error(folder, monkeypatch):
  def mistake(*args):
    raise AttributeError('ours')

  from str_jax.training import loop

  monkeypatch.setattr(loop, 'Run', mistake)
  with pytest.raises(AttributeError, match='ours'):
    command_line.main(['evaluate', str(folder / 'run')])


def test_a_data_set_that_is_not_there(folder, capsys):
  change(folder, dataset='nosuch', data_dir=str(folder))
  error = error_of(['evaluate', str(folder / 'run')], capsys)
  assert 'no TFDS set of that name' in error and error.count('\n') == 1


@pytest.mark.parametrize('name', ['', 'none/table.csv'])
def test_a_table_that_cannot_be_written(name, tmp_path):
  from str_jax.training import records

  with pytest.raises(OSError, match='cannot be written: name a file'):
    records.write_text(tmp_path / name, 'text')


def test_the_traceback_is_there_when_asked_for(folder, monkeypatch):
  monkeypatch.setenv('STR_JAX_TRACEBACK', '1')
  with pytest.raises(FileNotFoundError, match='is missing'):
    command_line.main(['report', str(folder / 'none')])


HELP = """
import contextlib, io, sys
from str_jax import __main__ as command_line
heavy = {'jax', 'orbax', 'grain', 'cv2', 'matplotlib'}
for arguments in (['report', '--help'], ['evaluate', '--help'], ['--help']):
  with contextlib.suppress(SystemExit):
    with contextlib.redirect_stdout(io.StringIO()):
      command_line.main(arguments)
  print(*arguments, *sorted(heavy & set(sys.modules)))
"""


def test_help_loads_little():
  printed = subprocess.check_output(
    [sys.executable, '-c', HELP], cwd=ROOT, text=True
  )
  assert printed.splitlines() == [
    'report --help',
    'evaluate --help',
    '--help cv2',  # prepare's
  ]
