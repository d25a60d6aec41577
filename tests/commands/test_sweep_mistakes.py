"""What `python -m str_jax sweep` refuses, before it begins a run."""

import re

import pytest
from quick_sweeps import ROOT, begun, error_of, sweep

MISTAKES = [
  ('method.nosuch=1,2', [], 'there is no field method.nosuch'),
  ('method.sparsity=0.8,much', [], 'method.sparsity needs a number or None'),
  ('method.sparsity=0.8,nan', [], "needs a number or None, got 'nan'"),
  (
    'batch_size=8,0',
    [],
    'batch_size=0,seed=0: batch_size must be 1 or more, got 0',
  ),
  # What the trainer alone would refuse, in any run.
  ('method.sparsity=0.8,1.5', [], 'sparsity=1.5,seed=0: ST3 needs a sparsity'),
  (
    'method.name=st3,str',
    [],
    'method=str,seed=0: .* no method.sparsity.*digits.py:str, or',
  ),
  ('model.name=convnet,resnt8', [], "model=resnt8.* no model 'resnt8'"),
  (
    'model.patch=4,0',
    ['--config.model.name=vit_micro'],
    'patch=0.*needs patch',
  ),
  ('optimizer.name=sgd,lion', [], 'optimizer=lion.* one of sgd, adam, adamw'),
  ('total_steps=1000,300', [], 'total_steps=300.* method.end must lie within'),
  ('method.target_nonzero=9,0', ['--config.method.sparsity=None'], 'got 0'),
  ('init_from=none,none/too', [], 'none,seed=0: none/config.json is missing'),
  ('imp.sparsity=0.5,1', ['--config.imp.rounds=2'], 'imp prunes between'),
  ('dataset=digits,digts', [], 'digts'),
  ('method.sparsity=', [], 'needs a field and values with commas'),
  ('method.sparsity', [], "0.8,0.9, got 'method.sparsity'"),
  ('method.sparsity=0.8,,0.9', [], 'needs a field and values with commas'),
  ('method.sparsity=0.9,0.90', [], 'sparsity=0.90,seed=0 are the same run'),
  ('seed=1,2', [], 'give the seeds as --seeds'),
  ('batch_size=8', ['--over=batch_size=16'], 'batch_size is given twice'),
  ('batch_size=8', ['--config.batch_size=4'], 'is both set by --config.batch'),
  ('batch_size=8', ['--seeds=0'], "needs how many, as 3 for .*, got '0'"),
  ('batch_size=8', ['--seeds=2026101'], 'by --config.seed=2026101'),
  ('=8', [], "needs a field and values with commas .* got '=8'"),
  ('batch_size=8', ['--seeds=-1'], "got '-1'"),
  ('batch_size=8', ['--seeds=1,1'], "got '1,1'"),
  ('batch_size=8', ['--seeds=two'], "got 'two'"),
  ('batch_size=8', ['--seeds=2', '--config.seed=1'], 'seed is both set'),
  ('batch_size=8', ['--out=main.py'], 'must be a folder, but main.py is a'),
  ('batch_size=8', ['--out=run'], 'but run is that of a run'),
  ('method.budget=a/b.csv,a_b.csv', [], 'a/b.csv'),
]


@pytest.mark.parametrize(('over', 'arguments', 'sentence'), MISTAKES)
def test_a_mistake_is_one_sentence_before_any_run(
  over, arguments, sentence, folder, capsys
):
  (folder / 'run').mkdir()
  (folder / 'run' / 'config.json').touch()
  error = error_of(capsys, *arguments, over=over)
  assert re.search(sentence, error), error
  assert not (folder / 'out').exists() and not begun(folder)


def test_without_the_trainer(folder, capsys):
  (folder / 'main.py').unlink()
  assert 'sweep starts main.py, which is not in this' in error_of(capsys)


def test_print_needs_no_data(folder, capsys):
  """The runs may be another machine's; wrong values are none anywhere."""
  spec = f'--config={ROOT}/configs/cifar10.py:st3-95'
  for data in ('--config.data_dir=none', '--config.dataset=own'):
    sweep('--print', spec, data)
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert 'none' in error_of(capsys, spec, '--config.data_dir=none')
    error = error_of(
      capsys, '--print', spec, data, over='method.sparsity=0.8,1.5'
    )
    assert 'sparsity=1.5,seed=0: ST3 needs a sparsity' in error
