"""Mistakes at `python -m str_jax export` are one sentence each."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import pytest
from network_folders import images

from str_jax import budgets, models
from str_jax.interop import (
  dense_file,
  sparse_file,
)


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
    (['--to=a.pth', '--compact'], 'does not go with a.pth.*: leave it out'),
    (['--to=b.csv', '--out=b.txt'], "--out must end .* in '.csv'; got b.txt"),
    (['--to=b.csv', '--checkpoint=7'], "has no checkpoint '7'; it has 4, last"),
    (['--to=a.pth'], 'a convnet has no names of PyTorch, as resnet18'),
    (['--to=b.csv', '--compact'], 'does not go with b.csv'),
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


def test_a_shape_that_the_network_does_not_take(export, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, 'flatbuffers', sys)  # not needed so far
  with pytest.raises(SystemExit):
    export('convnet', '--to=a.stablehlo', '--image_shape=8,8,3')
  error = capsys.readouterr().err
  assert 'does not take images of 8,8,3' in error and error.count('\n') == 1


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


@pytest.mark.parametrize(
  ('name', 'sizes'),
  [
    ('convnet', {}),
    ('wrn_34_2', {}),
    ('vgg16_st3', {}),
    ('resnet20', {'width': 64}),  # the class's own, and not the name's
    ('wrn_28_10', {'widen': 2}),
    ('vgg11', {'stage_sizes': (2, 2, 3, 3, 3)}),
    ('resnet18', {'stage_sizes': (3, 4, 6, 3)}),
  ],
)
def test_settings_make_a_model_again(name, sizes):
  model = models.create(name, num_classes=7, classifier_bias=True, **sizes)
  again = models.create(name, **dense_file.settings(model, name))
  assert dense_file.settings(again, name) == dense_file.settings(model, name)
  shapes = [
    jax.tree.map(
      jnp.shape,
      jax.eval_shape(m.init, jax.random.key(0), images((1, 32, 32, 3))),
    )
    for m in (model, again)
  ]
  assert shapes[0] == shapes[1]
