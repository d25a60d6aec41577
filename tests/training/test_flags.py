"""The command line: what it sets, and one sentence for every mistake."""

import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags as absl_flags

import main
from str_jax.training import build, console, flags, refusal

ROOT = pathlib.Path(main.__file__).parent

BAD = {
  '--config.nosuch=1': 'no field nosuch; the config has .*batch_size.*model.*',
  '--config.sparsity=0.9': r'no field sparsity \(did you mean method.sparsity',
  '--config.method.nosuch=1': 'no field method.nosuch; method has .*sparsity',
  '--config.seed.nosuch=1': 'no field seed.nosuch; the config has .*seed',
  '--config.method=st3': 'method is a group, of .*sparsity',
  '--config.batch_size': 'batch_size needs a value',
  '--config.batch_size=abc': "batch_size needs a whole number, got 'abc'",
  '--config.batch_size=None': "batch_size needs a whole number, got 'None'",
  '--config.method.sparsity=high': "needs a number or None, got 'high'",
  '--config.total_epochs=inf': "needs a number or None, got 'inf'",
  '--config.optimizer.nesterov=maybe': "needs true or false, got 'maybe'",
  '--config.schedule.boundaries_epochs=a': 'needs numbers with commas',
  '--config.variant=st3': 'variant cannot be set: .*FILE:VARIANT',
}


@pytest.mark.parametrize('override', BAD)
def test_a_bad_override_is_one_sentence(override):
  with pytest.raises(ValueError, match=BAD[override]) as error:
    flags.load_config(str(ROOT / 'configs/digits.py'), [override])
  assert '\n' not in str(error.value)


def test_a_bad_config_is_one_sentence(tmp_path):
  known = f'there is {ROOT}/configs/cifar10.py, {ROOT}/configs/cifar100.py, '
  with pytest.raises(ValueError, match=re.escape(known)):
    flags.load_config(str(ROOT / 'configs/nosuch.py'))
  with pytest.raises(ValueError, match="no variant 'x'; it has dense, str"):
    flags.load_config(str(ROOT / 'configs/digits.py:x'))
  broken = tmp_path / 'broken.py'
  for line, what in (
    ('get_config = nosuch', 'NameError.*nosuch'),
    ('get_config = 1 +', 'SyntaxError'),
    ('def get_config(variant): pass', 'returns a NoneType'),
    ('print(variant)', 'NameError'),
  ):
    broken.write_text(f'{line}\n')
    match = f'broken.py is not a config.*{what}'
    with pytest.raises(ValueError, match=match) as error:
      flags.load_config(str(broken))
    assert '\n' not in str(error.value)


def test_a_field_of_another_type_is_left_to_the_file(tmp_path):
  own = tmp_path / 'own.py'
  own.write_text(
    'from ml_collections import ConfigDict\n'
    'def get_config(variant):\n'
    '  return ConfigDict({"field": [1]})\n'
  )
  with pytest.raises(ValueError, match='field is a list, which only the'):
    flags.load_config(str(own), ['--config.field=2'])


def test_overrides_set_fields():
  config, changes = flags.load_config(
    str(ROOT / 'configs/cifar10.py:st3-90-paper'),
    [
      '--config.batch_size=64',
      '--config.optimizer.nesterov=true',
      '--config.optimizer.clip_norm=None',
      '--config.schedule.boundaries_epochs=10,20.5',
      '--config.init_from=a=b',
      '--config.total_steps=7',
    ],
  )
  assert config.batch_size == 64
  assert config.optimizer.nesterov is True
  assert config.optimizer.clip_norm is None
  assert config.schedule.boundaries_epochs == (10, 20.5)
  assert config.init_from == 'a=b'
  # The file's length in epochs gives way.
  assert (config.total_steps, config.total_epochs) == (7, None)
  assert changes['total_steps'] == 7
  assert 'total_epochs' not in changes


def test_the_default_folder_tells_runs_apart():
  def folder(*overrides):
    spec = str(ROOT / 'configs/digits.py:st3')
    return flags.default_workdir(*flags.load_config(spec, overrides))

  assert folder() == 'runs/digits-st3'
  one, two = folder('--config.seed=1'), folder('--config.seed=2')
  assert len({folder(), one, two}) == 3
  assert one == folder('--config.seed=1')


@pytest.fixture
def main_flags():
  """Puts the flags of main.py back to what they were."""
  yield
  for name in ('config', 'workdir'):
    absl_flags.FLAGS[name].value = absl_flags.FLAGS[name].default


@pytest.mark.parametrize(
  'args, sentence',
  [
    ([], 'a config is needed'),
    (['configs/digits.py'], "unknown argument 'configs/digits.py'"),
    (['--config=configs/digits.py', '--foo=1'], "'foo'.*--workdir"),
    (['--config'], 'Missing value for flag --config'),
    (['--config=configs/digits.py', '--config.seed', '3'], "argument '3'"),
  ],
)
def test_a_bad_command_line_is_one_sentence(args, sentence, main_flags, capsys):
  with pytest.raises(SystemExit) as error:
    flags.parse(['main.py', *args])
  assert error.value.code == 2
  assert re.fullmatch(rf'error: .*{sentence}.*\n', capsys.readouterr().err)


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull'])
def test_help_names_every_flag_and_ends_well(flag, capsys):
  with pytest.raises(SystemExit) as end:
    flags.parse(['main.py', '--config=configs/digits.py', flag])
  assert not end.value.code
  printed = capsys.readouterr().out
  for said in (
    *('--config=FILE', '--workdir', '--coordinator', '--num_processes'),
    *('--process_index', '--config.method.target=0.9', 'docs/config.md'),
  ):
    assert said in printed
  assert max(map(len, printed.splitlines())) <= 80


DIGITS = 'configs/digits.py'


@pytest.mark.parametrize(
  ('variant', 'overrides', 'sentence'),
  [
    (
      'str',
      ['--config.method.name=st3'],
      'no method.init_value; .* The variant str of .*/digits.py sets '
      'method.init_value: start from .*/digits.py:st3, or set it to None, by '
      '--config.method.init_value=None.',
    ),
    (
      '',  # the default one, by its name
      ['--config.method.name=frozen'],
      'The variant str of .* start from .*/digits.py:dense, or set',
    ),
    (
      'st3',
      ['--config.method.name=str', '--config.method.sparsity=None'],
      'sets method.end_steps, method.start_steps: start from .*:str, or .* by '
      '--config.method.end_steps=None --config.method.start_steps=None.',
    ),
    # What the command line sets is its own to leave out.
    ('str', ['--config.method.sparsity=0.9'], 'target=0.9.$'),
  ],
)
def test_what_a_variant_sets_is_told(variant, overrides, sentence):
  spec = f'{ROOT}/{DIGITS}:{variant}'
  config, changes = flags.load_config(spec, overrides)
  with pytest.raises(ValueError, match=sentence) as error:
    with refusal.told(spec, changes):
      build.method(config.method)
  assert '\n' not in str(error.value)


def test_main_ends_with_exit_code_2():
  done = subprocess.run(
    [sys.executable, 'main.py', '--config=configs/digits.py', '--config.x=1'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert done.stdout == ''
  assert re.fullmatch('error: there is no field x.*\n', done.stderr)


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  with pytest.raises(SystemExit) as end, console.user_errors():
    raise KeyboardInterrupt
  assert end.value.code == 130 and capsys.readouterr().err == 'stopped.\n'
