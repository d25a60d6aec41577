"""`python -m str_jax export`: every kind of file, from a run's folder alone."""

import hashlib
import json
import re

import jax
import numpy as np
import pytest
from flax import linen as nn
from network_folders import images

import str_jax
from str_jax import budgets, models, report
from str_jax.interop import (
  c_header,
  dense_file,
  files,
  sparse_file,
  stablehlo,
  torch,
)
from str_jax.training import checkpoint


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
