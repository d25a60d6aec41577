"""`python -m str_jax import`: from a file to the folder of a run."""

import json
import pathlib
import shlex

import jax
import numpy as np
import pytest

import str_jax
from str_jax import __main__ as command_line
from str_jax import models
from str_jax.commands import import_
from str_jax.interop import dense_file, files, torch_names
from str_jax.interop import torch as interop
from str_jax.methods import STR
from str_jax.training import (
  checkpoint,
  finish,
  flags,
  imported,
  init_from,
  loop,
  page,
)

TINY = {'stage_sizes': (1,), 'width': 2}
METHOD = STR(init_value=-3.0)
CONFIG = """
from configs import common

def get_config(variant=None):
  config = common.get_config()
  config.name = 'tiny'
  config.total_steps = 2
  config.model.name = 'resnet18'
  config.optimizer.weight_decay = 1e-4
  with config.unlocked():
    config.model.stage_sizes = (1,)
    config.model.width = 2
  return common.with_variant(config, variant, VARIANTS, default='str')

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': {'method.name': 'str', 'method.init_value': -3200.0},
  'filter': {
    'method.name': 'str',
    'method.init_value': -5.0,
    'method.granularity': 'filter',
  },
}
"""


def variables(method, arch='resnet18', sizes=TINY, channels=1, classes=10):
  model = models.create(arch, num_classes=classes, method=method, **sizes)
  images = jax.ShapeDtypeStruct((1, 16, 16, channels), 'float32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: (
      np.full(leaf.shape, -1.5, 'f') - rng.random(leaf.shape, 'f')
      if max(leaf.shape) == 1
      else rng.uniform(-0.1, 1, leaf.shape).astype('f')
    ),
    shapes,
  )


@pytest.fixture
def tiny(tmp_path, monkeypatch):
  """A folder with a config, an STR network and a dense one."""
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  monkeypatch.setattr(page, 'write', lambda directory: directory)
  (tmp_path / 'tiny.py').write_text(CONFIG)
  for name, method in (('str', METHOD), ('dense', None)):
    state_dict = interop.to_state_dict(method, variables(method), 'resnet18')
    if method:  # as DataParallel saves it
      state_dict = {f'module.{k}': v for k, v in state_dict.items()}
    files.write(tmp_path / f'{name}.safetensors', state_dict, {'epoch': '9'})
  return tmp_path


def take(folder, name, *more, variant=None):
  variant = name if variant is None else variant
  arguments = [
    *('import', f'{folder / name}.safetensors', '--arch=resnet18'),
    *(f'--out={folder / "out"}', f'--config={folder / "tiny.py"}:{variant}'),
  ]
  command_line.main([*arguments, *more])
  return folder / 'out'


def test_an_str_network_stays_one(tiny, capsys, assert_trees_equal):
  out = take(tiny, 'str')
  printed = capsys.readouterr().out
  given = variables(METHOD)
  found = checkpoint.read_variables(out)
  assert_trees_equal(found, given)
  config = json.loads((out / 'config.json').read_text())
  assert config['method'] == config['method'] | {'name': 'str'}
  assert config['optimizer']['weight_decay'] == 1e-4
  assert not config['model']['classifier_bias']
  summary = json.loads((out / 'summary.json').read_text())
  report = str_jax.report.sparsity_report(METHOD, given)
  assert 0.05 < report.sparsity < 0.95
  assert summary['nonzero'] == report.nonzero
  assert summary['steps'] == 0
  assert summary['flops'] < summary['dense_flops']
  thresholds = [row['threshold'] for row in summary['layers']]
  assert len(thresholds) == 4 and all(t > 0.05 for t in thresholds)
  for said in (
    'str.safetensors: a file of safetensors (epoch 9)',
    'resnet18 for 10 classes of digits, images of 8 x 8 x 1',
    '4 thresholds taken, s from -2.',
    f'4 layers, {report.nonzero:,} of {report.weights:,} weights',
    f'python -m str_jax evaluate {out}',
    f'tiny.py:str --config.init_from={out}',
  ):
    assert said in printed
  assert 'not on this machine' not in printed


