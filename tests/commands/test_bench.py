"""`python -m str_jax bench`: the tables, and mistakes in one sentence."""

import os
import re

import pytest

from str_jax import __main__ as command_line
from str_jax.inference import comparison, native


@pytest.fixture
def bench(runs, capsys, monkeypatch):
  """Runs the command on a run's folder; returns what it printed."""
  monkeypatch.setattr(comparison, '_LEAST_SECONDS', 0.0)
  monkeypatch.setattr(comparison, '_PAUSE_SECONDS', 0.0)
  monkeypatch.setattr(comparison.importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setenv('COLUMNS', '100')

  def bench(arch, *arguments):
    capsys.readouterr()
    command_line.main(['bench', str(runs(arch)[0]), *arguments])
    return capsys.readouterr().out

  return bench


def test_it_prints_layers_and_programs(bench, no_data):
  printed = bench('convnet', '--batch=1,2', '--image_shape=8,8,1')
  assert 'convnet,' in printed and 'of the weights are zero' in printed
  for batch in (1, 2):
    assert f'batch {batch}, ' in printed
    rows = re.findall(r'^ +(stem|conv1|classifier) +\d', printed, re.M)
    assert len(rows) == 6
  assert re.search(r'^ +str_jax +[\d.]+ +1\.00 ', printed, re.M)
  assert re.search(r'^ +XLA, dense +[\d.]+ +[\d.]+ ', printed, re.M)
  assert 'not measured, as not installed: onnx and onnxruntime, tor' in printed
  verdict = r'layers by sparse kernels; [\d.]+ times as fast|SLOWER, [\d.]+ tim'
  assert len(re.findall(verdict, printed)) == 2


def test_without_the_kernels_it_says_so(bench, monkeypatch):
  def register():
    raise native.Missing('no compiler was found.')

  monkeypatch.setattr(native, 'register', register)
  printed = bench('resnet20', '--batch=1', '--image_shape=8,8,1')
  assert 'plain JAX, as no compiler was found.' in printed
  assert 'str_jax, dense' not in printed  # it is XLA's


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--threads=0'], r'--threads must be from 1 to the \d+ CPUs'),
    (['--threads=4096'], 'CPUs here, got 4096'),
    (['--batch=0'], "numbers of 1 or more are wanted.*got '0'"),
    (['--batch=1,x'], "got '1,x'"),
    (['--image_shape=8,8'], 'three numbers, as 224,224,3, got 8,8'),
    (['--image_shape=8,8,3'], 'stem wants 1 channels, but gets 3'),
    (['--checkpoint=7'], "has no checkpoint '7'"),
  ],
  ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_mistakes_are_one_sentence(arguments, sentence, bench, capsys):
  with pytest.raises(SystemExit) as end:
    bench('convnet', *arguments)
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert re.search(sentence, error) and 'Traceback' not in error


@pytest.mark.parametrize('arch', ['vit_micro', 'fastgrnn'])
def test_any_other_model_layer_by_layer(bench, arch, capsys):
  printed = bench(arch, '--batch=1', '--image_shape=8,8,1')
  assert re.search(r'^ +str_jax +[\d.]+ +1\.00 ', printed, re.M)
  assert re.search(r'^ +XLA, dense +[\d.]+ +[\d.]+ ', printed, re.M)
  assert re.search(r'1 at a time: \d+ of \d+ layers by sparse ker', printed)
  assert 'NO VERDICT' not in printed
  with pytest.raises(SystemExit):
    bench(arch, '--image_shape=8,8,5')
  assert 'give their own by --image_shape' in capsys.readouterr().err


def test_threads_are_cpus(bench):
  before = os.sched_getaffinity(0)
  try:
    assert ' 1 thread\n' in bench(
      'convnet', '--threads=1', '--batch=1', '--image_shape=8,8,1'
    )
    assert len(os.sched_getaffinity(0)) == 1
  finally:
    os.sched_setaffinity(0, before)
