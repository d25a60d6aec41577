"""`python -m str_jax export`: every kind of file, from a run's folder alone."""

import contextlib
import hashlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import str_jax
from configs import common
from str_jax import __main__ as command_line
from str_jax import budgets, models, paths, report
from str_jax.interop import (
  c_header,
  dense_file,
  files,
  sparse_file,
  stablehlo,
  torch,
)
from str_jax.training import build, checkpoint, setup, workdir
from str_jax.training import state as states

MODELS = {
  'convnet': {'model.widths': (4, 8), 'model.dtype': 'bfloat16'},
  'resnet20': {'model.stage_sizes': (1, 1), 'model.width': 4},
  'fastgrnn': {'model.hidden': 6, 'model.gated': True, 'method.g': 'exp'},
}
STR = {'method.name': 'str', 'method.init_value': -3.0, 'dataset': 'digits'}


def images(shape=(3, 8, 8, 1)):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def make(directory, arch):
  """The folder of a run with a checkpoint, as if it had been trained."""
  config = common.get_config()
  config.update_from_flattened_dict(STR | {'model.name': arch})
  with config.unlocked():
    config.update_from_flattened_dict(MODELS[arch])
  workdir.claim(directory, config)
  method = build.method(config.method)
  model = build.model(config, 10, method)
  leaves = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = paths.path_names(path)[-1]
    if name == paths.THRESHOLD:
      return jnp.full(leaf.shape, -3.0)  # 0.05 on abs(w)
    low = 0.1 if name == 'var' else -0.3
    return jnp.asarray(rng.uniform(low, 0.3, leaf.shape), 'f')

  variables = jax.tree_util.tree_map_with_path(draw, leaves)
  saved = checkpoint.Checkpoints(directory / 'checkpoints')
  with contextlib.closing(saved):
    saved.save(states.from_variables(variables, optax.sgd(0.1), 4))
  return variables


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """From an arch to its run's folder and what that holds."""
  made = {}

  def get(arch):
    if arch not in made:
      folder = tmp_path_factory.mktemp(arch) / 'run'
      made[arch] = folder, make(folder, arch)
    return made[arch]

  return get


@pytest.fixture
def export(runs, tmp_path, monkeypatch, capsys):
  """Runs the command in a folder of its own; returns what it printed."""
  monkeypatch.chdir(tmp_path)

  def export(arch, *arguments):
    folder = runs(arch)[0] if arch in MODELS else arch
    capsys.readouterr()
    command_line.main(['export', str(folder), *arguments])
    return capsys.readouterr().out

  return export


@pytest.fixture
def no_data(monkeypatch):
  def missing(config):
    raise FileNotFoundError('the data set is not here')

  monkeypatch.setattr(setup, 'dataset', missing)


def effective(variables):
  method = str_jax.methods.create('str', init_value=-3.0)
  return jax.tree.map(np.asarray, str_jax.freeze(method, variables))


@pytest.mark.usefixtures('no_data')
def test_dense_into_plain_flax(export, runs):
  printed = export('convnet', '--to=dense.safetensors')
  metadata, variables = dense_file.read('dense.safetensors')
  expected = effective(runs('convnet')[1])
  leaves, wanted = map(dense_file.flatten, (variables, expected))
  assert leaves.keys() == wanted.keys()
  for name, leaf in leaves.items():
    np.testing.assert_array_equal(leaf, wanted[name], strict=True)
    assert not np.signbit(leaf[leaf == 0]).any()
  assert report.sparsity_report(None, variables).sparsity > 0.05
  assert metadata['arch'] == 'convnet' and metadata['step'] == 4
  assert 'init_value=-3.0' in metadata['method']
  plain = models.ConvNet(
    num_classes=10, widths=(4, 8), conv=nn.Conv, dense=nn.Dense
  )
  sparse = models.create(
    'convnet',
    num_classes=10,
    widths=(4, 8),
    method=str_jax.methods.create('str', init_value=-3.0),
  )
  rebuilt = models.create(**metadata['model'])
  logits = jax.jit(rebuilt.apply)(variables, images())
  np.testing.assert_allclose(
    logits, sparse.apply(runs('convnet')[1], images()), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    logits, plain.apply(variables, images()), rtol=1e-5, atol=1e-6
  )
  data = (open('dense.safetensors', 'rb')).read()
  size = 4 * sum(leaf.size for leaf in leaves.values())
  assert f'{len(data):,} bytes' in printed and f'of the {size:,} of' in printed
  assert f'sha256 {hashlib.sha256(data).hexdigest()}' in printed