def test_every_command_takes_the_folder(tiny, capsys):
  """It is evaluated, reported, examined, pruned and trained on at once."""
  out = take(tiny, 'str')
  command_line.main(['evaluate', str(out)])
  assert 'step 0, test: accuracy ' in capsys.readouterr().out
  command_line.main(['report', str(out), f'--csv={tiny / "layers.csv"}'])
  assert len((tiny / 'layers.csv').read_text().splitlines()) == 5
  command_line.main(['doctor', str(out)])
  assert 'dL/ds' in capsys.readouterr().out
  pruned = tiny / 'pruned'
  command_line.main(
    ['snap', str(out), '--target=0.9', f'--out={pruned}', '--norm_batches=0']
  )
  summary = json.loads((pruned / 'summary.json').read_text())
  assert summary['sparsity'] == pytest.approx(0.9, abs=0.01)


def test_it_is_trained_on_by_the_command_that_is_printed(tiny, capsys):
  out = take(tiny, 'str')
  (line,) = [
    line for line in capsys.readouterr().out.splitlines() if 'main.py' in line
  ]
  overrides = shlex.split(line)[3:]
  config, _ = flags.load_config(f'{tiny / "tiny.py"}:str', overrides)
  loop.train(config, tiny / 'run')
  before = checkpoint.read_variables(tiny / 'run', 0)['params']
  after = checkpoint.read_variables(tiny / 'run')['params']
  leaf = 'kernel_threshold'
  assert before['stem'][leaf] == variables(METHOD)['params']['stem'][leaf]
  assert after['stem'][leaf] != before['stem'][leaf]
  assert finish.finished(out)['steps'] == 0  # stays as it was


def test_a_dense_network_with_zeros_is_told_how_to_keep_them(tiny, capsys):
  given = variables(None)
  kernel = given['params']['stem']['kernel']
  given['params']['stem']['kernel'] = np.where(kernel > 0.2, kernel, 0)
  given['params']['classifier']['bias'] = np.ones(10, 'f')
  files.write(
    tiny / 'dense.safetensors',
    interop.to_state_dict(None, given, 'resnet18', conv_classifier=True),
  )
  out = take(tiny, 'dense')
  printed = capsys.readouterr().out
  assert '--config.method.name=frozen' in printed
  assert '--config.model.classifier_bias=True' in printed
  assert json.loads((out / 'summary.json').read_text())['method'] == 'dense'


@pytest.mark.parametrize('given', [METHOD, None], ids=['str', 'dense'])
def test_a_run_starts_from_the_file_itself(given, tmp_path, capsys):
  ours = variables(METHOD, 'resnet8', {}, 3)
  theirs = variables(given, 'resnet8', {}, 3)
  theirs['params']['stem']['kernel'] += 1
  state_dict = interop.to_state_dict(given, theirs, 'resnet8')
  path = tmp_path / 'a.safetensors'
  files.write(path, state_dict)
  init_from.check(path, 'resnet8')
  loaded = init_from.load(path, ours, 'resnet8', METHOD)
  stem, other = loaded['params']['stem'], theirs['params']['stem']
  np.testing.assert_array_equal(stem['kernel'], other['kernel'])
  leaf = 'kernel_threshold'
  expected = (other if given else ours['params']['stem'])[leaf]
  assert stem[leaf] == expected
  assert f'arrays taken from {path}' in capsys.readouterr().out


def test_without_its_data_set(tmp_path, monkeypatch, capsys):
  """The report is whole: layers and FLOPs need no images."""
  monkeypatch.setattr(page, 'write', lambda directory: directory)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  given = variables(None, 'resnet8', {}, 3)
  state_dict = interop.to_state_dict(None, given, 'resnet8')
  files.write(tmp_path / 'a.safetensors', state_dict)
  command_line.main(
    ['import', f'{tmp_path}/a.safetensors', '--arch=resnet8']
    + [f'--out={tmp_path / "out"}']
  )
  summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
  model = models.create('resnet8', num_classes=10)
  flops = str_jax.flops.count(model, (32, 32, 3))
  assert summary['dense_flops'] == sum(flops.values())
  assert summary['dataset'] == 'cifar10'
  assert 'cifar10 is not on this machine' in capsys.readouterr().out


def test_every_known_network_has_a_config():
  assert imported.CONFIGS.keys() == torch_names.FAMILIES.keys()
  assert import_.ARCHS == tuple(torch_names.FAMILIES)  # what --help lists
  for arch, path in imported.CONFIGS.items():
    for variant in ('', ':dense'):
      config, _ = flags.load_config(path + variant)
      assert config.method.name == ('dense' if variant else 'str'), arch


