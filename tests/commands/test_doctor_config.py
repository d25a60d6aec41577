"""``python -m str_jax doctor --config=...``: what STR will do, as printed."""

import pytest

from str_jax import __main__ as command_line

DIGITS = '--config=configs/digits.py'


def doctor(*arguments):
  command_line.main(['doctor', *arguments])


@pytest.fixture
def error_of(capsys, monkeypatch):
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)

  def get(*arguments):
    with pytest.raises(SystemExit) as end:
      doctor(*arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    return error

  return get


def test_the_course_the_verdict_and_what_to_set(capsys):
  doctor(f'{DIGITS}:str', '--config.method.init_value=-3200')
  lines = capsys.readouterr().out.splitlines()
  rows = [line.split() for line in lines[2:8]]
  assert [row[0] for row in rows] == ['0%', '20%', '40%', '60%', '80%', '100%']
  assert [row[1] for row in rows] == ['0', '240', '480', '720', '960', '1,200']
  courses = [float(row[2]) for row in rows]
  assert courses[0] == -3200 and courses == sorted(courses)
  assert lines[8:10] == [
    'thresholds leave zero, s = -10: never',
    'thresholds reach weights, s = -5: never',
  ]
  assert lines[10].startswith(
    'none: with optimizer.weight_decay=0.008 and method.init_value=-3200 s '
    f'reaches {courses[-1]:.4g} at the end'
  )
  for field in ('optimizer.threshold_decay', 'method.init_value'):
    assert f'--config.{field}=' in lines[11]
  assert lines[11].endswith('--config.method.target=0.9 needs none of this.')


def test_settings_that_are_fine(capsys):
  doctor(f'{DIGITS}:str')
  printed = capsys.readouterr().out
  assert 'fine: with optimizer.weight_decay=0.008' in printed
  assert 'reach weights, s = -5: at step 108 of 1,200 (9.0% of' in printed


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    (':dense', 'dense has no thresholds.'),
    (':dnw', 'dnw has 91% zeros from the start.'),
    (':imp', 'imp prunes in 5 rounds.'),
    (
      ':st3',
      'st3 reaches 91% zeros between steps 100 and 700 of 1,200, as asked for.',
    ),
    (
      ':str --config.method.target=0.873',
      'str reaches 87.3% zeros between steps 60 and 600 of 1,200, as asked '
      'for.',
    ),
    (
      ':str --config.method.target_nonzero=900',
      'str reaches Target(nonzero=900) between steps 60 and 600 of 1,200, as '
      'asked for.',
    ),
    (
      ':gmp --config.method.sparsity=None --config.method.budget='
      'stem/conv=0.5,classifier=0.5',
      'gmp reaches the zeros of its budget between steps 100 and 700 of '
      '1,200, as asked for.',
    ),
  ],
)
def test_nothing_to_forecast(arguments, sentence, capsys):
  doctor(*f'{DIGITS}{arguments}'.split())
  assert capsys.readouterr().out == f'nothing to forecast: {sentence}\n'


def test_a_run_that_starts_from_another(capsys):
  doctor(f'{DIGITS}:str', '--config.init_from=a/run')
  assert 'init_from=a/run: if that is a run' in capsys.readouterr().out


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    ((), 'give one of them, got neither.'),
    (('a/run', DIGITS), 'give one of them, got a/run and configs/digits.py.'),
    (('a/run', '--config.seed=1'), '--config.seed=1 sets a field of a'),
    ((f'{DIGITS}:nosuch',), "has no variant 'nosuch'"),
    (('--config=nosuch.py',), 'there is no nosuch.py'),
    ((DIGITS, '--config.nosuch=1'), 'there is no field nosuch'),
    ((DIGITS, '--config.seed'), '--config.seed needs a value'),
    ((DIGITS, '--config.batch_size=0'), 'batch_size must be 1 or more'),
    (
      (DIGITS, '--config.optimizer.name=rmsprop'),
      'optimizer.name must be one of sgd, adam, adamw',
    ),
  ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, error_of):
  error = error_of(*arguments)
  assert sentence in error
  assert error.startswith('error: ') and error.count('\n') == 1


@pytest.mark.parametrize('command', ['doctor', 'evaluate'])
def test_other_flags_are_unknown(command, capsys):
  with pytest.raises(SystemExit) as end:
    command_line.main([command, 'a/run', '--nosuch=1'])
  assert end.value.code == 2
  assert 'unrecognized arguments: --nosuch=1' in capsys.readouterr().err


def test_fields_are_no_arguments_of_other_commands(capsys):
  with pytest.raises(SystemExit):
    command_line.main(['evaluate', 'a/run', '--config.seed=1'])
  assert 'unrecognized arguments: --config.seed=1' in capsys.readouterr().err