@pytest.mark.usefixtures('no_data')
@pytest.mark.parametrize('values', ['float32', 'bfloat16', 'int8'])
def test_sparse_in_three_types_of_values(values, export, runs):
  printed = export(
    'convnet', '--to=my-sparse.safetensors', f'--values={values}'
  )
  metadata, variables = sparse_file.read('my-sparse.safetensors')
  assert metadata['values'] == values
  expected = effective(runs('convnet')[1])
  off, _ = sparse_file.rounding(expected, variables)
  if values == 'float32':
    assert off == 0 and 'float32 values equal the weights bit' in printed
  else:
    most = {'bfloat16': 2**-8, 'int8': 1 / 254 + 1e-6}[values]
    assert 0 < off <= most and f'off by at most {off:.2%}' in printed
  model = models.create(**metadata['model'])
  assert model.apply(variables, images()).shape == (3, 10)


@pytest.mark.usefixtures('no_data')
def test_masks_and_budgets(export, runs):
  variables = effective(runs('convnet')[1])
  export('convnet', '--to=masks.safetensors')
  _, masks = sparse_file.read_masks('masks.safetensors')
  export('convnet', '--to=b.csv')
  rows = report.sparsity_report(None, variables).rows
  assert [*masks] == [row.name for row in rows]
  assert {k: int(m.sum()) for k, m in masks.items()} == {
    row.name: row.nonzero for row in rows
  }
  assert budgets.read_csv('b.csv') == {row.name: row.sparsity for row in rows}


@pytest.mark.usefixtures('no_data')
def test_pytorchs_names(export, runs):
  export('resnet20', '--to=torch.safetensors')
  sizes = {'stage_sizes': (1, 1), 'width': 4}
  method, variables = torch.from_state_dict(
    files.read('torch.safetensors'), 'resnet20', **sizes
  )
  assert method is None
  expected = dense_file.flatten(effective(runs('resnet20')[1]))
  for name, leaf in dense_file.flatten(variables).items():
    np.testing.assert_array_equal(leaf, expected[name])
  export('resnet20', '--to=t-torch.safetensors', '--thresholds')
  method, variables = torch.from_state_dict(
    files.read('t-torch.safetensors'), 'resnet20', **sizes
  )
  assert method == str_jax.methods.STR(init_value=-3.0)
  raw = dense_file.flatten(runs('resnet20')[1])
  for name, leaf in dense_file.flatten(variables).items():
    np.testing.assert_array_equal(leaf, raw[name])


def test_a_file_of_pytorch(export):
  load = pytest.importorskip('torch').load
  export('resnet20', '--to=model.pth')
  export('resnet20', '--to=torch.safetensors')
  expected = files.read('torch.safetensors')
  found = load('model.pth', weights_only=True)
  assert found.keys() == expected.keys()
  for name, tensor in found.items():
    np.testing.assert_array_equal(tensor.numpy(), expected[name])


def test_stablehlo(export, runs):
  pytest.importorskip('flatbuffers')
  printed = export('convnet', '--to=net.stablehlo')
  program = jax.export.deserialize(
    bytearray(open('net.stablehlo', 'rb').read())
  )
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  model = models.create('convnet', num_classes=10, widths=(4, 8))
  expected = model.apply(effective(runs('convnet')[1]), images())
  for n in (1, 3):
    np.testing.assert_allclose(
      program.call(images()[:n]), expected[:n], rtol=1e-5, atol=1e-6
    )
  (off,) = re.findall(r'off by ([\d.e+-]+) at most', printed)
  assert float(off) < 1e-5