MISTAKES = {
  'import {}/none.pth --arch=resnet18': 'none.pth must be a checkpoint',
  'import {} --arch=resnet18': 'must be a checkpoint, a .safetensors or',
  'import {}/text.safetensors --arch=resnet18': 'cannot be read as one',
  'import {}/str.safetensors --arch=resnet19': (
    'one of resnet18, resnet34, resnet50, '
  ),
  'import {}/str.safetensors --arch=resnet50': (
    'str.safetensors: the state dict must be of resnet50, but it lacks layer1.'
  ),
  'import {0}/str.safetensors --arch=resnet18 --config={0}/tiny.py:dense': (
    'holds STR(init_value='
  ),
  'import {0}/str.safetensors --arch=resnet18 --config={0}/tiny.py:filter': (
    'name one that fits by --config'
  ),
  'import {0}/dense.safetensors --arch=resnet18 --config={0}/tiny.py:str': (
    'holds a dense network, but the config is of STR('
  ),
  'import {0}/str.safetensors --arch=resnet18 --config={0}/tiny.py '
  '--dataset=cifar100': 'takes images of 1 channels and tells 10 classes',
  'import {0}/str.safetensors --arch=resnet18 --config={0}/tiny.py '
  '--dataset=nosuch': 'no TFDS set of that name',
  'import {0}/str.safetensors --arch=resnet18 --config={0}/tiny.py '
  '--config.nosuch=1': 'there is no field nosuch',
  'import {0}/nan.safetensors --arch=resnet18 --config={0}/tiny.py': (
    'holds numbers that are not finite, in conv1.weight: take a checkpoint'
  ),
  'import {0}/ours.safetensors --arch=resnet18 --config={0}/tiny.py': (
    'was written by export under our own names: read it with'
  ),
}


@pytest.mark.parametrize('command', MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command, tiny, capsys):
  (tiny / 'text.safetensors').write_text('no arrays at all' * 9)
  arrays = files.read(tiny / 'dense.safetensors')
  broken = arrays | {'conv1.weight': arrays['conv1.weight'] * np.nan}
  files.write(tiny / 'nan.safetensors', broken)
  dense_file.write(tiny / 'ours.safetensors', {'params': {'a': np.ones(2)}})
  words = shlex.split(f'{command.format(tiny)} --out={tiny}/out')
  with pytest.raises(SystemExit) as end:
    command_line.main(words)
  error = capsys.readouterr().err
  assert end.value.code == 2
  assert MISTAKES[command] in error
  assert error.startswith('error: ') and error.count('\n') == 1
  assert not (tiny / 'out').exists()


def test_what_is_there_already_stays(tiny, capsys):
  (tiny / 'out').mkdir()
  with pytest.raises(SystemExit):
    take(tiny, 'str')
  assert 'out is to hold the imported network, but is there already' in (
    capsys.readouterr().err
  )
  assert not [*pathlib.Path(tiny / 'out').iterdir()]


def test_a_folder_that_appears_meanwhile_stays(tiny, monkeypatch, capsys):
  read = imported.read

  def slow(*args):
    (tiny / 'out').mkdir()
    (tiny / 'out' / 'of another').touch()
    return read(*args)

  monkeypatch.setattr(imported, 'read', slow)
  with pytest.raises(SystemExit):
    take(tiny, 'dense')
  assert 'is there already: name another folder' in capsys.readouterr().err
  assert [path.name for path in (tiny / 'out').iterdir()] == ['of another']


def test_a_folder_that_comes_to_nothing_is_removed(tiny, monkeypatch):
  def full(directory):
    assert (directory / 'checkpoints').is_dir()
    raise OSError('the disk is full')

  monkeypatch.setattr(page, 'write', full)
  with pytest.raises(SystemExit):
    take(tiny, 'dense')
  assert not (tiny / 'out').exists()


@pytest.mark.parametrize(
  ('name', 'arch', 'message'),
  [
    ('none.pth', 'resnet18', 'there is no such file'),
    ('dense.safetensors', 'resnet50', 'must be of resnet50, but it lacks'),
    ('dense.safetensors', 'convnet', 'arch must be a model whose PyTorch'),
  ],
)
def test_a_file_that_no_run_can_start_from(name, arch, message, tiny):
  """It is refused before the folder of the new run is made."""
  with pytest.raises((ValueError, OSError), match=message):
    init_from.check(tiny / name, arch)
