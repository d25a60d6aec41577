"""A folder that is not this run's, or is damaged: one sentence."""

import json
import os
import shutil

import pytest

from str_jax.training import loop, workdir

pytestmark = pytest.mark.usefixtures('quick')


def sentence(error):
  text = str(error.value)
  assert '\n' not in text and len(text) < 400
  return text


def test_a_file_is_no_folder(tmp_path, make_config):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='is a file: name another') as error:
    loop.train(make_config(), tmp_path / 'file')
  assert '--workdir' in sentence(error)
  with pytest.raises(ValueError, match='--workdir .* cannot be') as error:
    loop.train(make_config(), tmp_path / 'file' / 'below')
  sentence(error)
  assert (tmp_path / 'file').read_text() == ''


def test_another_configs_folder(recorded, make_config):
  directory = recorded('str').directory
  before = (directory / 'config.json').read_bytes()
  fields = {'batch_size': 32, 'optimizer.weight_decay': 1e-3, 'seed': 4}
  with pytest.raises(ValueError, match='another config') as error:
    loop.train(make_config('str', **fields), directory)
  text = sentence(error)
  assert 'batch_size=32 (there: 64)' in text
  assert 'optimizer.weight_decay=0.001 (there: 0.005)' in text
  assert 'seed=4 (there: 0)' in text
  assert 'model' not in text
  with pytest.raises(ValueError, match="method.name='dense'"):
    loop.train(make_config(), directory)
  assert (directory / 'config.json').read_bytes() == before


def test_a_run_from_before_a_field_existed_goes_on(
  recorded, make_config, tmp_path
):
  shutil.copytree(recorded('str').directory, tmp_path / 'run')
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  del saved['imp'], saved['method']['budget']
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(saved))
  workdir.check(tmp_path / 'run', make_config('str'))
  with pytest.raises(ValueError, match='imp.rounds=2 .there: None') as error:
    workdir.check(tmp_path / 'run', make_config('str', **{'imp.rounds': 2}))
  sentence(error)
  del saved['method']['rewind_steps']
  (tmp_path / 'run' / 'config.json').write_text(json.dumps(saved))
  with pytest.raises(ValueError, match='method.rewind_steps=0 .there: None'):
    workdir.check(
      tmp_path / 'run', make_config('str', **{'method.rewind_steps': 0})
    )


def test_what_does_not_change_the_numbers_may_differ(
  recorded, make_config, capsys
):
  config = make_config(
    'str', data_dir='elsewhere', num_workers=2, eval_batch_size=10
  )
  loop.train(config, recorded('str').directory)
  assert 'finished run' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['config.json', 'summary.json'])
@pytest.mark.parametrize('content', ['', '{"seed": 0', '[]', '\0\0'])
def test_a_damaged_file_is_named(name, content, recorded, tmp_path):
  run = recorded('dense')
  shutil.copytree(run.directory, tmp_path / 'run')
  (tmp_path / 'run' / name).write_text(content)
  with pytest.raises(ValueError, match=f'{name} .*damaged') as error:
    loop.train(run.config, tmp_path / 'run')
  sentence(error)
  assert (tmp_path / 'run' / name).read_text() == content


def test_checkpoints_without_a_config(recorded, tmp_path):
  """Whose they are is unknown: they might not fit, and be moved aside."""
  run = recorded('dense')
  shutil.copytree(run.directory, tmp_path / 'run')
  (tmp_path / 'run' / 'config.json').unlink()
  with pytest.raises(ValueError, match='no config.json') as error:
    loop.train(run.config, tmp_path / 'run')
  sentence(error)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(tmp_path, make_config):
  tmp_path.chmod(0o500)
  for directory in (tmp_path, tmp_path / 'below'):
    with pytest.raises(ValueError, match='cannot be written') as error:
      loop.train(make_config(), directory)
    assert str(directory) in sentence(error)


def test_a_mistake_does_not_claim_the_folder(tmp_path, make_config):
  with pytest.raises(ValueError, match='label_smoothing'):
    loop.train(make_config(label_smoothing=1.5), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_claimed_folder_is_the_configs_own(tmp_path, make_config):
  config = make_config(schedule__boundaries_epochs=(1.0, 2.0))
  workdir.check(tmp_path / 'run', config)
  assert not (tmp_path / 'run').exists()
  workdir.claim(tmp_path / 'run', config)
  workdir.check(tmp_path / 'run', config)  # a tuple, where JSON has a list
  noted = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert noted['schedule']['boundaries_epochs'] == [1.0, 2.0]