@pytest.mark.usefixtures('no_data')
def test_the_shape_of_an_image_without_the_data(
  export, runs, tmp_path, monkeypatch, capsys
):
  asked = []

  def write(path, model, variables, image_shape, batch):
    path.write_text('')
    asked.append((image_shape, batch))
    return 0.0

  monkeypatch.setattr(stablehlo, 'write', write)
  folder = tmp_path / 'elsewhere'
  folder.mkdir()
  (folder / 'checkpoints').symlink_to(runs('convnet')[0] / 'checkpoints')
  config = json.loads((runs('convnet')[0] / 'config.json').read_text())
  own = {'dataset': 'imagenet2012', 'image_size': 12}
  for fields, arguments, expected in (
    (own, ['--image_shape=9,7,1'], ((9, 7, 1), None)),
    (own, [], ((12, 12, 1), None)),
    ({'dataset': 'imagenet2012'}, ['--batch=2'], ((224, 224, 1), 2)),
  ):
    (folder / 'config.json').write_text(json.dumps(config | fields))
    export(folder, '--to=stablehlo', '--overwrite', *arguments)
    assert asked.pop() == expected
  (folder / 'config.json').write_text(json.dumps(config | {'dataset': 'birds'}))
  with pytest.raises(SystemExit):
    export(folder, '--to=a.stablehlo')
  assert 'image of birds, and the data set is not' in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore:jax.core.DropVar is:DeprecationWarning')
def test_onnx(export, runs):
  runtime = pytest.importorskip('onnxruntime')
  printed = export('convnet', '--to=model.onnx')
  session = runtime.InferenceSession('model.onnx')
  (logits,) = session.run(['logits'], {'images': images()})
  model = models.create('convnet', num_classes=10, widths=(4, 8))
  expected = model.apply(effective(runs('convnet')[1]), images())
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  assert 'run on random images: its logits are off by' in printed


def test_compact_is_what_compaction_gives(export, runs, monkeypatch):
  """Dead filters go, the metadata builds the smaller model."""
  read = checkpoint.read_variables

  def with_dead_filters(*arguments):
    variables = read(*arguments)
    kernel = variables['params']['stem']['kernel'].copy()
    kernel[..., 1:3] = 0  # their constants need one channel yet
    variables['params']['stem']['kernel'] = kernel
    return variables

  monkeypatch.setattr(checkpoint, 'read_variables', with_dead_filters)
  export('convnet', '--to=large-dense.safetensors')
  printed = export('convnet', '--to=dense.safetensors', '--compact')
  metadata, small = dense_file.read('dense.safetensors')
  before, large = dense_file.read('large-dense.safetensors')
  assert small['params']['stem']['kernel'].shape == (3, 3, 1, 3)
  assert metadata['model'] == before['model'] | {'channels': {'stem': 3}}
  np.testing.assert_allclose(
    models.create(**metadata['model']).apply(small, images()),
    models.create(**before['model']).apply(large, images()),
    rtol=1e-5,
    atol=1e-6,
  )
  size = 4 * sum(leaf.size for leaf in dense_file.flatten(large).values())
  assert f'of the {size:,} of dense float32' in printed


@pytest.mark.parametrize('compact', [[], ['--compact']])
def test_a_cell_in_c(export, compact, monkeypatch):
  seen = []

  def write(path, model, variables, values):
    path.write_text('// c')
    logits = model.apply(variables, images((2, 5, 8, 1)))
    seen.append((model, values, logits))
    return f'{path.name}: 7 bytes of memory'

  monkeypatch.setattr(c_header, 'write', write)
  printed = export('fastgrnn', '--to=cell.h', '--values=int8', *compact)
  assert '\ncell.h: 7 bytes of memory' in printed
  assert open('cell.h').read() == '// c'
  ((model, values, logits),) = seen
  assert values == 'int8' and model.gated != bool(compact)
  assert model.method is None and logits.shape == (2, 10)


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--to=a.tflite'], 'ends in one of dense.safetensors, .*got a.tflite'),
    (['--to=a.safetensors'], 'ends in one of .*; got a.safetensors'),
    (['--to=no/b.csv'], 'no/b.csv cannot be written: name a file in a folder'),
    (['--to=there.csv'], 'there.csv is there already: .* --overwrite'),
    (['--to=b.csv', '--values=int8'], '--values does nothing for b.csv'),
    (['--to=b.csv', '--thresholds'], '--thresholds does nothing for b.csv'),
    (['--to=a.pth', '--batch=1'], '--batch does nothing for a.pth'),
    (['--to=a.onnx', '--batch=0'], '--batch must be 1 or more, got 0'),
    (['--to=a.pth', '--thresholds', '--compact'], 'leave one out'),
    (['--to=b.csv', '--out=b.txt'], "--out must end .* in '.csv'; got b.txt"),
    (['--to=b.csv', '--checkpoint=7'], "has no checkpoint '7'; it has 4, last"),
    (['--to=a.pth'], 'one of resnet18, .*mobilenet_v1; got .convnet'),
    (['--to=a.h'], 'FastGRNN'),
    (['--to=a.onnx', '--image_shape=3,3'], "wanted, as 224,224,3; got '3,3'"),
  ],
  ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_a_wrong_call_is_one_sentence(
  arguments, sentence, export, tmp_path, capsys
):
  (tmp_path / 'there.csv').write_text('mine')
  with pytest.raises(SystemExit) as stopped:
    export('convnet', *arguments)
  assert stopped.value.code == 2
  error = capsys.readouterr().err
  assert re.search(sentence, error) and 'Traceback' not in error
  assert [path.name for path in tmp_path.iterdir()] == ['there.csv']
  assert (tmp_path / 'there.csv').read_text() == 'mine'


def test_folders_that_are_none_of_a_run(export, runs, tmp_path, capsys):
  config = json.loads((runs('convnet')[0] / 'config.json').read_text())
  for content, sentence in (
    (None, 'config.json is missing: name the folder of a training run'),
    ({}, 'config.json lacks dataset, method, model, optimizer'),
    (config | {'imp': {'rounds': 3}}, 'holds several runs: .*round-3'),
    (config, "has no checkpoint 'last'; it has none"),
  ):
    if content is not None:
      (tmp_path / 'config.json').write_text(json.dumps(content))
    with pytest.raises(SystemExit):
      export(tmp_path, '--to=b.csv')
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
  ('package', 'to'),
  [
    ('torch', 'a.pth'),
    ('jax2onnx', 'a.onnx'),
    ('flatbuffers', 'stablehlo'),
    ('safetensors.numpy', 'dense.safetensors'),
  ],
)
def test_a_missing_package(package, to, export, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, package, None)
  arch = 'resnet20' if package == 'torch' else 'convnet'
  with pytest.raises(SystemExit):
    export(arch, f'--to={to}')
  error = capsys.readouterr().err
  assert package.partition('.')[0] in error and 'pip install' in error
  assert not [*tmp_path.iterdir()]


def test_a_failure_leaves_the_file_that_was_there(
  export, tmp_path, monkeypatch, capsys
):
  export('convnet', '--to=b.csv')
  before = (tmp_path / 'b.csv').read_bytes()

  def fails(path, budget):
    path.write_text('half')
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(budgets, 'write_csv', fails)
    with pytest.raises(SystemExit):
      export('convnet', '--to=b.csv', '--overwrite')
  assert 'b.csv cannot be written (No space left' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['b.csv']
  assert (tmp_path / 'b.csv').read_bytes() == before
  (tmp_path / 'b.csv').write_text('old')
  export('convnet', '--to=b.csv', '--overwrite')
  assert (tmp_path / 'b.csv').read_bytes() == before


def test_another_name_than_the_kind(export, tmp_path):
  export('convnet', '--to=sparse.safetensors', '--out=small.safetensors')
  assert [path.name for path in tmp_path.iterdir()] == ['small.safetensors']
  assert sparse_file.read('small.safetensors')[0]['format'] == 'sparse'


@pytest.mark.parametrize('name', ['convnet', 'wrn_34_2', 'vgg16_st3'])
def test_settings_make_a_model_again(name):
  model = models.create(name, num_classes=7, classifier_bias=True)
  again = models.create(name, **dense_file.settings(model))
  assert dense_file.settings(again) == dense_file.settings(model)
  shapes = [
    jax.tree.map(
      jnp.shape,
      jax.eval_shape(m.init, jax.random.key(0), images((1, 32, 32, 3))),
    )
    for m in (model, again)
  ]
  assert shapes[0] == shapes[1]
